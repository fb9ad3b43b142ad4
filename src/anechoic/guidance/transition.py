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
    Audio's schedule the first steps are almost pure noise, where nothing about the sample is
    decided: a transition in the first half of the steps changes nothing there. Give the
    transition as a noise level (`LogSNR`), which means the same for any number of steps.

    With `before = 0` the conditional half decides nothing until the transition, and with
    `before = 1` the unconditional one: it is not computed there, so the guard is faster than the
    plain pipeline.

    Args:
        scale: guidance scale after the transition.
        before: guidance scale before it; less than `scale`.
        at: `Progress`, `LogSNR` or `Timestep`; a plain number is a share of the schedule.
        both_halves: compute both all the same, so that the trace has d_t everywhere.

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

    Each sample of the batch switches by itself, and the switch holds for the rest of the run. A
    negative `before` looks for the transition while opposite guidance runs.

    With `fall=None` the rule is the paper's: the first local minimum of d_t, the norm of
    eps_c - eps_u; that is the first evaluation k with `d[k-1] < d[k-2]` and `d[k] > d[k-1]`.

    On Stable Audio's schedule that rule does not hold. Its noise starts at sigma/alpha = 500, where
    Stable Diffusion's starts at 14.6; d_t = ||c - u|| * alpha/sigma grows along the whole run
    because of its factor, and its first local minimum is an accident of the sampler's
    noise: on the demo model between steps 3 and 49 of 50 without relation to the clip
    (docs/decisions/0003-dynamic-transition.md). What does fall at the edge of the basin is the
    norm in x0 space, ||c - u||: flat while the prompt alone decides, then steeply down. So with
    `fall=0.5` the switch is made once that norm is under half its own maximum so far.

    Args:
        scale: guidance scale after the transition.
        before: guidance scale before it; less than `scale`.
        fall: share of the running maximum of ||c - u|| under which the transition is made; None
            for the paper's rule.

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
        if len(set(switched)) == 1:  # one number for all costs half
            return _guided(self, switched[0], step)
        scales = [self.scale if over else self.before for over in switched]
        return Guided(
            torch.tensor(scales, dtype=torch.float64), notes={"switched": torch.tensor(switched)}
        )


def _guided(method: TransitionPoint | DynamicTransition, switched: bool, step: Step) -> Guided:
    """Samples that are all on one side of the transition."""
    notes = {"switched": torch.full((step.batch,), switched)}
    if switched and not step.history:
        raise GuardError(
            f"{method.label()} makes its transition at the first evaluation already, at log-SNR "
            f"{step.noise.log_snr:.2f}, so guidance is never held back; choose a later transition"
        )
    return Guided(method.scale if switched else method.before, notes=notes)


def _check(scale: float, before: float) -> None:
    check_scale(scale)
    if not before < scale:
        raise BadSetting(
            f"guidance before the transition is held back or reversed: less than {scale} was "
            f"expected, got {before}"
        )
