"""The base classes of guidance methods."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import Field, fields, is_dataclass
from typing import Any, Literal

from torch import Tensor

from anechoic.display import facts_html
from anechoic.errors import BadSetting
from anechoic.guidance.step import Guided, Needs, Prompt, Record, Step, StepInfo
from anechoic.types import Embedder, VectorIndex

Reach = Literal["none", "decoder", "network"]  # how far back a gradient goes


class Guidance(ABC):
    """Combines the two halves of a classifier-free guided network at one evaluation.

    A guidance is a frozen dataclass that inherits this class and defines `__call__`. The defaults
    below suit one that uses both halves, leaves the prompt alone, compares with no training set
    and contains no other guidance. A plain function of a `Step` that returns a `Guided` or an x0
    estimate [b, *latent] qualifies as well: see `as_guidance`.
    """

    @abstractmethod
    def __call__(self, step: Step) -> Guided | Tensor:
        """Guide one evaluation."""

    @property
    def changes_prompt(self) -> bool:
        """Whether `condition` is called before each evaluation."""
        return False

    def condition(self, prompt: Prompt) -> Tensor:
        """Return the encoded prompt to use, [b, s, d]; called if `changes_prompt` is true."""
        return prompt.encoded

    def children(self) -> tuple[Guidance, ...]:
        """The methods inside this one."""
        return ()

    def needs(self, info: StepInfo) -> Needs:
        """The halves that it uses at an evaluation; the other one is not computed.

        If it names one half, it has to return a scale of 1 ("cond") or 0 ("uncond").
        """
        return "both"

    def looks_back(self) -> bool:
        """Whether it may use the distances of earlier evaluations.

        They are NaN if one half was not computed, so a composition with such a method computes
        both halves throughout.
        """
        return True

    def requires_uncond(self) -> bool:
        """Whether it needs the unconditional estimate, which a distilled model lacks."""
        return True

    def indexes(self) -> tuple[VectorIndex, ...]:
        """The training sets that it stays away from, with those of the methods inside it."""
        return tuple(index for child in self.children() for index in child.indexes())

    def embedders(self) -> tuple[Embedder, ...]:
        """The embedders that it compares with, with those of the methods inside it."""
        return tuple(embedder for child in self.children() for embedder in child.embedders())

    def gradient_reach(self) -> Reach:
        """How far back its gradient of the estimate's sound goes."""
        reaches: tuple[Reach, ...] = ("none", "decoder", "network")
        inside = (child.gradient_reach() for child in self.children())
        return max(inside, key=reaches.index, default="none")

    def with_threshold(self, similarity: float) -> Guidance | None:
        """The same method with its gate at this similarity; None: it has no gate."""
        return None

    def idle(self, records: Sequence[Record]) -> str | None:
        """Why it cannot have acted in a generation, as a clause; None: it acted, or could have.

        `records` are those of the evaluations in which it was on.
        """
        reasons = (child.idle(records) for child in self.children())
        return next((reason for reason in reasons if reason), None)

    def label(self) -> str:
        """Its name in messages."""
        return type(self).__name__

    def _repr_html_(self) -> str:
        own: list[Field[Any]] = [*fields(self)] if is_dataclass(self) else []
        shown: dict[str, Any] = {one.name: getattr(self, one.name) for one in own if one.repr}
        return facts_html(self.label(), {
            name: value.label() if isinstance(value, Guidance) else getattr(value, "name", value)
            for name, value in shown.items()
        })  # fmt: skip


class ComparingGuidance(Guidance):
    """A method that compares the estimate with its own training set."""

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
    """A method that guides as the one inside it does, under its name and settings, and records
    more; it uses both halves."""

    guidance: Guidance

    def children(self) -> tuple[Guidance, ...]:
        return (self.guidance,)

    def label(self) -> str:
        return self.guidance.label()

    @property
    def changes_prompt(self) -> bool:
        return self.guidance.changes_prompt

    def condition(self, prompt: Prompt) -> Tensor:
        return self.guidance.condition(prompt)


class FunctionGuidance(Guidance):
    """A plain function of a `Step`, with the defaults of `Guidance`."""

    def __init__(self, function: Callable[[Step], Guided | Tensor]):
        self.function = function

    def __call__(self, step: Step) -> Guided | Tensor:
        return self.function(step)

    def label(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)


def as_guidance(method: Guidance | Callable[[Step], Guided | Tensor]) -> Guidance:
    """Return a method as it is, and wrap a plain function of a `Step`.

    Raises:
        BadSetting: it is neither of the two.

    >>> as_guidance(lambda step: step.cond).label()
    '<lambda>'
    """
    if isinstance(method, Guidance):
        return method
    got, fix = _not_a_method(method)
    if got:
        raise BadSetting(f"expected a guidance, got {got}; {fix}")
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
    """What was given instead of a guidance, and the fix; ("", "") for a function of a step."""
    if method is None:
        return "None", "to generate without a guard, call the pipeline outside of `guard`"
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
        if hasattr(method, name):  # as a function, it would lose this method
            fix = f"it defines '{name}', so inherit anechoic.guidance.base.Guidance"
            return kind, fix
    try:
        inspect.signature(method).bind(None)
    except TypeError:
        name = getattr(method, "__name__", type(method).__name__)
        return f"the function {name}{inspect.signature(method)}", "give a function of a Step alone"
    except ValueError:  # a C function without a signature
        pass
    return "", ""
