"""A call of the network, taken apart into the halves of classifier-free guidance, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from anechoic.diffusers.adapters import Adapter, Text
from anechoic.errors import GuardError

DenoiserInputs = dict[str, Any]  # the network's arguments for one half, by name


def get(arguments: Mapping[str, Any], name: str) -> Any:
    """An argument by its dotted name, or None.

    >>> get({"added": {"ids": 3}}, "added.ids")
    3
    """
    value: Any = arguments
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def put(arguments: Mapping[str, Any], name: str, value: Any) -> DenoiserInputs:
    """The same arguments with another value under a dotted name.

    >>> put({"added": {"ids": 3}}, "added.ids", 4)
    {'added': {'ids': 4}}
    """
    first, _, rest = name.partition(".")
    return {**arguments, first: put(arguments[first], rest, value) if rest else value}


def check_known(adapter: Adapter, arguments: Mapping[str, Any]) -> None:
    """Refuse a call in which a tensor stands that the table does not know.

    Raises:
        GuardError: it is such a call.
    """
    strange = {
        name: value for name, value in arguments.items()
        if name not in adapter.tensors and isinstance(value, Tensor | Mapping | list | tuple)
    }  # fmt: skip
    unknown = strange and sorted({name for name, _ in _tensors(strange)} - adapter.tensors)
    if unknown:
        raise GuardError(
            f"the network was given {', '.join(unknown)}, which a guard of this pipeline does not "
            "know how to split between the two halves; leave out what adds it (an IP-Adapter, a "
            "ControlNet, another hook)"
        )


def halved(rows: int) -> int:
    """The samples of a call with both halves.

    Raises:
        GuardError: there are no two.
    """
    if rows % 2:
        raise GuardError(
            "a network that is called with both halves of classifier-free guidance was expected, "
            f"got {rows} rows; call the pipeline, not its network"
        )
    return rows // 2


def parted(adapter: Adapter, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The conditional and the unconditional half of a tensor of both."""
    half = dict(zip(adapter.order, rows.chunk(2), strict=True))
    return half["cond"], half["uncond"]


def split(adapter: Adapter, arguments: DenoiserInputs) -> tuple[DenoiserInputs, DenoiserInputs]:
    """A batched call taken apart: its conditional and its unconditional half."""
    cond = uncond = arguments
    for name in _in_rows(adapter, arguments):
        one, other = parted(adapter, get(arguments, name))
        cond, uncond = put(cond, name, one), put(uncond, name, other)
    return cond, uncond


def join(
    adapter: Adapter, halves: Sequence[DenoiserInputs], like: DenoiserInputs
) -> DenoiserInputs:
    """The two halves in one batch, as the call was that they are of."""
    joined = like
    for name in _in_rows(adapter, like):
        joined = put(joined, name, torch.cat([get(half, name) for half in halves]))
    return joined


def only(adapter: Adapter, half: DenoiserInputs, sample: int) -> DenoiserInputs:
    """One sample of a half."""
    alone = half
    for name in _in_rows(adapter, half):
        alone = put(alone, name, get(half, name)[sample : sample + 1])
    return alone


def _in_rows(adapter: Adapter, arguments: DenoiserInputs) -> list[str]:
    """Those of the arguments that have one row for each row of the network's input."""
    total = len(arguments[adapter.x])
    values = {name: get(arguments, name) for name in adapter.in_rows}
    return [
        name for name, value in values.items()
        if isinstance(value, Tensor) and value.dim() and len(value) == total
    ]  # fmt: skip


def level(
    adapter: Adapter, uncond: DenoiserInputs, cond: DenoiserInputs
) -> tuple[DenoiserInputs, DenoiserInputs]:
    """Both halves with equally many tokens, so that they can stand in one batch."""
    for text in adapter.text:
        one, other = get(uncond, text.name), get(cond, text.name)
        if one.dim() < 3 or one.shape[1] == other.shape[1]:
            continue
        if text.repeated:
            length = other.shape[1]
            uncond = put(uncond, text.name, one[:, :1].expand(-1, length, -1))
        else:
            length = max(one.shape[1], other.shape[1])
            uncond, cond = (_padded(half, text, length) for half in (uncond, cond))
    return uncond, cond


def _padded(half: DenoiserInputs, text: Text, length: int) -> DenoiserInputs:
    tokens = get(half, text.name)
    missing = length - tokens.shape[1]
    half = put(half, text.name, pad(tokens, (0, 0, 0, missing)))
    return put(half, str(text.mask), pad(get(half, str(text.mask)), (0, missing)))


def _tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors among the arguments, with their dotted names."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _tensors(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _tensors(inner, name)
