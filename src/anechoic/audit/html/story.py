"""What a page tells, as plain frozen records over numpy arrays.

Every word in them (captions, sources, licences, notes) is untrusted input; the page escapes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from anechoic.errors import BadSetting

SIMILARITY = "similarity"  # the key of the guide's own similarity among the judges


@dataclass(frozen=True)
class Figure:
    """A measured value, its 95 % interval where it has one, and over how many it was taken.

    >>> Figure(0.83, 0.70, 0.92, 80).show(".2f")
    '0.83 [0.70, 0.92] n=80'
    """

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None

    def interval(self, spec: str) -> str:
        """The interval alone, or an empty string where there is none."""
        if self.low is None or self.high is None:
            return ""
        return f"[{format(self.low, spec)}, {format(self.high, spec)}]"

    def show(self, spec: str) -> str:
        """Value, interval and n in one line."""
        count = "" if self.n is None else f"n={self.n}"
        return " ".join(
            part for part in (format(self.value, spec), self.interval(spec), count) if part
        )


@dataclass(frozen=True)
class Column:
    """A column of the table of methods; `format` is a Python format spec such as `.2f` or `.0%`."""

    key: str
    label: str
    help: str = ""
    format: str = ".2f"
    better: Literal["lower", "higher"] | None = None


@dataclass(frozen=True)
class MethodRow:
    """One way to generate, with its measured figures by `Column.key`."""

    name: str
    label: str
    description: str = ""
    figures: Mapping[str, Figure] = field(default_factory=dict)


@dataclass(frozen=True)
class Judge:
    """How a score is named and read; `threshold` is where it starts to speak for a copy.

    The key `similarity` stands for the guide's own `Generation.similarity`.
    """

    key: str
    label: str
    help: str = ""
    threshold: float | None = None


@dataclass(frozen=True, eq=False)
class Clip:
    """A training clip; `id` is what makes it the same clip elsewhere on the page."""

    caption: str
    id: str
    wav: np.ndarray  # float32 [t]
    sample_rate: int
    licence: str = ""
    source: str = ""
    url: str = ""


@dataclass(frozen=True, eq=False)
class Curve:
    """What one generation looked like from inside, one entry an evaluation of the network."""

    progress: np.ndarray  # [n], 0 is pure noise, 1 is the finished sound
    log_snr: np.ndarray  # [n], log(alpha^2 / sigma^2)
    distance: np.ndarray  # [n], |eps_c - eps_u|
    similarity: np.ndarray | None = None  # [n]
    gate: np.ndarray | None = None  # bool [n], whether the guard acted
    threshold: np.ndarray | None = None  # [n], what similarity is compared with
    transition: float | None = None  # progress at which CFG was switched on

    def __post_init__(self) -> None:
        n = len(self.progress)
        for name in ("log_snr", "distance", "similarity", "gate", "threshold"):
            values = getattr(self, name)
            if values is not None and np.shape(values) != (n,):
                raise BadSetting(
                    f"curve.{name} has shape {np.shape(values)} but progress has {n} entries; "
                    "record both at every evaluation"
                )


@dataclass(frozen=True, eq=False)
class Generation:
    """What one method made of a case's prompt and seed, and what the judges say of it."""

    method: str
    wav: np.ndarray  # float32 [t]
    sample_rate: int
    similarity: float  # by the guide's descriptor, to `nearest`
    scores: Mapping[str, float]  # by each judge
    copy: bool
    nearest: Clip
    curve: Curve

    def __post_init__(self) -> None:
        for key, value in {SIMILARITY: self.similarity, **self.scores}.items():
            if not np.isfinite(value):
                raise BadSetting(
                    f"the score '{key}' of a generation by '{self.method}' is {value}; "
                    "a page shows only what could be judged"
                )

    def score(self, judge: str) -> float | None:
        """The score by a judge's key, the guide's own similarity among them."""
        return self.similarity if judge == SIMILARITY else self.scores.get(judge)


@dataclass(frozen=True, eq=False)
class Case:
    """One prompt and seed under every method."""

    prompt: str
    kind: Literal["duplicated", "ordinary"]
    seed: int
    training: Clip  # the clip that carries this prompt in the training set
    generations: Sequence[Generation]


@dataclass(frozen=True, eq=False)
class Story:
    """Everything the page says."""

    title: str
    sentence: str
    settings: Mapping[str, str]
    columns: Sequence[Column]
    methods: Sequence[MethodRow]
    cases: Sequence[Case]
    notes: Sequence[str] = ()
    citations: Sequence[str] = ()
    judges: Sequence[Judge] = ()

    def __post_init__(self) -> None:
        """Whatever the page would have to drop in silence is refused here."""
        names = [m.name for m in self.methods]
        keys = {c.key for c in self.columns}
        if len(set(names)) != len(names):
            raise BadSetting(f"methods {names} are not distinct; give each its own name")
        for row in self.methods:
            if lost := sorted(set(row.figures) - keys):
                raise BadSetting(
                    f"method '{row.name}' has figures {lost} but the columns are {sorted(keys)}; "
                    "add a Column for each"
                )
        for case in self.cases:
            for made in case.generations:
                if made.method not in names:
                    raise BadSetting(
                        f"a generation of '{case.prompt}' names the method '{made.method}' but "
                        f"the methods are {names}; add a MethodRow for it"
                    )
