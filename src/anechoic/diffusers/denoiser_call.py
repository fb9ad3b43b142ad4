"""A call of the network: its two halves, their prompts, and the network once more.

Some networks are given the words of a prompt in several places: tokens of two encoders, a pooled
embedding. A method that changes the prompt has to reach all of them, or the words come through
where it did not look. So all are laid out as one tensor [b, s, d]: tokens of one width, the
greatest that divides all theirs, one after another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from anechoic.diffusers.adapters import Adapter, Text
from anechoic.diffusers.adapters.adapter import Combine
from anechoic.diffusers.schedules import Schedule
from anechoic.engine.call import EncodedPrompt, Predictions
from anechoic.engine.run import Run
from anechoic.errors import GuardError
from anechoic.guidance.noise import NoiseLevel, Prediction
from anechoic.guidance.step import Condition, Needs, classifier_free

if TYPE_CHECKING:
    from anechoic.diffusers.connection import Connection

DenoiserInputs = dict[str, Any]  # the network's arguments for one half, by name


@dataclass
class PipelineRun:
    """A generation of a pipeline that is running."""

    connection: Connection
    run: Run
    texts: list[str] | None  # None: the pipeline was given encoded prompts
    guided: bool  # whether it has an unconditional half
    schedule: Schedule
    combine: Combine
    waiting: tuple[DenoiserInputs, Tensor] | None = None  # the first of two calls, until the second
    called: tuple[DenoiserCall, Needs] | None = None  # what the network is being called with
    rows: int | None = None  # of the network's input, at each evaluation
    timesteps: Tensor | None = None  # the scheduler's, from the first evaluation on
    steps: int = 0  # that the scheduler has made
    moved: Tensor | None = None  # by how much the guidance moved the network's input since then

    def call(
        self,
        arguments: DenoiserInputs,
        cond: DenoiserInputs | None = None,
        uncond: DenoiserInputs | None = None,
    ) -> DenoiserCall:
        """An evaluation: of both halves in one batch, or of halves that are called one by one."""
        adapter = self.connection.adapter
        x = arguments[adapter.x]
        noise = self.schedule.noise(arguments["timestep"])
        progress = self.schedule.progress(len(self.run.records))
        if cond is None:
            batch, take_apart = halved(len(x)), partial(split, adapter, arguments)
            first = batch * adapter.order.index("cond")
            return DenoiserCall(
                self, batch, noise, progress, lambda: x[first : first + batch], take_apart
            )
        return DenoiserCall(
            self, len(x), noise, progress, lambda: cond[adapter.x], lambda: (cond, uncond)
        )


@dataclass
class DenoiserCall:
    """One evaluation of a pipeline's network: see `anechoic.engine.call.Call`."""

    pipeline: PipelineRun
    batch: int
    noise: NoiseLevel
    progress: float
    latents: Callable[[], Tensor]  # what one half of the network is fed, [b, *latent]
    take_apart: Callable[[], tuple[DenoiserInputs, DenoiserInputs | None]]

    def __post_init__(self) -> None:
        self.decode = self.pipeline.connection.decode

    @property
    def kind(self) -> Prediction:
        return self.pipeline.schedule.kind

    @property
    def guided(self) -> bool:
        return self.pipeline.guided

    @property
    def may_spare(self) -> bool:
        """A compiled network would be compiled anew for the smaller batch, and a guidance of the
        pipeline's own that remembers earlier halves has to see them all."""
        pipeline = self.pipeline
        return not pipeline.connection.compiled and pipeline.combine is classifier_free

    @cached_property
    def x(self) -> Tensor:
        return self.latents().float()

    @cached_property
    def halves(self) -> tuple[DenoiserInputs, DenoiserInputs | None]:
        """The arguments with the prompt and without."""
        return self.take_apart()

    @property
    def each(self) -> int:
        """Samples of one prompt."""
        return self.batch // len(self.pipeline.texts) if self.pipeline.texts else 1

    def prompt(self) -> EncodedPrompt:
        connection, texts, each = self.pipeline.connection, self.pipeline.texts, self.each
        encoded = pack(pieces(connection.adapter, self.halves[0]))
        return EncodedPrompt(
            encoded=encoded,
            mask=(encoded != 0).any(-1),
            texts=[text for text in texts for _ in range(each)] if texts else None,
            encode=lambda new, rows: connection.encode_prompts(new, [row // each for row in rows]),
            words=connection.words,
            any_length=connection.adapter.text[-1].any_length,
        )

    def under(self, encoded: Tensor, arguments: DenoiserInputs, batched: bool) -> DenoiserInputs:
        """The call's arguments with another encoded prompt [b, s, d]."""
        adapter, (cond, uncond) = self.pipeline.connection.adapter, self.halves
        own = pieces(adapter, cond)
        cond = replaced(adapter, cond, unpack(encoded, own))
        if not batched:
            return cond
        assert uncond is not None  # a batched call has both
        uncond, cond = level(adapter, uncond, cond)
        halves: dict[Condition, DenoiserInputs] = {"cond": cond, "uncond": uncond}
        return join(adapter, [halves[name] for name in adapter.order], arguments)

    def combine(
        self, predictions: Predictions, scale: Tensor | float, rows: Tensor | None = None
    ) -> Tensor:
        return self.pipeline.combine(predictions["uncond"], predictions["cond"], scale)

    def move(self, x: Tensor, rows: Tensor | None = None) -> None:
        new = x if rows is None else self.x.index_copy(0, rows.to(x.device), x)
        moved, before = new - self.x, self.pipeline.moved
        self.pipeline.moved = moved if before is None else before + moved

    # ------------------------------------------------------------- the network once more

    def again(
        self, x: Tensor, condition: Condition | Sequence[str] | Tensor, rows: Tensor | None = None
    ) -> Tensor:
        adapter = self.pipeline.connection.adapter
        among = list(range(self.batch)) if rows is None else rows.tolist()
        if isinstance(condition, str) and condition == "uncond":
            return self._predicted(x, self._of(self._unconditional(), among))
        half = self._of(self.halves[0], among)
        if isinstance(condition, Tensor):
            own = pieces(adapter, half)
            half = replaced(adapter, half, unpack(condition, own))
        elif not isinstance(condition, str):
            return self._under_captions(x, half, condition, among)
        return self._predicted(x, half)

    def _of(self, half: DenoiserInputs, rows: list[int]) -> DenoiserInputs:
        """Some samples of a half."""
        adapter = self.pipeline.connection.adapter
        if len(rows) == len(half[adapter.x]):
            return half
        return join(adapter, [only(adapter, half, row) for row in rows], half)

    def _unconditional(self) -> DenoiserInputs:
        """The arguments of the unconditional half."""
        cond, uncond = self.halves
        connection = self.pipeline.connection
        if uncond is None and self.guided:  # two calls, and this is before the second
            assert connection.adapter.unconditional is not None
            uncond = connection.adapter.unconditional(connection.recorder, cond)
            self.halves = cond, uncond
        if uncond is None:
            raise GuardError(
                "the guidance asked for the unconditional half, and this generation has none, for "
                "guidance_scale <= 1 or a model that is distilled; use another method"
            )
        return uncond

    def _under_captions(
        self, x: Tensor, half: DenoiserInputs, captions: Sequence[str], rows: list[int]
    ) -> Tensor:
        """The prediction under a caption for each sample; `half` and `x` are of these rows."""
        connection = self.pipeline.connection
        adapter = connection.adapter
        encoded = connection.encode(captions, [row // self.each for row in rows])
        lengths = {tuple(part.shape[1] for part in parts) for parts in encoded}
        if len(lengths) == 1 or adapter.text[-1].padded:
            return self._predicted(x, replaced(adapter, half, stacked(encoded)))
        predictions = []  # one by one: filled up, a shorter caption would not be what it is alone
        for sample, (one, parts) in enumerate(zip(torch.split(x, 1), encoded, strict=True)):
            alone = replaced(adapter, only(adapter, half, sample), parts)
            predictions.append(self._predicted(one, alone))
        return torch.cat(predictions)

    def _predicted(self, x: Tensor, half: DenoiserInputs) -> Tensor:
        connection = self.pipeline.connection
        name = connection.adapter.x
        return connection.predict(put(half, name, x.to(half[name].dtype)))


# ------------------------------------------------------------------ the arguments of the halves


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


# ------------------------------------------------------------------------ the encoded prompt


def pieces(adapter: Adapter, half: DenoiserInputs) -> list[Tensor]:
    """The text of a half, [b, s, d] each: without tails, and zero where a mask hides it."""
    found = []
    for text in adapter.text:
        tokens = get(half, text.name)
        mask = None if text.mask is None else get(half, text.mask)
        tokens = tokens[:, None] if tokens.dim() == 2 else tokens
        end = tokens.shape[1] - text.tail
        tokens = tokens[:, :end]
        if mask is not None:
            tokens = tokens * mask[:, :end, None].to(tokens.dtype)
        found.append(tokens)
    return found


def encoded_pieces(adapter: Adapter, encoded: Mapping[str, Tensor]) -> list[Tensor]:
    """What `Adapter.encode` made, [b, s, d] each; it has no tails."""
    nested: DenoiserInputs = {}
    for name, value in encoded.items():
        first, _, rest = name.partition(".")
        nested[first] = {**nested.get(first, {}), rest: value} if rest else value
    found = []
    for text in adapter.text:
        tokens = get(nested, text.name)
        tokens = tokens[:, None] if tokens.dim() == 2 else tokens
        if text.mask is not None:
            tokens = tokens * get(nested, text.mask)[:, :, None].to(tokens.dtype)
        found.append(tokens)
    return found


def replaced(adapter: Adapter, half: DenoiserInputs, new: Sequence[Tensor]) -> DenoiserInputs:
    """A half with other text: tails stay, masks follow the tokens that are not zero."""
    for text, tokens in zip(adapter.text, new, strict=True):
        old = get(half, text.name)
        tokens = tokens.to(old)
        if old.dim() == 2:
            half = put(half, text.name, tokens[:, 0])
            continue
        tail = old[:, old.shape[1] - text.tail :]
        half = put(half, text.name, torch.cat([tokens, tail], 1))
        if text.mask is not None:
            mask = get(half, text.mask)
            there = (tokens != 0).any(-1).to(mask)
            half = put(half, text.mask, torch.cat([there, mask[:, mask.shape[1] - text.tail :]], 1))
    return half


def pack(new: Sequence[Tensor]) -> Tensor:
    """Pieces [b, s, d] as one tensor.

    >>> pack([torch.zeros(2, 77, 2048), torch.zeros(2, 1, 1280)]).shape
    torch.Size([2, 621, 256])
    """
    width = math.gcd(*(piece.shape[2] for piece in new))
    return torch.cat([piece.reshape(len(piece), -1, width) for piece in new], 1)


def unpack(encoded: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """The pieces of a packed tensor; the last one may have another number of tokens."""
    width = encoded.shape[2]
    rows = [piece.shape[1] * piece.shape[2] // width for piece in like[:-1]]
    parts = torch.split(encoded, [*rows, encoded.shape[1] - sum(rows)], 1)
    return [
        part.reshape(len(part), -1, piece.shape[2]) for part, piece in zip(parts, like, strict=True)
    ]


def stacked(rows: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """The pieces of several samples as those of a batch; shorter ones are filled up with zeros."""
    batch = []
    for parts in zip(*rows, strict=True):
        length = max(part.shape[1] for part in parts)
        batch.append(torch.cat([pad(part, (0, 0, 0, length - part.shape[1])) for part in parts]))
    return batch
