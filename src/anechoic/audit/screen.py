"""Screens prompts before anything is generated: which of them are memorized?

The denoiser is evaluated on noise once or twice, and the pipeline is stopped there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from anechoic.detectors import Angle, AngleRecorder, Calibration, Magnitude, RunDetector
from anechoic.diffusers.generate import generate
from anechoic.errors import BadSetting, UnsupportedPipeline
from anechoic.guidance import ClassifierFree
from anechoic.guidance.base import WatchingGuidance
from anechoic.guidance.step import Guided, Record, Step

BATCH = 8  # prompts evaluated at once


@dataclass(frozen=True)
class Look:
    """A way to screen a prompt: which evaluations are recorded, and by which detector.

    With a `log_snr`, the denoiser is evaluated once on pure noise, as if that were a sample at this
    level. Without one, it follows its own schedule.
    """

    detector: RunDetector
    log_snr: float | None = None
    evaluations: int | None = 1  # None: the whole run, without its decoding

    def __post_init__(self) -> None:
        if self.log_snr is not None and self.evaluations != 1:
            raise BadSetting(
                "expected one evaluation for a look at its own noise level, as the next would "
                f"start from noise that is too loud; got {self.evaluations}"
            )

    @property
    def name(self) -> str:
        """The name under which its calibrations are stored."""
        at = "on its own schedule" if self.log_snr is None else f"at log-SNR {self.log_snr:g}"
        return f"{self.detector.name} {at}"


# Stable Audio's schedule starts at sigma/alpha = 500, where c - u says little about memorization;
# Stable Diffusion's starts at 14.6. It says most at a log-SNR of -3, sigma/alpha = 4.5
# (docs/evidence/calibration.md).
LOOKS: Mapping[str, Look] = {
    "magnitude": Look(Magnitude(1), log_snr=-3.0),
    "first-step": Look(Magnitude(1)),
    "angle": Look(Angle(), log_snr=1.0),
    "run": Look(Magnitude(None, "x0"), evaluations=None),
}


@dataclass(frozen=True)
class ScreenedPrompt:
    """A prompt with its scores."""

    prompt: str
    scores: Mapping[str, float]  # by look, mean over the seeds; higher: more memorized
    p_values: Mapping[str, float]  # by look, against ordinary prompts; empty without them
    over: bool | None  # the first look's p-value is below the rate; None: no ordinary prompts


def screen(
    pipe: Any,
    prompts: Sequence[str],
    *,
    ordinary: Sequence[str] = (),
    looks: Mapping[str, Look] | None = None,
    seeds: Sequence[int] = range(4),
    false_positive_rate: float = 0.05,
    scale: float = 7.0,
    steps: int | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[ScreenedPrompt]:
    """Screen prompts; returns the riskiest first.

    Args:
        pipe: a pipeline that `guard` supports.
        prompts: prompts to screen.
        ordinary: prompts that are known not to be memorized, for the calibration.
        looks: ways to screen, by default the size and the angle of the guidance vector on pure
            noise; the first decides.
        seeds: seeds of the noise; scores are means over them.
        false_positive_rate: the share of ordinary prompts that may be called memorized.
        scale: guidance scale of a look with several evaluations.
        steps: denoising steps, for a look on its own schedule; by default the pipeline's own.
        report: called after each batch with the number of finished batches and the total.

    Raises:
        BadSetting: no prompts or seeds, an empty prompt, a prompt in both lists, or too few
            ordinary prompts for the rate.
        UnsupportedPipeline: the pipeline cannot be guarded, or not started at another level.
    """
    looks = looks or {name: LOOKS[name] for name in ("magnitude", "first-step", "angle")}
    _check(prompts, ordinary, seeds)
    each = math.ceil(len(prompts) / BATCH) + math.ceil(len(ordinary) / BATCH)
    total, done = each * len(seeds) * len(looks), 0

    def count() -> None:
        nonlocal done
        done += 1
        report(done, total)

    calibrations: dict[str, Calibration] = {}
    if ordinary:  # refused before anything is run
        Calibration("", tuple(0.0 for _ in ordinary), false_positive_rate)
    found: dict[str, list[float]] = {}
    for name, look in looks.items():
        known = _means(pipe, ordinary, look, seeds, scale, steps, count)
        found[name] = _means(pipe, prompts, look, seeds, scale, steps, count)
        if known:
            calibrations[name] = Calibration(look.name, tuple(known), false_positive_rate)
    first = next(iter(looks))
    rows = []
    for i, prompt in enumerate(prompts):
        own = {name: scores[i] for name, scores in found.items()}
        p_values = {name: c.p_value(own[name]) for name, c in calibrations.items()}
        over = calibrations[first].exceeds(own[first]) if calibrations else None
        rows.append(ScreenedPrompt(prompt, own, p_values, over))
    return sorted(rows, key=lambda row: (row.p_values.get(first, 1.0), -row.scores[first]))


def _check(prompts: Sequence[str], ordinary: Sequence[str], seeds: Sequence[int]) -> None:
    if not prompts or not seeds or not all(p.strip() for p in [*prompts, *ordinary]):
        raise BadSetting(
            f"expected prompts with words in them, and at least one seed; got {len(prompts)} "
            f"prompts and {len(seeds)} seeds, or an empty prompt among them"
        )
    both = sorted(set(prompts) & set(ordinary))
    if both:
        raise BadSetting(
            f"{len(both)} prompts are both to be screened and among the ordinary ones "
            f"({both[0]!r}); a prompt cannot be compared with itself: remove it from one list"
        )


def _means(
    pipe: Any,
    prompts: Sequence[str],
    look: Look,
    seeds: Sequence[int],
    scale: float,
    steps: int | None,
    done: Callable[[], None],
) -> list[float]:
    scores = look_at(pipe, prompts, look, seeds, scale=scale, steps=steps, done=done)
    return scores.mean(1).tolist()


def look_at(
    pipe: Any,
    prompts: Sequence[str],
    look: Look,
    seeds: Sequence[int],
    *,
    scale: float = 7.0,
    steps: int | None = None,
    done: Callable[[], None] = lambda: None,
) -> Tensor:
    """The scores of prompts, [prompts, seeds]; the noise depends only on the seed."""
    columns = []
    for seed in seeds:
        runs = records(pipe, prompts, look, seed, scale=scale, steps=steps, done=done)
        scores = [finding.score for run in runs for finding in look.detector(run)]
        columns.append(torch.tensor(scores, dtype=torch.float64))
    return torch.stack(columns, 1)


class _Enough(Exception):
    """Stops a pipeline after the last recorded evaluation."""


@dataclass
class _Probe(WatchingGuidance):
    """Plain guidance that records its evaluations, and stops after a number of them."""

    guidance: AngleRecorder
    evaluations: int | None
    records: list[Record] = field(default_factory=list)

    def __call__(self, step: Step) -> Guided:
        answer = self.guidance(step)
        self.records.append(
            Record(
                progress=step.progress,
                noise=step.noise,
                distance=step.distance.cpu(),
                scale=answer.scales(step.batch, torch.float32),
                notes={name: value.cpu() for name, value in answer.notes.items()},
            )
        )
        if len(self.records) == self.evaluations:
            raise _Enough
        return answer


def records(
    pipe: Any,
    prompts: Sequence[str],
    look: Look,
    seed: int,
    *,
    scale: float = 7.0,
    steps: int | None = None,
    done: Callable[[], None] = lambda: None,
) -> list[list[Record]]:
    """The records of a look at prompts, one run for each batch."""
    arguments: dict[str, Any] = {"guidance_scale": scale, "output_type": "latent"}
    if steps is not None:
        arguments["num_inference_steps"] = steps
    runs = []
    for i in range(0, len(prompts), BATCH):
        batch = list(prompts[i : i + BATCH])
        probe = _Probe(AngleRecorder(ClassifierFree(scale)), look.evaluations)
        try:
            with starting_at(pipe, look.log_snr):
                generate(pipe, batch, seed, arguments, probe)
        except _Enough:
            pass
        runs.append(probe.records)
        done()
    return runs


@contextmanager
def starting_at(pipe: Any, log_snr: float | None) -> Iterator[None]:
    """Start the pipeline's schedule at another noise level, still from pure noise.

    Raises:
        UnsupportedPipeline: the scheduler is not Stable Audio's.
    """
    if log_snr is None:
        yield
        return
    own = pipe.scheduler
    if type(own).__name__ != "CosineDPMSolverMultistepScheduler":
        raise UnsupportedPipeline(
            f"only CosineDPMSolverMultistepScheduler can start at a noise level, got "
            f"{type(own).__name__}; screen by 'first-step', or replace pipe.scheduler"
        )
    ratio = math.exp(-log_snr / 2)
    lowest = min(own.config.sigma_min, ratio / 2)
    pipe.scheduler = type(own).from_config(own.config, sigma_max=ratio, sigma_min=lowest)
    try:
        yield
    finally:
        pipe.scheduler = own
