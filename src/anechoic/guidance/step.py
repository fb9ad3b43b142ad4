"""What a guidance sees at one evaluation of the network, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from anechoic.errors import GuardError
from anechoic.guidance.noise import NoiseLevel

Condition = Literal["cond", "uncond"]
Needs = Literal["both", "cond", "uncond"]  # the halves of an evaluation that are used


class Denoise(Protocol):
    """Call the network again, at the same noise level."""

    def __call__(
        self,
        x: Tensor,
        condition: Condition | Sequence[str] | Tensor,
        rows: Tensor | None = None,
    ) -> Tensor:
        """The x0 estimate [b, *latent] of `x`, differentiable in `x` and in an encoded prompt.

        Args:
            x: the network's input.
            condition: the user's prompt ("cond"), no prompt ("uncond"), other captions, one for
                each sample, or an encoded prompt [b, s, d].
            rows: which samples of the batch these are, [b]; None: all.
        """
        ...


class Decode(Protocol):
    """Latents to sound or images."""

    def __call__(self, x0: Tensor, rows: Tensor | None = None) -> Tensor:
        """Decode x0 [b, *latent] to sound [b, channels, t], cut to the requested seconds, or to
        images [b, 3, h, w] in [0, 1]. `rows` as in `Denoise`."""
        ...


class StepInfo(Protocol):
    """Where in a run an evaluation is, as known before the network is called."""

    @property
    def noise(self) -> NoiseLevel: ...

    @property
    def progress(self) -> float: ...


@dataclass(frozen=True)
class Record:
    """The record of one evaluation; all tensors are [b], on the CPU."""

    progress: float  # share of the schedule that was done before this evaluation, in [0, 1)
    noise: NoiseLevel[Any]  # numbers; [b] if the samples have different levels
    distance: Tensor  # d_t = ||eps_c - eps_u||_2; NaN if only one half was computed
    scale: Tensor  # the guidance scale that was applied
    passes: float = 2.0  # passes of each sample through the network: its halves, and any others
    notes: Mapping[str, Tensor] = field(default_factory=dict)  # what the method recorded

    @cached_property
    def distances(self) -> list[float]:
        """`distance` as plain numbers."""
        return self.distance.tolist()

    @cached_property
    def norms(self) -> list[float]:
        """||c - u||_2 of each sample, in x0 space."""
        if isinstance(ratio := self.noise.ratio, Tensor):
            return [d * r for d, r in zip(self.distances, ratio.tolist(), strict=True)]
        return [distance * ratio for distance in self.distances]

    def of(self, samples: Tensor) -> Record:
        """The record of some samples of the batch, by their rows [n]."""
        return replace(
            self,
            noise=self.noise.of(samples),
            distance=self.distance[samples],
            scale=self.scale[samples],
            notes={name: value[samples] for name, value in self.notes.items()},
        )


@dataclass(frozen=True)
class Prompt:
    """The encoded prompt, which `condition` may change before an evaluation of the network.

    `seeds` has a number for each sample, drawn from its starting latents: noise made from it is as
    reproducible as the generation, and the same in any batch.
    """

    encoded: Tensor  # the user's prompt [b, s, d], without anything but text, such as durations
    mask: Tensor  # which of its tokens are text, [b, s], bool
    texts: Sequence[str] | None  # the user's prompts; None: the pipeline was given encoded ones
    x: Tensor  # the network's next input, [b, *latent]
    noise: NoiseLevel
    progress: float
    seeds: Sequence[int]
    first: Tensor | None  # the encoded prompt of the run's first evaluation; None: this is it
    encode: Callable[[Sequence[str]], Tensor]  # texts to encoded prompts, [b, s, d]
    words: Callable[[], Sequence[str]]  # the words that are tokens of the pipeline's tokenizer
    denoise: Denoise
    memory: Mapping[str, Tensor] = field(default_factory=dict)  # see `Step`

    def generators(self, salt: int = 0) -> list[torch.Generator]:
        """A generator for each sample, on the CPU; another `salt` gives another stream."""
        return [torch.Generator().manual_seed((seed + salt) % 2**63) for seed in self.seeds]


@dataclass(frozen=True)
class Step:
    """One evaluation of the network in x0 space.

    `cond` and `uncond` are the x0 estimates with and without the prompt, [b, *latent]; one that
    the guidance does not need is NaN. Each sample of the batch is guided by itself.
    """

    x: Tensor  # the network's input, alpha * x0 + sigma * eps
    noise: NoiseLevel
    cond: Tensor
    uncond: Tensor
    progress: float
    history: Sequence[Record]
    denoise: Denoise
    decode: Decode
    sample_rate: int  # sample rate of decoded sound in Hz; 0 for images
    # what the method returned as `Guided.memory` at the previous evaluation of the same generation
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    # the user's prompt of each sample; None: the engine was given encoded ones
    texts: Callable[[], Sequence[str] | None] = lambda: None

    @cached_property
    def batch(self) -> int:
        """How many samples there are."""
        return len(self.x)

    @cached_property
    def distance(self) -> Tensor:
        """d_t = ||eps_c - eps_u||_2 of each sample, [b] (Wen et al., 2024; Jain et al., 2025)."""
        dims = tuple(range(1, self.cond.dim()))
        difference = (self.cond - self.uncond).float()
        norm: Tensor = torch.linalg.vector_norm(difference, dim=dims)
        return norm / self.noise.ratio

    @property
    def has_uncond(self) -> bool:
        """Whether there is an unconditional estimate."""
        return not bool(self.distance.isnan().any())

    def guided(self, scale: float) -> Tensor:
        """The estimate under classifier-free guidance, [b, *latent]; without an unconditional one,
        the conditional estimate."""
        return classifier_free(self.uncond, self.cond, scale) if self.has_uncond else self.cond

    def per_sample(self, values: Tensor) -> Tensor:
        """Broadcast values [b] against latents, [b, 1, ...]."""
        return values.reshape(-1, *[1] * (self.x.dim() - 1)).to(self.x)

    def of(self, samples: Tensor, keep_history: bool = False) -> Step:
        """The step of some samples of the batch, by their rows [n]; for all of them, this step.
        Its history is empty unless `keep_history`."""
        if len(samples) == len(self.x):
            return self

        def among(rows: Tensor | None) -> Tensor:
            return samples if rows is None else samples[rows]

        def denoise(
            x: Tensor,
            condition: Condition | Sequence[str] | Tensor,
            rows: Tensor | None = None,
        ) -> Tensor:
            return self.denoise(x, condition, among(rows))

        def decode(x0: Tensor, rows: Tensor | None = None) -> Tensor:
            return self.decode(x0, among(rows))

        def texts() -> Sequence[str] | None:
            known = self.texts()
            return None if known is None else [known[row] for row in samples.tolist()]

        parts = {name: getattr(self, name)[samples] for name in ("x", "cond", "uncond")}
        rows = samples.cpu()
        history = tuple(record.of(rows) for record in self.history) if keep_history else ()
        memory = {name: value[samples] for name, value in self.memory.items()}
        return replace(
            self, **parts, history=history, denoise=denoise, decode=decode, memory=memory,
            texts=texts,
        )  # fmt: skip


@dataclass(frozen=True)
class Guided:
    """A guided estimate, `uncond + scale * (cond - uncond) + delta`.

    The parts stay apart so that plain classifier-free guidance is bit for bit what the pipeline
    computes: they are combined in the network's own space, and only `delta` is converted.
    """

    scale: Tensor | float  # one for each sample, [b], or one for all
    delta: Tensor | None = None  # a step in x0 space [b, *latent]; None: nothing to add
    notes: Mapping[str, Tensor] = field(default_factory=dict)  # for the trace, [b] each
    x: Tensor | None = None  # where the sampler goes on from, in place of `Step.x`, [b, *latent]
    memory: Mapping[str, Tensor] = field(default_factory=dict)  # for the next step, [b, ...] each
    # samples for which the engine adds nothing to its guidance, such as rescaling, [b]; None: none
    exact: Tensor | None = None

    def scales(self, batch: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """The scale of each sample, [b]."""
        if isinstance(self.scale, Tensor):
            return self.scale.to(dtype).expand(batch).clone()
        return torch.full((batch,), self.scale, dtype=dtype)

    def x0(self, step: Step) -> Tensor:
        """The guided estimate itself, [b, *latent]."""
        scale = step.per_sample(self.scales(step.batch))
        guided = step.uncond + scale * (step.cond - step.uncond)
        return guided if self.delta is None else guided + self.delta


def checked(answer: Any, step: Step) -> Guided | Tensor:
    """Return the answer of a guidance, if it is valid.

    Raises:
        GuardError: it is neither a `Guided` nor an x0 estimate, or has another shape.
    """
    batch, wrong = step.batch, []
    if isinstance(answer, Guided):
        wrong = [
            name for name, value in answer.notes.items()
            if not isinstance(value, Tensor) or value.shape != (batch,)
        ] + [
            name for name, value in answer.memory.items()
            if not isinstance(value, Tensor) or value.shape[:1] != (batch,)
        ] + ["exact"] * (answer.exact is not None and answer.exact.shape != (batch,))  # fmt: skip
        scale, delta = answer.scale, answer.delta
        if isinstance(scale, Tensor):
            wrong += ["scale"] * (scale.shape not in ((), (1,), (batch,)))
        elif not isinstance(scale, int | float):
            wrong.append("scale")
        wrong += [
            name for name, value in (("delta", delta), ("x", answer.x))
            if value is not None and getattr(value, "shape", None) != step.x.shape
        ]  # fmt: skip
    if isinstance(answer, Guided) and not wrong:
        return answer
    if isinstance(answer, Tensor) and answer.shape == step.x.shape:
        return answer
    got = "None" if answer is None else f"an object of type {type(answer).__name__}"
    if isinstance(answer, Tensor):
        got = f"a tensor {tuple(answer.shape)}"
    if wrong:
        got = f"a Guided with {' and '.join(wrong)} of another shape or type"
    shape = tuple(step.x.shape)
    raise GuardError(
        f"the guidance returned {got}; expected an x0 estimate {shape}, or a Guided with a number "
        f"or [{batch}] for its scale, notes [{batch}], and a delta and an x {shape}"
    )


def as_guided(answer: Any, step: Step) -> Guided:
    """An answer as a `Guided`; an x0 estimate becomes a step from the conditional one.

    Raises:
        GuardError: as `checked`.
    """
    answer = checked(answer, step)
    return answer if isinstance(answer, Guided) else Guided(1.0, answer - step.cond)


def classifier_free(uncond: Tensor, cond: Tensor, scale: Tensor | float) -> Tensor:
    """u + scale * (c - u)."""
    return uncond + scale * (cond - uncond)
