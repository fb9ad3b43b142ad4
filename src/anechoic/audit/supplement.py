"""Additions to the report of an audit from a comparison of guards: measured figures, further
scores, and curves recorded during each generation.

Every word in it (labels, notes) is untrusted input; the page escapes it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from anechoic.errors import BadSetting

Key = tuple[str, int | None, str]  # prompt, seed and guard of a sample


@dataclass(frozen=True)
class Figure:
    """A measured value, its 95 % interval if there is one, and the number of samples.

    >>> Figure(0.83, 0.70, 0.92, 80).interval(".2f")
    '[0.70, 0.92]'
    """

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None

    def interval(self, spec: str) -> str:
        """The interval as text, or an empty string if there is none."""
        if self.low is None or self.high is None:
            return ""
        return f"[{format(self.low, spec)}, {format(self.high, spec)}]"


@dataclass(frozen=True)
class Column:
    """A column of the table of guards; `format` is a Python format spec such as `.2f` or `.0%`."""

    key: str
    label: str
    help: str = ""
    format: str = ".2f"
    better: Literal["lower", "higher"] | None = None


@dataclass(frozen=True)
class GuardFigures:
    """A guard of the audit, with its measured figures by `Column.key`."""

    guard: str
    label: str
    description: str = ""
    figures: Mapping[str, Figure] = field(default_factory=dict)


@dataclass(frozen=True)
class ScoreInfo:
    """A further score; values above `threshold` indicate a copy."""

    key: str
    label: str
    help: str = ""
    threshold: float | None = None


@dataclass(frozen=True, eq=False)
class Curve:
    """The recorded curve of one generation: an entry for each evaluation of the denoiser."""

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

    def to_dict(self) -> dict[str, Any]:
        """The curve for JSON: missing values become null."""
        return {name: _plain(values) for name, values in vars(self).items()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Curve:
        """The curve that `to_dict` wrote."""
        arrays = {
            name: np.array(values, dtype=bool if name == "gate" else float)
            for name, values in content.items()
            if isinstance(values, list)
        }
        return cls(**{**content, **arrays})


@dataclass(frozen=True, eq=False)
class Detail:
    """Additions to one sample: its kind of prompt, further scores, its curve."""

    kind: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)  # by `ScoreInfo.key`
    curve: Curve | None = None

    def to_dict(self) -> dict[str, Any]:
        """The detail for JSON."""
        curve = None if self.curve is None else self.curve.to_dict()
        return {"kind": self.kind, "scores": dict(self.scores), "curve": curve}


@dataclass(frozen=True, eq=False)
class Supplement:
    """A comparison of guards; `dataclasses.replace(report, supplement=...)` adds it to a report.

    Raises:
        BadSetting: it contradicts itself: the page drops nothing in silence.
    """

    title: str
    sentence: str
    columns: Sequence[Column]
    guards: Sequence[GuardFigures]
    scores: Sequence[ScoreInfo] = ()
    details: Mapping[Key, Detail] = field(default_factory=dict)

    def __post_init__(self) -> None:
        guards = [row.guard for row in self.guards]
        if len(set(guards)) != len(guards):
            raise BadSetting(f"the guards {guards} are not distinct; give each its own row")
        columns, scores = {one.key for one in self.columns}, {one.key for one in self.scores}
        for row in self.guards:
            if lost := sorted(set(row.figures) - columns):
                raise BadSetting(
                    f"guard '{row.guard}' has figures {lost} but the columns are "
                    f"{sorted(columns)}; add a Column for each"
                )
        for (prompt, seed, guard), detail in self.details.items():
            what = f"the sample of '{prompt}', seed {seed}, guard '{guard}'"
            if guard not in guards:
                raise BadSetting(f"{what} has no row among the guards {guards}; add GuardFigures")
            for key, value in detail.scores.items():
                if key not in scores or not math.isfinite(value):
                    raise BadSetting(
                        f"{what} has the score {key}={value}; a report shows finite scores that "
                        f"a ScoreInfo names, and these are {sorted(scores)}"
                    )

    def to_dict(self) -> dict[str, Any]:
        """The supplement for JSON, without the details of single samples."""
        parts = {
            name: [asdict(one) for one in getattr(self, name)]
            for name in ("columns", "guards", "scores")
        }
        return {"title": self.title, "sentence": self.sentence, **parts}


def _plain(values: Any) -> Any:
    if not isinstance(values, np.ndarray):
        return values
    if values.dtype == bool:
        return values.tolist()
    return [round(value, 6) if math.isfinite(value) else None for value in values.tolist()]
