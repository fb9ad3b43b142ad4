"""One evaluation of a `DiffusionTransformer`: its halves, its own combination, and it once more.

Its `forward` doubles the batch, calls `_forward` once and combines the halves, in ways that differ
between versions (adaptive projection, rescaling, a limit of the norm). So `forward` stays what it
is, and `_forward` is answered for: first to learn what it is called with, then with the halves
that it predicted, at the scale of the guidance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from anechoic.engine.call import EncodedPrompt, Predictions
from anechoic.engine.run import Run
from anechoic.errors import GuardError
from anechoic.guidance.noise import PURE_NOISE, NoiseLevel, Prediction
from anechoic.guidance.step import Condition, Needs

if TYPE_CHECKING:
    from anechoic.stable_audio_tools.model import NativeModel

# evaluations of n steps; other samplers make n
EVALUATIONS: dict[str, Callable[[int], int]] = {
    "k-heun": lambda n: 2 * n - 1,
    "k-dpm-2": lambda n: 2 * n - 1,
    "rk4": lambda n: 4 * n,
}
MOVABLE = ("euler", "dpmpp", "pingpong", "v-ddim")  # these go on from the tensor they hand over
# arguments of `forward` that hold the prompt, and what `get_conditioning_inputs` calls them
TEXT = {
    "cross_attn_cond": "cross_attn_cond",
    "global_embed": "global_cond",
    "prepend_cond": "prepend_cond",
}
ANSWER: ContextVar[Callable[..., Any] | None] = ContextVar("anechoic_answer", default=None)


@dataclass
class Generation:
    """A call of `generate_diffusion_cond` that is running."""

    run: Run
    guided: bool  # whether it has an unconditional half
    encoded: Mapping[str, Sequence[Any]]  # of each conditioner: what it encoded [b, ...], its mask
    conditioning: Sequence[Mapping[str, Any]] | None  # None: it was given encoded ones
    sampler: str
    steps: int
    sigma_min: float  # where a sampler ends that chooses its own steps
    captions: dict[tuple[str, ...], Tensor] = field(default_factory=dict)  # encoded already

    @property
    def evaluations(self) -> int | None:
        """How many there will be; None: it depends on what the sampler meets."""
        if self.sampler in ("k-dpm-adaptive", "k-dpmpp-2s-ancestral"):
            return None
        return EVALUATIONS.get(self.sampler, int)(self.steps)

    def progress(self, noise: NoiseLevel[Any]) -> float:
        """The share of the schedule that is done, before an evaluation at this level."""
        if (total := self.evaluations) is not None:
            return min(len(self.run.records) / total, 1 - 1e-6)
        if not (records := self.run.records):
            return 0.0
        first, last = records[0].noise.log_snr, -2 * math.log(self.sigma_min)
        share: float = (noise.log_snr - first) / (last - first)
        # it goes back where a step was too large
        return min(max(share, records[-1].progress), 1 - 1e-6)


@dataclass
class TransformerCall:
    """One evaluation: see `anechoic.engine.call.OwnCall`."""

    model: NativeModel
    generation: Generation
    input: Tensor  # the sampler's own
    t: Tensor  # [b]
    keywords: Mapping[str, Any]  # the other arguments of `forward`
    rows: Sequence[int]  # of the generation's samples
    _both: Tensor | None = field(init=False, default=None)  # both predictions, as they came

    @property
    def batch(self) -> int:
        return len(self.rows)

    @cached_property
    def x(self) -> Tensor:
        return self.input.float()

    @cached_property
    def noise(self) -> NoiseLevel[Any]:
        t = self.t.detach().double().cpu().expand(self.batch).clamp_min(1e-6)
        if self.kind == "flow":
            return NoiseLevel.flow(t).of(torch.arange(self.batch))
        angle = t * (math.pi / 2)
        levels = NoiseLevel(angle.cos().clamp_min(PURE_NOISE), angle.sin())
        return levels.of(torch.arange(self.batch))

    @cached_property
    def progress(self) -> float:
        return self.generation.progress(self.noise)

    @property
    def kind(self) -> Prediction:
        return "v_prediction" if self.model.wrapper.diffusion_objective == "v" else "flow"

    @property
    def guided(self) -> bool:
        return self.generation.guided

    @property
    def may_spare(self) -> bool:
        """What their combination adds to the plain one looks at both halves."""
        names = ("scale_phi", "cfg_norm_threshold", "return_info")
        projects = self.keywords.get("apg_scale", hasattr(self.model.network, "apg_project"))
        return not projects and not any(self.keywords.get(name) for name in names)

    def prompt(self) -> EncodedPrompt:
        name = self.model.text()
        encoded, mask = self.generation.encoded[name]
        there = torch.ones(encoded.shape[:2], dtype=torch.bool) if mask is None else mask.bool()
        return EncodedPrompt(
            encoded=encoded,
            mask=there.to(encoded.device),
            texts=self.model.texts(self.generation.conditioning),
            encode=lambda texts, rows: self.model.encode(self.generation, texts),
            words=self.model.words,
            any_length=False,
        )

    def under(self, encoded: Tensor) -> TransformerCall:
        name, rows = self.model.text(), list(self.rows)
        total = len(self.generation.encoded[name][0])
        pieces: dict[str, Any] = picked(self.generation.encoded, rows, total)
        before, mask = pieces[name]
        pieces[name] = [encoded.to(before.device), mask]
        made = self.model.conditioning_inputs(pieces)
        changed = {
            argument: made[key]
            for argument, key in TEXT.items()
            if self.keywords.get(argument) is not None
        }
        return replace(self, keywords={**self.keywords, **changed})

    def evaluate(self, needs: Needs) -> Predictions:
        if needs != "both" or not self.guided:
            half: Condition = "uncond" if needs == "uncond" else "cond"
            return {half: self._predicted(half)}
        args, kwargs = self._inputs
        self._both = prediction(self.model.predict(*args, **kwargs))
        cond, uncond = self._both.chunk(2)
        return {"cond": cond, "uncond": uncond}

    def combine(
        self, predictions: Predictions, scale: Tensor | float, rows: Tensor | None = None
    ) -> Tensor:
        among = torch.arange(self.batch) if rows is None else rows
        if isinstance(scale, Tensor):  # theirs takes one number
            each = zip(
                *(predictions[half].split(1) for half in ("cond", "uncond")),
                scale.flatten().tolist(),
                among.split(1),
                strict=True,
            )
            return torch.cat(
                [self.combine({"cond": c, "uncond": u}, w, row) for c, u, w, row in each]
            )
        # laid out in memory as they came, or sums are rounded otherwise
        both = self._both if rows is None else None
        if both is None:
            both = torch.cat([predictions["cond"], predictions["uncond"]])
        return prediction(self._of(self.input[among], among)._replayed(both, scale))

    def again(
        self, x: Tensor, condition: Condition | Sequence[str] | Tensor, rows: Tensor | None = None
    ) -> Tensor:
        call = self._of(x, torch.arange(self.batch) if rows is None else rows)
        if isinstance(condition, str):
            return call._predicted("uncond" if condition == "uncond" else "cond")
        if not isinstance(condition, Tensor):
            condition = self.model.encode(self.generation, condition)
        return call.under(condition)._predicted("cond")

    def decode(self, x0: Tensor, rows: Tensor | None = None) -> Tensor:
        """Sound [b, c, t] of the longest of these samples; a shorter one ends in silence."""
        sound = self.model.decode(x0)
        seconds = self.model.seconds(self.generation.conditioning)
        if seconds is None:
            return sound
        ends = [
            math.ceil(seconds[row] * self.model.sample_rate)
            for row in (range(self.batch) if rows is None else rows.tolist())
        ]
        sound = sound[..., : max(ends)]
        if len(set(ends)) == 1:
            return sound
        at = torch.arange(sound.shape[-1], device=sound.device)
        return sound * (at < torch.tensor(ends, device=sound.device)[:, None, None])

    def move(self, x: Tensor, rows: Tensor | None = None) -> None:
        if self.generation.sampler not in MOVABLE:
            raise GuardError(
                f"the guidance moves the latents, and the sampler '{self.generation.sampler}' does "
                f"not go on from those that it hands over; use {' or '.join(MOVABLE)}"
            )
        among = torch.arange(self.batch) if rows is None else rows
        self.input[among] = x.to(self.input)

    def output(self, guided: Tensor, predictions: Predictions) -> Any:
        """What `forward` returns, with the guided prediction in the place of its own."""
        if not self.keywords.get("return_info"):
            return guided
        _, info = self._replayed(torch.cat(list(predictions.values())), self.keywords["cfg_scale"])
        return guided, info

    # --------------------------------------------------------------------- their own code

    @cached_property
    def _inputs(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What `forward` calls `_forward` with."""
        seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

        def note(*args: Any, **kwargs: Any) -> Any:
            seen.append((args, kwargs))
            return _with_info(args[0], kwargs)

        self._forward(note, {})
        return seen[0]

    def _replayed(self, kept: Tensor, scale: float) -> Any:
        """What `forward` makes of predictions, the conditional ones first, at a scale."""
        # at a scale of 1 it calls for the conditional ones alone
        return self._forward(
            lambda *args, **kwargs: _with_info(kept[: len(args[0])], kwargs), {"cfg_scale": scale}
        )

    def _forward(self, answer: Callable[..., Any], changes: Mapping[str, Any]) -> Any:
        token = ANSWER.set(answer)
        try:
            return self.model.forward(self.input, self.t, **{**self.keywords, **changes})
        finally:
            ANSWER.reset(token)

    def _predicted(self, half: Condition) -> Tensor:
        """The network's prediction of one half."""
        args, kwargs = self._inputs
        total = len(args[0])
        if half == "uncond" and total == self.batch:
            raise GuardError(
                "the guidance asked for the unconditional half, and this generation has none; "
                f"{self.model.guided_by}"
            )
        if total > self.batch:
            first = self.batch if half == "uncond" else 0
            rows = range(first, first + self.batch)
            args, kwargs = picked(args, rows, total), picked(kwargs, rows, total)
        return prediction(self.model.predict(*args, **{**kwargs, "return_info": False}))

    def _of(self, x: Tensor, rows: Tensor) -> TransformerCall:
        """The same evaluation of some samples, with another input."""
        index = rows.tolist()
        if index == list(range(self.batch)):
            return replace(self, input=x)
        t, keywords = picked((self.t, self.keywords), index, self.batch)
        return replace(self, input=x, t=t, keywords=keywords, rows=[self.rows[i] for i in index])


def prediction(output: Any) -> Tensor:
    """The prediction, where more is returned beside it."""
    predicted: Tensor = output[0] if isinstance(output, tuple) else output
    return predicted


def _with_info(predicted: Tensor, keywords: Mapping[str, Any]) -> Any:
    return (predicted, {}) if keywords.get("return_info") else predicted


def picked(value: Any, rows: Sequence[int], total: int) -> Any:
    """Some rows of all tensors among arguments that have as many as the batch.

    >>> picked({"a": [torch.arange(3), None, 7]}, [0, 2], 3)
    {'a': [tensor([0, 2]), None, 7]}
    """
    if isinstance(value, Tensor):
        return value[list(rows)] if value.dim() and len(value) == total else value
    if isinstance(value, Mapping):
        return {key: picked(inner, rows, total) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(picked(inner, rows, total) for inner in value)
    return value
