"""What is benched: a model with its prompts, its training set and its judges.

Any object of the `Task` protocol can be benched. Worker processes open it themselves, so it is
named by a `Source`: the name of an entry point of the group "anechoic.tasks", or
"module:factory", and the factory's keyword arguments.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Protocol

from anechoic.errors import BadSetting
from anechoic_lab.bench.plan import Method

if TYPE_CHECKING:
    from anechoic.guidance.base import Guidance

GROUP = "anechoic.tasks"
PIPELINE = "pipeline"
BUILT_IN = {PIPELINE: "anechoic_lab.bench.pipeline:open_pipeline"}
MEMORIZED = "memorized"  # the group of prompts by which similarity and copies are told


@dataclass(frozen=True)
class BenchPrompt:
    """A prompt, and what is known of it."""

    id: str
    caption: str
    group: str = ""  # "memorized", "ordinary", ...


@dataclass(frozen=True)
class Request:
    """What a task is asked to generate: one clip for each prompt, all under one seed."""

    scenario: str
    prompts: Sequence[BenchPrompt]
    seed: int
    method: Method
    steps: int | None = None  # None: the task's own number

    @property
    def captions(self) -> list[str]:
        """What the prompts say, in their order."""
        return [prompt.caption for prompt in self.prompts]

    @property
    def keys(self) -> list[tuple[str, str, str, int]]:
        """The first fields of each `SampleScore` of the answer, by which it is known."""
        return [(prompt.id, prompt.caption, prompt.group, self.seed) for prompt in self.prompts]


@dataclass(frozen=True)
class SampleScore:
    """One generated clip as the judges see it."""

    prompt: str  # the id of its `BenchPrompt`
    caption: str
    group: str
    seed: int
    similarity: float  # by the guide's own descriptor, to the nearest training clip of all
    copied: bool  # by the task's own rule
    seconds: float
    evaluations: float  # passes of the clip through the denoiser
    adherence: float | None = None  # to the prompt; None: not measured
    scores: Mapping[str, float] = field(default_factory=dict)  # by descriptors that guide nothing
    quality: Sequence[float] = ()  # its embedding for FAD and KAD; empty: not measured
    verdict: str = ""  # by the index, as `anechoic check` gives it; empty: the task asks none
    p_value: float | None = None  # of the verdict; None: the index is not calibrated


class Task(Protocol):
    """A model and everything that judges it.

    The answers depend on the arguments alone: the same request gives the same rows, but for
    `SampleScore.seconds`, in any process and in any order.
    """

    name: str
    scenarios: Sequence[str]  # all that it knows

    def about(self) -> Mapping[str, str]:
        """What a reader has to know of the measures: embedders and their revisions, windows, the
        rule by which a clip is a copy, how adherence is told, the size of the index."""
        ...

    def fingerprint(self, scenario: str) -> str:
        """A hash of all that determines its rows, but for the requests: weights, index,
        judges, reference."""
        ...

    def prompts(self, scenario: str, split: str) -> Sequence[BenchPrompt]:
        """The prompts of a split; raises `BadSetting` for one that it does not know."""
        ...

    def guidance(self, scenario: str, method: Method) -> Guidance | None:
        """The guidance of a method, None for the plain pipeline. It is made once for each method
        before anything is generated, so that a bad setting costs nothing."""
        ...

    def generate(self, request: Request) -> Sequence[SampleScore]:
        """One clip for each prompt, generated and judged."""
        ...

    def reference(self, scenario: str) -> Sequence[Sequence[float]]:
        """Quality embeddings [m, d] of real sound; empty where FAD and KAD are not measured."""
        ...

    def baseline(self, scenario: str) -> Sequence[float]:
        """Similarity of training clips to the nearest other one, as `SampleScore.similarity`."""
        ...


@dataclass(frozen=True)
class Source:
    """Where a task comes from; it can be pickled and hashed."""

    name: str  # "pipeline", "demo", another entry point, or "module:factory"
    options: tuple[tuple[str, Any], ...] = ()  # keyword arguments of the factory

    @classmethod
    def of(cls, name: str, **options: Any) -> Source:
        """A source with options; those that are None are left out.

        >>> Source.of("demo", folder="my-demo", index=None).options
        (('folder', 'my-demo'),)
        """
        given = {key: value for key, value in options.items() if value is not None}
        return cls(name, tuple(sorted(given.items())))


def open_task(source: Source) -> Task:
    """The task of a source.

    Raises:
        BadSetting: no such task, or an option that it does not take or lacks.
    """
    make, options = _factory(source.name), dict(source.options)
    try:
        inspect.signature(make).bind(**options)
    except TypeError as error:
        takes = ", ".join(inspect.signature(make).parameters) or "none"
        raise BadSetting(
            f"the options of task '{source.name}' do not fit ({error}); it takes {takes}"
        ) from error
    return make(**options)


def is_task(name: str) -> bool:
    """Whether a name is that of a task, not of a pipeline.

    >>> is_task("pipeline"), is_task("my.module:make"), is_task("stabilityai/some-model")
    (True, True, False)
    """
    module, separator, attribute = name.partition(":")
    path = module.replace(".", "").isidentifier() and attribute.isidentifier()
    return name in _known() or bool(separator and path)


def _known() -> dict[str, str]:
    return BUILT_IN | {point.name: point.value for point in entry_points(group=GROUP)}


def _factory(name: str) -> Any:
    known = _known()
    module, _, attribute = known.get(name, name).partition(":")
    if not attribute:
        raise BadSetting(
            f"expected a task among {', '.join(sorted(known))} or module:factory, got {name!r}; "
            "correct the name, or install the package that brings it"
        )
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ModuleNotFoundError, AttributeError) as error:
        raise BadSetting(f"task '{name}' cannot be opened ({error}); correct the name") from error
