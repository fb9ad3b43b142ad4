"""The task of a bench: a model with its prompts, its training set and its judges.

Any object of the `Task` protocol can be benched. Each worker process opens its own, so a `Source`
names it: an entry point of the group "anechoic.tasks", or "module:factory", and the factory's
keyword arguments.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from anechoic.errors import BadSetting
from anechoic.plugins import entry_points
from anechoic_lab.bench.plan import Method

if TYPE_CHECKING:
    from anechoic.guidance.base import Guidance

GROUP = "anechoic.tasks"
PIPELINE = "pipeline"
BUILT_IN = {PIPELINE: "anechoic_lab.bench.pipeline:open_pipeline"}
MEMORIZED = "memorized"  # the group of prompts over which similarity and copies are computed


@dataclass(frozen=True)
class BenchPrompt:
    """A prompt, with its id and group."""

    id: str
    caption: str
    group: str = ""  # "memorized", "ordinary", ...


@dataclass(frozen=True)
class Request:
    """A request to generate one clip for each prompt, all with one seed."""

    scenario: str
    prompts: Sequence[BenchPrompt]
    seed: int
    method: Method
    steps: int | None = None  # None: the task's own number

    @property
    def captions(self) -> list[str]:
        """The captions of the prompts, in order."""
        return [prompt.caption for prompt in self.prompts]

    @property
    def keys(self) -> list[tuple[str, str, str, int]]:
        """The first fields of each `SampleScore` of the answer, which identify it."""
        return [(prompt.id, prompt.caption, prompt.group, self.seed) for prompt in self.prompts]


@dataclass(frozen=True)
class SampleScore:
    """The measurements of one generated clip."""

    prompt: str  # the id of its `BenchPrompt`
    caption: str
    group: str
    seed: int
    similarity: float  # to the nearest training clip, by the descriptor that guards follow
    copied: bool  # by the task's own rule
    seconds: float
    evaluations: float  # passes of the clip through the denoiser
    adherence: float | None = None  # to the prompt; None: not measured
    scores: Mapping[str, float] = field(default_factory=dict)  # by descriptors no guard follows
    quality: Sequence[float] = ()  # its embedding for FAD and KAD; empty: not measured
    verdict: str = ""  # as `anechoic check` gives it; empty: the task gives no verdicts
    p_value: float | None = None  # p-value of the verdict; None: the index is not calibrated


class Task(Protocol):
    """A model and its judges.

    The results depend only on the arguments: the same request gives the same rows, except for
    `SampleScore.seconds`, in any process and in any order.
    """

    name: str
    scenarios: Sequence[str]  # the names of all its scenarios

    def about(self) -> Mapping[str, str]:
        """Describe the measures to a reader: embedders and their revisions, windows, the rule by
        which a clip is a copy, how adherence is measured, the size of the index."""
        ...

    def fingerprint(self, scenario: str) -> str:
        """A hash of all that determines its rows, except the requests: weights, index, judges,
        reference."""
        ...

    def prompts(self, scenario: str, split: str) -> Sequence[BenchPrompt]:
        """The prompts of a split; raises `BadSetting` for an unknown one."""
        ...

    def guidance(self, scenario: str, method: Method) -> Guidance | None:
        """The guidance of a method; None for the plain pipeline. Called once for each method before
        anything is generated, so that a bad setting is refused early."""
        ...

    def generate(self, request: Request) -> Sequence[SampleScore]:
        """Generate and judge one clip for each prompt."""
        ...

    def reference(self, scenario: str) -> Sequence[Sequence[float]]:
        """Quality embeddings [m, d] of real sound; empty if FAD and KAD are not measured."""
        ...

    def baseline(self, scenario: str) -> Sequence[float]:
        """Similarity of training clips to the nearest other one, as `SampleScore.similarity`."""
        ...


@dataclass(frozen=True)
class Source:
    """Names a task and its options; can be pickled and hashed."""

    name: str  # "pipeline", "demo", another entry point, or "module:factory"
    options: tuple[tuple[str, Any], ...] = ()  # keyword arguments of the factory

    @classmethod
    def of(cls, name: str, **options: Any) -> Source:
        """A source with options; options that are None are left out.

        >>> Source.of("demo", folder="my-demo", index=None).options
        (('folder', 'my-demo'),)
        """
        given = {key: value for key, value in options.items() if value is not None}
        return cls(name, tuple(sorted(given.items())))


def open_task(source: Source) -> Task:
    """Open the task of a source.

    Raises:
        BadSetting: an unknown task, an unknown option, or a missing one.
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
    """Whether a name means a task rather than a pipeline.

    >>> is_task("pipeline"), is_task("my.module:make"), is_task("stabilityai/some-model")
    (True, True, False)
    """
    module, separator, attribute = name.partition(":")
    path = module.replace(".", "").isidentifier() and attribute.isidentifier()
    return name in _known() or bool(separator and path)


def _known() -> dict[str, str]:
    return BUILT_IN | {point.name: point.value for point in entry_points(group=GROUP)}


def _factory(name: str) -> Callable[..., Task]:
    known = _known()
    module, _, attribute = known.get(name, name).partition(":")
    if not attribute:
        raise BadSetting(
            f"expected a task among {', '.join(sorted(known))} or module:factory, got {name!r}; "
            "correct the name, or install the package that provides it"
        )
    try:
        factory: Callable[..., Task] = getattr(importlib.import_module(module), attribute)
        return factory
    except (ModuleNotFoundError, AttributeError) as error:
        raise BadSetting(f"task '{name}' cannot be opened ({error}); correct the name") from error
