"""What a guidance method is."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import Tensor

from anechoic.errors import BadSetting
from anechoic.guidance.step import Guided, Needs, Prompt, Record, Step, StepInfo
from anechoic.types import Embedder, VectorIndex

Reach = Literal["none", "decoder", "network"]  # how far back a gradient goes


class Guidance(ABC):
    """What to do with the two halves of a classifier-free guided network at one evaluation.

    A method is a frozen dataclass that inherits this class and defines `__call__`. The other
    methods have defaults that are right for a method that looks at both halves, changes no prompt,
    compares with no training set, and has no method inside it. A plain function of a `Step` that
    returns a `Guided` or an x0 estimate [b, *latent] qualifies as well: see `as_guidance`.
    """

    @abstractmethod
    def __call__(self, step: Step) -> Guided | Tensor:
        """Guide one evaluation."""

    @property
    def changes_prompt(self) -> bool:
        """Whether `condition` is called before each evaluation."""
        return False

    def condition(self, prompt: Prompt) -> Tensor:
        """Return the encoded prompt to use, [b, s, d]; called where `changes_prompt` is true."""
        return prompt.encoded

    def children(self) -> tuple[Guidance, ...]:
        """The methods inside this one."""
        return ()

    def needs(self, info: StepInfo) -> Needs:
        """The halves that it looks at in an evaluation; the other one is not computed.

        Where it names one half, it has to answer a scale of 1 ("cond") or 0 ("uncond").
        """
        return "both"

    def looks_back(self) -> bool:
        """Whether it may look at the distances of earlier evaluations.

        They are NaN where one half was spared, so such a method makes a composition spare none.
        """
        return True

    def requires_uncond(self) -> bool:
        """Whether it acts through the unconditional estimate; a distilled model has none."""
        return True

    def indexes(self) -> tuple[VectorIndex, ...]:
        """The training sets that it keeps away from, with those of the methods inside it."""
        return tuple(index for child in self.children() for index in child.indexes())

    def embedders(self) -> tuple[Embedder, ...]:
        """The embedders that it compares with, with those of the methods inside it."""
        return tuple(embedder for child in self.children() for embedder in child.embedders())

    def gradient_reach(self) -> Reach:
        """How far back it takes a gradient of the estimate's sound."""
        reaches: tuple[Reach, ...] = ("none", "decoder", "network")
        inside = (child.gradient_reach() for child in self.children())
        return max(inside, key=reaches.index, default="none")

    def with_threshold(self, similarity: float) -> Guidance | None:
        """The same method with its gate at this similarity; None: it has no gate."""
        return None

    def idle(self, records: Sequence[Record]) -> str | None:
        """Why it cannot have acted in a generation, as a clause, from the records of those
        evaluations in which it was on; None: it acted, or could have."""
        reasons = (child.idle(records) for child in self.children())
        return next((reason for reason in reasons if reason), None)

    def label(self) -> str:
        """What messages call it."""
        return type(self).__name__


class ComparingGuidance(Guidance):
    """A method that compares the estimate with a training set of its own."""

    index: VectorIndex
    embedder: Embedder

    def looks_back(self) -> bool:
        return False

    def indexes(self) -> tuple[VectorIndex, ...]:
        return (self.index, *super().indexes())

    def embedders(self) -> tuple[Embedder, ...]:
        return (self.embedder, *super().embedders())


class PromptGuidance(Guidance):
    """A method that changes the prompt and then guides as plain classifier-free guidance does."""

    changes_prompt = True
    scale: float

    @abstractmethod
    def condition(self, prompt: Prompt) -> Tensor: ...

    def requires_uncond(self) -> bool:
        return False

    def __call__(self, step: Step) -> Guided:
        return Guided(self.scale)


class WatchingGuidance(Guidance):
    """A method that answers as the one inside it does, and notes more: it looks at both halves."""

    guidance: Guidance

    def children(self) -> tuple[Guidance, ...]:
        return (self.guidance,)

    @property
    def changes_prompt(self) -> bool:
        return self.guidance.changes_prompt

    def condition(self, prompt: Prompt) -> Tensor:
        return self.guidance.condition(prompt)


class FunctionGuidance(Guidance):
    """A plain function of a `Step`, about which nothing else is known."""

    def __init__(self, function: Callable[[Step], Guided | Tensor]):
        self.function = function

    def __call__(self, step: Step) -> Guided | Tensor:
        return self.function(step)

    def label(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)


def as_guidance(method: Guidance | Callable[[Step], Guided | Tensor]) -> Guidance:
    """A method as it is; a plain function of a `Step` as a method.

    Raises:
        BadSetting: it is neither of the two.

    >>> as_guidance(lambda step: step.cond).label()
    '<lambda>'
    """
    if isinstance(method, Guidance):
        return method
    got, fix = _not_a_method(method)
    if got:
        raise BadSetting(f"a guidance was expected, got {got}; {fix}")
    return FunctionGuidance(method)


def inner_guidance(method: Guidance, around: str) -> Guidance:
    """A method for the inside of another one, named `around`.

    Raises:
        BadSetting: it is not a guidance, or changes the prompt, which holds for a whole run.
    """
    inner = as_guidance(method)
    if inner.changes_prompt:
        raise BadSetting(
            f"{inner.label()} changes the prompt, which holds for a whole run; put it around the "
            f"composition: Prompted({inner.label()}(...), {around}(...))"
        )
    return inner


def _not_a_method(method: Any) -> tuple[str, str]:
    """What was given in place of a guidance and what to do about it; ("", "") for a function."""
    if method is None:
        return "None", "to generate without a guard, call the pipeline outside of one"
    if isinstance(method, str):
        build = "or use anechoic.guidance.registry.build"
        return f"the name {method!r}", f"build it, as in AntiMemorization(index, embedder), {build}"
    if isinstance(method, int | float):
        plain = f"for classifier-free guidance of that scale, use ClassifierFree({method})"
        return f"the number {method}", plain
    if isinstance(method, type):
        return f"the class {method.__name__}", f"make an instance: {method.__name__}(...)"
    kind = f"an object of type {type(method).__name__}"
    if not callable(method):
        return kind, "use a method of anechoic.guidance, or a function of a Step"
    for name in ("condition", "needs", "requires_uncond", "indexes"):
        if hasattr(method, name):  # as a function, it would lose what it says of itself
            fix = f"it defines '{name}', so inherit anechoic.guidance.base.Guidance"
            return kind, fix
    try:
        inspect.signature(method).bind(None)
    except TypeError:
        name = getattr(method, "__name__", type(method).__name__)
        return f"the function {name}{inspect.signature(method)}", "give one of a Step alone"
    except ValueError:  # a function of C code without a signature
        pass
    return "", ""
