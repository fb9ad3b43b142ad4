"""Generates the panel in the midst of a training, without a guard and without a trace.

The modules are those that are trained. They are set to evaluate for a while, and what the library
changes besides, such as the state of a scheduler, is set back.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from anechoic.diffusers.generate import generate
from anechoic.diffusers.latents import decode
from anechoic.diffusers.pipelines import adapter_for, call_arguments, sound_seconds
from anechoic.errors import UnsupportedPipeline
from anechoic.guidance import ClassifierFree
from anechoic.guidance.step import Record
from anechoic.index.latents import LatentIndex
from anechoic.stable_audio_tools import guard

SWITCHES = (  # what generate_diffusion_cond sets for the whole process
    (torch.backends.cuda.matmul, "allow_tf32"),
    (torch.backends.cuda.matmul, "allow_fp16_reduced_precision_reduction"),
    (torch.backends.cudnn, "allow_tf32"),
    (torch.backends.cudnn, "benchmark"),
)


@dataclass(frozen=True, eq=False)
class Sketches:
    """Generations of a panel.

    Args:
        sounds: each [c, t], on the CPU; None: far from every training clip, so it was not decoded.
        sample_rate: in Hz.
        distances: the mean d_t of each; None: unknown.
    """

    sounds: Sequence[Tensor | None]
    sample_rate: int
    distances: Sequence[float | None] | None = None

    def __post_init__(self) -> None:
        if self.distances is None:
            object.__setattr__(self, "distances", [None] * len(self.sounds))

    def __add__(self, other: Sketches) -> Sketches:
        assert self.distances is not None
        assert other.distances is not None
        return replace(
            self,
            sounds=[*self.sounds, *other.sounds],
            distances=[*self.distances, *other.distances],
        )


class Generate(Protocol):
    """Generates a sound for each prompt, always the same for its seed."""

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> Sketches: ...


@dataclass(frozen=True, eq=False)
class FromPipeline:
    """Generates by a diffusers pipeline around the modules that are trained.

    With `latents`, what is farther from all of them than their radius is not decoded. A copy that
    is moved in time is as far in latents as another sound, so it is missed.

    Args:
        pipe: a pipeline that `guard` knows.
        steps: of its sampler; few are enough to see a copy.
        scale: of classifier-free guidance.
        seconds: of sound; None: its own length.
        latents: those of the training clips, as 'anechoic index latents' stores them.
        batch: generations at once.
    """

    pipe: Any
    steps: int = 20
    scale: float = 7.0
    seconds: float | None = None
    latents: LatentIndex | None = None
    batch: int = 8

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> Sketches:
        pipe, modules = self.pipe, self.pipe.components.values()
        seconds = sound_seconds(pipe, self.seconds)
        arguments = call_arguments(pipe, self.scale, self.steps, seconds)
        if self.latents is not None:
            arguments["output_type"] = "latent"
        connection = adapter_for(pipe)
        guidance = None if connection.adapter.distilled(pipe) else ClassifierFree(self.scale)
        parts = []
        with _evaluating(modules), _own_scheduler(pipe):
            for at in range(0, len(prompts), self.batch):
                some = slice(at, at + self.batch)
                made = generate(pipe, prompts[some], list(seeds[some]), arguments, guidance)
                sounds = self._sounds(made.samples, seconds)
                parts.append(Sketches(sounds, connection.sample_rate, _distances(made.records)))
        return sum(parts[1:], parts[0])

    def _sounds(self, samples: Tensor, seconds: float) -> list[Tensor | None]:
        if self.latents is None:
            return list(samples)
        near = self.latents.nearest(samples, 1).distances[:, 0] <= self.latents.radius
        sounds: list[Tensor | None] = [None] * len(samples)
        for row in near.nonzero().flatten().tolist():
            sounds[row] = decode(self.pipe, samples[row : row + 1], seconds)[0].cpu()
        return sounds


@dataclass(frozen=True, eq=False)
class FromStableAudioTools:
    """Generates by a `ConditionedDiffusionModelWrapper` of stable-audio-tools.

    Args:
        model: the model that is trained.
        steps: of its sampler.
        scale: of classifier-free guidance.
        seconds: of sound; None: its `sample_size`.
        sample_size: samples that it was trained on; None: those of `seconds`.
        conditioning: more that its conditioners ask for, the same for all prompts.
        call: more arguments of `generate_diffusion_cond`, such as `sampler_type`.
        weights: a block in which other weights are in its place; see `averaged_by`.
    """

    model: Any
    steps: int = 20
    scale: float = 6.0
    seconds: float | None = None
    sample_size: int | None = None
    conditioning: Mapping[str, Any] | None = None
    call: Mapping[str, Any] | None = None
    weights: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext

    def __post_init__(self) -> None:
        if self.seconds is None and self.sample_size is None:
            raise UnsupportedPipeline(
                "expected the length of the sound, as a model of stable-audio-tools has none of "
                "its own; give 'sample_size', as in the model's config, or 'seconds'"
            )

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> Sketches:
        model, rate = self.model, int(self.model.sample_rate)
        size = self.sample_size or round((self.seconds or 0.0) * rate)
        seconds = self.seconds or size / rate
        sounds, distances = [], []
        with _evaluating([model]), _switches(), self.weights():
            device = next(model.parameters()).device
            for prompt, seed in zip(prompts, seeds, strict=True):
                asked = {"prompt": prompt, "seconds_start": 0, "seconds_total": seconds}
                with (
                    contextlib.redirect_stdout(io.StringIO()),
                    contextlib.redirect_stderr(io.StringIO()),
                    guard(model, ClassifierFree(self.scale)) as trace,
                ):
                    made = model.generate(
                        steps=self.steps, cfg_scale=self.scale, seed=seed, device=str(device),
                        sample_size=size, conditioning=[asked | dict(self.conditioning or {})],
                        **(self.call or {}),
                    )  # fmt: skip
                sounds.append(made[0, :, : round(seconds * rate)].float().cpu())
                distances += _distances(trace.records)
        return Sketches(sounds, rate, distances)


def averaged_by(wrapper: Any) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """The averaged weights of a `DiffusionCondTrainingWrapper`, for `FromStableAudioTools`; its
    trained ones, where it averages none."""

    @contextmanager
    def weights() -> Iterator[None]:
        model, ema = wrapper.diffusion, getattr(wrapper, "diffusion_ema", None)
        trained = model.model
        try:
            if ema is not None:
                model.model = ema.ema_model
            yield
        finally:
            model.model = trained

    return weights


def _distances(records: Sequence[Record]) -> list[float]:
    """The mean d_t of each sample."""
    return torch.stack([record.distance for record in records]).mean(0).tolist() if records else []


@contextmanager
def _evaluating(parts: Iterable[Any]) -> Iterator[None]:
    """Modules without dropout and gradients; afterwards each is in the mode that it was in."""
    modules = [m for part in parts if isinstance(part, nn.Module) for m in part.modules()]
    modes = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        with torch.no_grad():
            yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


@contextmanager
def _own_scheduler(pipe: Any) -> Iterator[None]:
    """A scheduler of its own, as the trainer may use the pipeline's."""
    trainers = pipe.scheduler
    pipe.scheduler = type(trainers).from_config(trainers.config)
    try:
        yield
    finally:
        pipe.scheduler = trainers


@contextmanager
def _switches() -> Iterator[None]:
    before = [getattr(place, name) for place, name in SWITCHES]
    try:
        yield
    finally:
        for (place, name), value in zip(SWITCHES, before, strict=True):
            setattr(place, name, value)
