"""Methods made of methods: one after another, one within an interval, one on another's prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from anechoic.errors import BadSetting
from anechoic.guidance.base import Conditioning, Guidance, Sparing, needed
from anechoic.guidance.interval import check_order
from anechoic.guidance.step import Guided, Needs, Prompt, Step, StepInfo
from anechoic.guidance.triggers import BasinEdge, LogSNR, Progress, Timestep, Trigger, as_point


@dataclass(frozen=True)
class Sequence:
    """One method until a point, another after it; each sample by itself.

    For example opposite guidance inside the basin and anti-memorization guidance after it:

        Sequence(TransitionPoint(7.0, -2.0, at=1.0), AntiMemorization(index, embed), BasinEdge())

    Only a method that some sample is in is computed. A method that looks for a transition in
    the history sees the whole run, also the part that another method guided.

    Args:
        first: the method before.
        then: the method after.
        at: `Progress`, `LogSNR` or `Timestep`, a plain number for a share of the schedule, or
            `BasinEdge` for each sample's own transition.

    Raises:
        BadSetting: a method that changes the prompt, which acts on a whole run: see `Prompted`.

    Source: our own.
    """

    first: Guidance
    then: Guidance
    at: Progress | LogSNR | Timestep | BasinEdge | float

    def __post_init__(self) -> None:
        object.__setattr__(self, "at", as_point(self.at))
        for method in (self.first, self.then):
            _refuse_conditioning(method)

    @property
    def index(self) -> Any:
        """The training set that one of them keeps away from, or None."""
        return _index(self.then) or _index(self.first)

    def needs(self, moment: StepInfo) -> Needs:
        """Those of the method that is on; both, if one of them looks at earlier distances."""
        at = self.at
        if _looks_back(self) or isinstance(at, BasinEdge | float):
            return "both"
        return needed(self.then if at.reached(moment) else self.first, moment)

    def __call__(self, step: Step) -> Guided:
        reached = as_point(self.at).reached(step)
        after = torch.as_tensor(reached, device=step.x.device).expand(step.batch).clone()
        guided = chosen(step, after, self.then, self.first)
        return Guided(guided.scale, guided.delta, {**guided.notes, "switched": after})


@dataclass(frozen=True)
class During:
    """A method within an interval, another outside: by default the conditional estimate alone.

    `During(ClassifierFree(scale), start, stop)` is interval guidance.

    Args:
        guidance: the method inside.
        start: the point it starts at; a plain number is a share of the schedule.
        stop: the point it ends at.
        outside: the method outside; None for scale 1, the conditional estimate alone.

    Source: after Kynkaanniemi et al., 2024 (arXiv:2404.07724).
    """

    guidance: Guidance
    start: Progress | LogSNR | Timestep | BasinEdge | float = 0.0
    stop: Progress | LogSNR | Timestep | BasinEdge | float = 1.0
    outside: Guidance | None = None

    def __post_init__(self) -> None:
        for name in ("start", "stop"):
            object.__setattr__(self, name, as_point(getattr(self, name)))
        check_order(self.start, self.stop)
        _refuse_conditioning(self.guidance)
        _refuse_conditioning(self.outside)

    @property
    def index(self) -> Any:
        """The training set that one of them keeps away from, or None."""
        return _index(self.guidance) or _index(self.outside)

    def needs(self, moment: StepInfo) -> Needs:
        """Those of the method that is on; both, if one of them looks at earlier distances."""
        start, stop = self.start, self.stop
        if _looks_back(self) or isinstance(start, BasinEdge | float):
            return "both"
        if isinstance(stop, BasinEdge | float):
            return "both"
        if start.reached(moment) and not stop.reached(moment):
            return needed(self.guidance, moment)
        return "cond" if self.outside is None else needed(self.outside, moment)

    def __call__(self, step: Step) -> Guided:
        def at(point: Trigger) -> Tensor:
            reached = torch.as_tensor(point.reached(step), device=step.x.device)
            return reached.expand(step.batch)

        inside = at(as_point(self.start)) & ~at(as_point(self.stop))
        return chosen(step, inside, self.guidance, self.outside or (lambda step: Guided(1.0)))


@dataclass(frozen=True)
class Prompted:
    """The prompt that one method makes, guided as another method does.

    Args:
        prompt: a method that changes the prompt, such as `PromptOptimization`; its own scale
            does nothing.
        guidance: the method that guides.

    Raises:
        BadSetting: `prompt` changes no prompt, or `guidance` does, too.

    Source: our own.
    """

    prompt: Guidance
    guidance: Guidance

    def __post_init__(self) -> None:
        if not isinstance(self.prompt, Conditioning):
            raise BadSetting(
                f"a method that changes the prompt was expected first, got "
                f"{type(self.prompt).__name__}, which does not"
            )
        _refuse_conditioning(self.guidance)

    @property
    def index(self) -> Any:
        """The training set that one of them keeps away from, or None."""
        return _index(self.guidance) or _index(self.prompt)

    def condition(self, prompt: Prompt) -> Tensor:
        assert isinstance(self.prompt, Conditioning)  # __post_init__ saw to it
        return self.prompt.condition(prompt)

    def needs(self, moment: StepInfo) -> Needs:
        """Those of the method that guides."""
        return needed(self.guidance, moment)

    def __call__(self, step: Step) -> Guided | Tensor:
        return self.guidance(step)


def chosen(
    step: Step,
    mask: Tensor,
    inside: Callable[[Step], Guided | Tensor],
    outside: Callable[[Step], Guided | Tensor],
) -> Guided:
    """What `inside` says of the samples of a mask [b], and `outside` of the others.

    A method none of whose samples is asked for is not computed.
    """
    if mask.all():
        return _guided(inside(step), step)
    if not mask.any():
        return _guided(outside(step), step)
    a, b = _guided(inside(step), step), _guided(outside(step), step)
    scale = torch.where(mask.cpu(), a.scales(len(mask)).cpu(), b.scales(len(mask)).cpu())
    delta = None
    if a.delta is not None or b.delta is not None:
        zero = torch.zeros_like(step.cond)
        pick = mask.reshape(-1, *[1] * (step.x.dim() - 1))
        delta = torch.where(
            pick,
            zero if a.delta is None else a.delta,
            zero if b.delta is None else b.delta,
        )
    return Guided(scale, delta, {**b.notes, **a.notes})


def _guided(answer: Guided | Tensor, step: Step) -> Guided:
    """A bare estimate as a step from the conditional one."""
    return answer if isinstance(answer, Guided) else Guided(1.0, answer - step.cond)


def _looks_back(method: Guidance) -> bool:
    """Whether a method, or one inside it, may look at the distances of earlier evaluations."""
    points = (getattr(method, name, None) for name in ("at", "start", "stop"))
    if not isinstance(method, Sparing) or any(isinstance(point, BasinEdge) for point in points):
        return True
    inner = (getattr(method, name, None) for name in ("first", "then", "guidance", "outside"))
    return any(_looks_back(part) for part in inner if part is not None)


def _index(guidance: Guidance | None) -> Any:
    return getattr(guidance, "index", None)


def _refuse_conditioning(guidance: Guidance | None) -> None:
    if isinstance(guidance, Conditioning):
        raise BadSetting(
            f"{type(guidance).__name__} changes the prompt, which holds for a whole run; put it "
            "around the composition: Prompted(it, Sequence(...))"
        )
