"""Methods made of methods: one after another, within an interval, or on another's prompt."""

from __future__ import annotations

from collections import abc
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from anechoic.errors import BadSetting
from anechoic.guidance.base import FunctionGuidance, Guidance, as_guidance, inner_guidance
from anechoic.guidance.cfg import ClassifierFree
from anechoic.guidance.interval import check_order, without_effect
from anechoic.guidance.step import Guided, Needs, Prompt, Record, Step, StepInfo, as_guided
from anechoic.guidance.triggers import BasinEdge, LogSNR, Progress, Timestep, Trigger, as_trigger


@dataclass(frozen=True)
class Sequence(Guidance):
    """One method until a point, another after it, for each sample by itself.

    For example opposite guidance inside the basin and anti-memorization guidance after it:

        Sequence(TransitionPoint(7.0, -2.0, at=1.0), AntiMemorization(index, embed), BasinEdge())

    A method is computed only while it guides some sample. A method that looks for a transition in
    the history sees the whole run, including the part that the other method guided.

    Args:
        first: the method before the point.
        then: the method after it.
        at: `Progress`, `LogSNR` or `Timestep`, a plain number for a share of the schedule, or
            `BasinEdge` for each sample's own transition.

    Raises:
        BadSetting: a method that changes the prompt, which holds for a whole run: see `Prompted`.

    Source: our own.
    """

    first: Guidance
    then: Guidance
    at: Progress | LogSNR | Timestep | BasinEdge | float

    def __post_init__(self) -> None:
        object.__setattr__(self, "at", as_trigger(self.at))
        for name in ("first", "then"):
            object.__setattr__(self, name, inner_guidance(getattr(self, name), "Sequence"))

    def children(self) -> tuple[Guidance, ...]:
        return self.first, self.then

    def needs(self, info: StepInfo) -> Needs:
        """Those of the method that is on; both, if either uses earlier distances."""
        at = as_trigger(self.at)
        if isinstance(at, BasinEdge) or self.looks_back():
            return "both"
        return (self.then if at.reached(info) else self.first).needs(info)

    def looks_back(self) -> bool:
        return isinstance(self.at, BasinEdge) or _any_looks_back(self)

    def idle(self, records: abc.Sequence[Record]) -> str | None:
        if isinstance(at := as_trigger(self.at), BasinEdge):  # a sample need not reach it
            after = [record for record in records if bool(record.notes["switched"].any())]
            before = [record for record in records if not bool(record.notes["switched"].all())]
            return self.first.idle(before) or (self.then.idle(after) if after else None)
        after = [record for record in records if at.reached(record)]
        before = [record for record in records if not at.reached(record)]
        if not (before and after):
            unused, other = ("then", "an earlier") if before else ("first", "a later")
            return f"its '{unused}' guided no step; choose {other} 'at'"
        return self.first.idle(before) or self.then.idle(after)

    def __call__(self, step: Step) -> Guided:
        reached = as_trigger(self.at).reached(step)
        after = torch.as_tensor(reached, device=step.x.device).expand(step.batch).clone()
        guided = select(step, after, self.then, self.first)
        return replace(guided, notes={**guided.notes, "switched": after})


@dataclass(frozen=True)
class During(Guidance):
    """A method within an interval, another outside: by default the conditional estimate alone.

    `During(ClassifierFree(scale), start, stop)` is interval guidance.

    Args:
        guidance: the method inside.
        start: where the interval starts; a plain number is a share of the schedule.
        stop: where it ends.
        outside: the method outside; None: scale 1, the conditional estimate alone.

    Source: after Kynkaanniemi et al., 2024 (arXiv:2404.07724).
    """

    guidance: Guidance
    start: Progress | LogSNR | Timestep | BasinEdge | float = 0.0
    stop: Progress | LogSNR | Timestep | BasinEdge | float = 1.0
    outside: Guidance | None = None

    def __post_init__(self) -> None:
        for name in ("start", "stop"):
            object.__setattr__(self, name, as_trigger(getattr(self, name)))
        check_order(self.start, self.stop)
        for name in ("guidance", "outside"):
            if (method := getattr(self, name)) is not None or name == "guidance":
                object.__setattr__(self, name, inner_guidance(method, "During"))

    def children(self) -> tuple[Guidance, ...]:
        return (self.guidance,) if self.outside is None else (self.guidance, self.outside)

    def needs(self, info: StepInfo) -> Needs:
        """Those of the method that is on; both, if either uses earlier distances."""
        start, stop = as_trigger(self.start), as_trigger(self.stop)
        if isinstance(start, BasinEdge) or isinstance(stop, BasinEdge) or self.looks_back():
            return "both"
        if start.reached(info) and not stop.reached(info):
            return self.guidance.needs(info)
        return "cond" if self.outside is None else self.outside.needs(info)

    def looks_back(self) -> bool:
        edges = isinstance(self.start, BasinEdge) or isinstance(self.stop, BasinEdge)
        return edges or _any_looks_back(self)

    def idle(self, records: abc.Sequence[Record]) -> str | None:
        start, stop = as_trigger(self.start), as_trigger(self.stop)
        if isinstance(start, BasinEdge) or isinstance(stop, BasinEdge):
            return self.guidance.idle(records)
        inside = [start.reached(record) and not stop.reached(record) for record in records]
        plain = self.outside is not None or isinstance(self.guidance, ClassifierFree)
        if reason := without_effect(inside, may_be_all=not plain):
            return reason
        among = [record for record, within in zip(records, inside, strict=True) if within]
        beyond = [record for record, within in zip(records, inside, strict=True) if not within]
        outside = self.outside
        return self.guidance.idle(among) or (outside.idle(beyond) if outside else None)

    def __call__(self, step: Step) -> Guided:
        def at(point: Trigger) -> Tensor:
            reached = torch.as_tensor(point.reached(step), device=step.x.device)
            return reached.expand(step.batch)

        inside = at(as_trigger(self.start)) & ~at(as_trigger(self.stop))
        return select(step, inside, self.guidance, self.outside or FunctionGuidance(_cond_alone))


@dataclass(frozen=True)
class Prompted(Guidance):
    """One method changes the prompt, and another guides.

    Args:
        prompt: the method that changes the prompt, such as `PromptOptimization`; its own scale
            is not used.
        guidance: the method that guides.

    Raises:
        BadSetting: `prompt` does not change the prompt, or `guidance` does, too.

    Source: our own.
    """

    prompt: Guidance
    guidance: Guidance

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt", as_guidance(self.prompt))
        if not self.prompt.changes_prompt:
            raise BadSetting(
                f"expected a method that changes the prompt, got {self.prompt.label()}, which does "
                "not; use one such as PromptOptimization"
            )
        object.__setattr__(self, "guidance", inner_guidance(self.guidance, "Sequence"))

    def children(self) -> tuple[Guidance, ...]:
        return self.prompt, self.guidance

    changes_prompt = True

    def condition(self, prompt: Prompt) -> Tensor:
        return self.prompt.condition(prompt)

    def needs(self, info: StepInfo) -> Needs:
        """The halves that the guiding method uses."""
        return self.guidance.needs(info)

    def looks_back(self) -> bool:
        return self.guidance.looks_back()

    def __call__(self, step: Step) -> Guided | Tensor:
        return self.guidance(step)


def select(step: Step, mask: Tensor, inside: Guidance, outside: Guidance) -> Guided:
    """Guide the samples of a mask [b] by `inside`, and the others by `outside`.

    A method that guides no sample is not computed.
    """
    if mask.all():
        return as_guided(inside(step), step)
    if not mask.any():
        return as_guided(outside(step), step)
    a, b = as_guided(inside(step), step), as_guided(outside(step), step)
    scale = torch.where(mask.cpu(), a.scales(len(mask)).cpu(), b.scales(len(mask)).cpu())
    pick = mask.reshape(-1, *[1] * (step.x.dim() - 1))

    def picked(one: Tensor | None, other: Tensor | None, absent: Tensor) -> Tensor | None:
        if one is None and other is None:
            return None
        return torch.where(pick, absent if one is None else one, absent if other is None else other)

    delta = picked(a.delta, b.delta, torch.zeros_like(step.cond))
    notes, memory = {**b.notes, **a.notes}, {**b.memory, **a.memory}
    none = torch.zeros(len(mask), dtype=torch.bool)
    exact = [none if one.exact is None else one.exact.cpu() for one in (a, b)]
    exact_rows = torch.where(mask.cpu(), exact[0], exact[1])
    return Guided(scale, delta, notes, picked(a.x, b.x, step.x), memory, exact_rows)


def _cond_alone(step: Step) -> Guided:
    return Guided(1.0)


def _any_looks_back(method: Guidance) -> bool:
    return any(child.looks_back() for child in method.children())
