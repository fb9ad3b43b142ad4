"""What a guidance method is."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from anechoic.guidance.step import Guided, Needs, Prompt, Step, StepInfo


class Guidance(Protocol):
    """What to do with the two halves of a classifier-free guided network at one evaluation.

    A plain function of a `Step` that returns an x0 estimate [b, *latent] qualifies as well. A
    method that changes the prompt itself has a `condition`, too: see `Conditioning`. One that
    does not always look at both halves says so beforehand: see `Sparing`.
    """

    def __call__(self, step: Step) -> Guided | Tensor: ...


@runtime_checkable
class Sparing(Protocol):
    """A guidance that says which halves of an evaluation it looks at, so that the other one is not
    computed. It looks at no distance of earlier evaluations: they are NaN where one was spared."""

    def needs(self, moment: StepInfo) -> Needs:
        """The halves it needs at a moment; alone, one half is scaled by 1 ("cond") or 0."""
        ...

    def __call__(self, step: Step) -> Guided | Tensor: ...


def needed(guidance: Guidance, moment: StepInfo) -> Needs:
    """The halves that a guidance needs at a moment; one that does not say needs both."""
    return guidance.needs(moment) if isinstance(guidance, Sparing) else "both"


@runtime_checkable
class Conditioning(Protocol):
    """A guidance that also changes the encoded prompt, before each evaluation."""

    def condition(self, prompt: Prompt) -> Tensor:
        """The encoded prompt to use, [b, s, d]."""
        ...

    def __call__(self, step: Step) -> Guided | Tensor: ...
