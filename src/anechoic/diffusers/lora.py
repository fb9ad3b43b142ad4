"""LoRA on a pipeline: several adapters, each with a weight that can change between generations.

The pipeline's own weights are changed, so a generation takes as long as without, and a guard sees
the model as it is. The weights that were there are kept on the CPU until `fuse`.

    adapter = lora.apply(pipe, "my-lora.safetensors")
    adapter.weight = 0.5
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anechoic.diffusers.fingerprints import RECORD, AdapterRecord
from anechoic.diffusers.lora_files import (
    AdapterFile,
    WeightUpdate,
    read_adapter,
    stable_audio_names,
)
from anechoic.diffusers.pipelines import adapter_for
from anechoic.engine.model import names_any, weights_fingerprint
from anechoic.errors import BadSetting

FUSED = "the adapters of this pipeline are fused, so {}; load the pipeline again"


@dataclass(eq=False)
class _Applied:
    """One adapter, as it is applied."""

    file: AdapterFile
    updates: list[WeightUpdate]
    weight: float
    fused: bool = False


@dataclass
class _Adapters(AdapterRecord):
    """All adapters of a network, and the weights as they were without."""

    applied: list[_Applied] = field(default_factory=list)
    originals: dict[str, Tensor] = field(default_factory=dict)  # on the CPU, by name


@dataclass(eq=False)
class Lora:
    """An adapter of a pipeline."""

    _pipe: Any
    _applied: _Applied

    @property
    def name(self) -> str:
        """What sentences call it."""
        return self._applied.file.name

    @property
    def file(self) -> Path:
        """The file that it was read from."""
        return self._applied.file.path

    @property
    def fingerprint(self) -> str:
        """A short name of its tensors, which an index of its training clips carries."""
        return self._applied.file.fingerprint

    @property
    def weight(self) -> float:
        """How much of it there is: 0 is the model without it, 1 as it was trained."""
        return self._applied.weight

    @weight.setter
    def weight(self, weight: float) -> None:
        adapters = _of(self._pipe)
        require_weight(weight)
        if self._applied.fused:
            raise BadSetting(FUSED.format("their weights cannot be changed"))
        if self._applied not in adapters.applied:
            raise BadSetting(f"{self._applied.file.name} was removed; apply it again")
        self._applied.weight = float(weight)
        _write(self._pipe, adapters)

    def remove(self) -> None:
        """Take it off the pipeline, whose weights are then bit for bit what they were before.

        Raises:
            BadSetting: it was fused.
        """
        self.weight = 0.0
        _of(self._pipe).applied.remove(self._applied)


def apply(pipe: Any, file: str | Path, weight: float = 1.0) -> Lora:
    """Apply an adapter to a pipeline, after those that it has.

    Args:
        pipe: a diffusers pipeline that `guard` knows.
        file: a safetensors file of peft, diffusers or stable-audio-tools, or the folder of one.
        weight: how much of it; 1 as it was trained.

    Returns:
        The adapter, whose `weight` can be changed between generations.

    Raises:
        BadSetting: no such file, a kind of adapter that is not known, one of another model, or
            values that are not finite.
        UnsupportedPipeline: a pipeline that `guard` does not know.

    Example:
        adapter = apply(pipe, "my-lora.safetensors", 0.8)
    """
    require_weight(weight)
    read = read_adapter(file)
    adapters = _of(pipe)
    if any(one.file.fingerprint == read.fingerprint for one in adapters.applied):
        raise BadSetting(f"{read.name} is applied already; change its weight in its place")
    updates = read.updates(_names(pipe, read))
    made = []
    for update in updates:
        weights = [_weight(pipe, name) for name in update.names]
        out, into = sum(len(one) for one in weights), weights[0][0].numel()
        update.require_shape(out, into, read.name)
        if update.down is None and any(one.fused for one in adapters.applied):
            raise BadSetting(FUSED.format(f"{read.name} cannot find the singular vectors"))
        known = [adapters.originals.get(n, w) for n, w in zip(update.names, weights, strict=True)]
        made.append(update.between(_matrix(known)))
    for name in {name for update in made for name in update.names}:
        if name not in adapters.originals:
            # a copy, also where it is on the CPU already
            adapters.originals[name] = _weight(pipe, name).detach().to("cpu", copy=True)
    one = _Applied(read, made, float(weight))
    adapters.applied.append(one)
    _write(pipe, adapters)
    return Lora(pipe, one)


def applied(pipe: Any) -> tuple[Lora, ...]:
    """The adapters of a pipeline, in the order in which they were applied."""
    return tuple(Lora(pipe, one) for one in _of(pipe).applied)


def fuse(pipe: Any) -> None:
    """Give up the weights as they were before the adapters, and their memory.

    The pipeline generates what it did, and its adapters stay known.
    """
    adapters = _of(pipe)
    adapters.originals.clear()
    for one in adapters.applied:
        one.fused = True


def apply_all(pipe: Any, texts: Iterable[str]) -> None:
    """Apply adapters that are given as text, FILE or FILE:WEIGHT, and fuse them.

    Raises:
        BadSetting: as `apply`; or a text of another form.
    """
    for file, weight in map(parse, texts):
        apply(pipe, file, weight)
    fuse(pipe)


def parse(text: str) -> tuple[str, float]:
    """The file and the weight of FILE or FILE:WEIGHT.

    >>> parse("my-lora.safetensors:0.5"), parse("my-lora.safetensors")
    (('my-lora.safetensors', 0.5), ('my-lora.safetensors', 1.0))
    """
    file, colon, number = text.rpartition(":")
    if not colon or Path(text).exists():
        return text, 1.0
    try:
        weight = float(number)
    except ValueError:
        return text, 1.0  # as in C:\lora.safetensors
    require_weight(weight)
    return file, weight


def require_weight(weight: float) -> None:
    """Refuse a weight that is not a finite number."""
    if not math.isfinite(weight):
        raise BadSetting(f"the weight of a LoRA is a finite number, got {weight}")


def read_all(texts: Sequence[str]) -> list[tuple[AdapterFile, float]]:
    """The adapters that texts name, and their weights, before any model is loaded.

    Raises:
        BadSetting: as `read_adapter`.
    """
    return [(read_adapter(file), weight) for file, weight in map(parse, texts)]


def described(pipe: Any) -> str:
    """The adapters of a pipeline for a report, each with its fingerprint and weight."""
    each = (f"{one.file} ({one.fingerprint}) at {one.weight:g}" for one in applied(pipe))
    return ", ".join(each)


def unknown_clips(adapters: Iterable[Lora | AdapterFile], indexes: Collection[Any]) -> list[str]:
    """A sentence for each adapter whose training clips no index is known to hold."""
    return [
        f"{adapter.name} ({adapter.fingerprint}): no index names it, so its training clips are "
        "neither kept away from nor compared with; index them with 'anechoic index build CLIPS "
        "--lora FILE', and give that index with '--index', too"
        for adapter in adapters
        if not (isinstance(adapter, Lora) and adapter.weight == 0)
        and not names_any(adapter.fingerprint, indexes)
    ]


def _of(pipe: Any) -> _Adapters:
    """The adapters of a pipeline.

    Raises:
        BadSetting: its weights are not here to be read or changed.
    """
    network = _bare(adapter_for(pipe).network)
    if any(weight.is_meta for weight in network.parameters()):
        raise BadSetting(
            "the weights of this pipeline are offloaded; apply adapters, and change their weights, "
            "before enable_sequential_cpu_offload"
        )
    known = getattr(network, RECORD, None)
    weights = weights_fingerprint(network)
    if isinstance(known, _Adapters) and known.weights == weights:
        return known
    made = _Adapters(weights, weights=weights)  # changed since by another hand: another model
    setattr(network, RECORD, made)
    return made


def _bare(module: nn.Module) -> nn.Module:
    found: nn.Module = getattr(module, "_orig_mod", module)  # of torch.compile
    return found


def _names(pipe: Any, read: AdapterFile) -> Callable[[str], tuple[str, ...]]:
    """Finds the weights of a pipeline that a matrix of an adapter's file consists of."""
    there = {
        f"{part}.{name}"
        for part, module in pipe.components.items()
        if isinstance(module, nn.Module)
        for name, _ in _bare(module).named_parameters()
    }
    network = adapter_for(pipe).adapter.network
    if read.written_by == "stable-audio-tools":
        if "projection_model" not in pipe.components or network != "transformer":
            raise BadSetting(
                f"{read.name} was trained by stable-audio-tools on Stable Audio Open, and this is "
                f"a {type(pipe).__name__}; load the model that it was trained on"
            )
        blocks: Any = _bare(pipe.transformer).transformer_blocks
        table = dict(stable_audio_names(len(blocks)))

        def by_table(module: str) -> tuple[str, ...]:
            names = table.get(module, ())
            return names if there.issuperset(names) else ()

        return by_table

    def by_name(module: str) -> tuple[str, ...]:
        name = f"{module}.weight"
        if read.written_by == "peft":  # which knows of the network alone
            name = f"{network}.{name}"
        return (name,) if name in there else ()

    return by_name


def _weight(pipe: Any, name: str) -> Tensor:
    part, _, rest = name.partition(".")
    return _bare(pipe.components[part]).get_parameter(rest)


def _matrix(weights: Sequence[Tensor]) -> Tensor:
    """Weights, one below the other, as a matrix."""
    return torch.cat([weight.detach().flatten(1).float() for weight in weights])


def _write(pipe: Any, adapters: _Adapters) -> None:
    """Write the weights as all adapters together make them, from the originals."""
    updates = [
        (update, one.weight)
        for one in adapters.applied
        if one.weight and not one.fused
        for update in one.updates
    ]
    # what two adapters do to one module may be of other groups of its weights
    for module in dict.fromkeys(name.rsplit(".", 2)[0] for name in adapters.originals):
        names = [name for name in adapters.originals if name.rsplit(".", 2)[0] == module]
        weights = {name: _weight(pipe, name) for name in names}
        now = {name: adapters.originals[name].to(weights[name].device) for name in names}
        for update, weight in updates:
            if update.names[0] in now:
                shapes = [now[name].shape for name in update.names]
                changed = update(_matrix([now[name] for name in update.names]), weight)
                parts = changed.split([shape[0] for shape in shapes])
                for name, part, shape in zip(update.names, parts, shapes, strict=True):
                    now[name] = part.view(shape)
        with torch.no_grad():
            for name, there in weights.items():
                there.copy_(now[name])
    active = tuple(one.file.fingerprint for one in adapters.applied if one.weight)
    adapters.adapters = active
    adapters.weights = weights_fingerprint(_bare(adapter_for(pipe).network))
