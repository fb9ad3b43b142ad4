"""Attraction-basin methods: hold classifier-free guidance back, or reverse it, until the sample
has left the basin in which it would be drawn to a training clip."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from anechoic.errors import BadSetting, GuardError
from anechoic.guidance.base import Guidance
from anechoic.guidance.cfg import alone, check_scale
from anechoic.guidance.step import Guided, Needs, Step, StepInfo
from anechoic.guidance.triggers import BasinEdge, LogSNR, Progress, Timestep, as_trigger


@dataclass(frozen=True)
class TransitionPoint(Guidance):
    """Static transition point: guidance `before` until `at`, then `scale`.

    `before = 0` is the paper's zero CFG, a negative value its opposite guidance. On Stable
    Audio's schedule the first steps are almost pure noise and decide nothing about the sample, so
    a transition in the first half of the steps changes nothing. Give the transition as a noise
    level (`LogSNR`), which means the same for any number of steps.

    Until the transition, `before = 0` does not use the conditional half, nor `before = 1` the
    unconditional one. That half is not computed, so the guard is faster than the plain pipeline.

    Args:
        scale: guidance scale after the transition.
        before: guidance scale before it; less than `scale`.
        at: `Progress`, `LogSNR` or `Timestep`; a plain number is a share of the schedule.
        both_halves: compute both anyway, so that the trace has d_t everywhere.

    Source: Jain et al., 2025 (arXiv:2411.16738), static transition point, opposite guidance.
    """

    scale: float = 7.0
    before: float = 0.0
    at: Progress | LogSNR | Timestep | float = Timestep(500)
    both_halves: bool = False

    def __post_init__(self) -> None:
        _check(self.scale, self.before)
        object.__setattr__(self, "at", as_trigger(self.at))
        if self.at == Progress(0.0):
            raise BadSetting(
                "at is the start of the schedule, so guidance would never be held back; choose a "
                "later transition, or use ClassifierFree for plain guidance"
            )

    def needs(self, info: StepInfo) -> Needs:
        return "both" if self.both_halves or self._switched(info) else alone(self.before)

    def looks_back(self) -> bool:
        return False

    def __call__(self, step: Step) -> Guided:
        return _guided(self, self._switched(step), step)

    def _switched(self, info: StepInfo) -> bool:
        return as_trigger(self.at).reached(info)


@dataclass(frozen=True)
class DynamicTransition(Guidance):
    """Dynamic transition point: guidance `before` until the sample has left the basin.

    Each sample of the batch switches by itself, once and for the rest of the run. A negative
    `before` looks for the transition while opposite guidance runs.

    With `fall=None` the rule is the paper's: the first local minimum of d_t, the norm of
    eps_c - eps_u, that is, the first evaluation k with `d[k-1] < d[k-2]` and `d[k] > d[k-1]`.

    That rule fails on Stable Audio's schedule, whose noise starts at sigma/alpha = 500, while
    Stable Diffusion's starts at 14.6. There d_t = ||c - u|| * alpha/sigma grows along the whole
    run because of its factor, and its first local minimum is an accident of the sampler's noise:
    on the demo model, it lies between steps 3 and 49 of 50, whatever the clip
    (docs/project/decisions/0003-dynamic-transition.md). At the edge of the basin, the norm in x0
    space, ||c - u||, does fall: it is flat while the prompt alone decides, then drops steeply. So
    with `fall=0.5` the switch is made once that norm is below half its maximum so far.

    Args:
        scale: guidance scale after the transition.
        before: guidance scale before it; less than `scale`.
        fall: the transition is made once ||c - u|| is below this share of its maximum so far;
            None: the paper's rule.

    Source: Jain et al., 2025 (arXiv:2411.16738), dynamic transition point; `fall` is our own.
    """

    scale: float = 7.0
    before: float = 0.0
    fall: float | None = None

    def __post_init__(self) -> None:
        _check(self.scale, self.before)
        BasinEdge(self.fall)

    @cached_property
    def _edge(self) -> BasinEdge:
        return BasinEdge(self.fall)

    def __call__(self, step: Step) -> Guided:
        switched = self._edge.reached(step)
        if len(set(switched)) == 1:  # one number for all halves the cost
            return _guided(self, switched[0], step)
        scales = [self.scale if over else self.before for over in switched]
        return Guided(
            torch.tensor(scales, dtype=torch.float64), notes={"switched": torch.tensor(switched)}
        )


def _guided(method: TransitionPoint | DynamicTransition, switched: bool, step: Step) -> Guided:
    """Guide samples that are all on one side of the transition."""
    notes = {"switched": torch.full((step.batch,), switched)}
    if switched and not step.history:
        raise GuardError(
            f"{method.label()} makes its transition at the first evaluation, at log-SNR "
            f"{step.noise.log_snr:.2f}, so guidance is never held back; choose a later transition"
        )
    return Guided(method.scale if switched else method.before, notes=notes)


def _check(scale: float, before: float) -> None:
    check_scale(scale)
    if not before < scale:
        raise BadSetting(
            f"expected a scale before the transition below the one after it, {scale}, got {before}"
        )
