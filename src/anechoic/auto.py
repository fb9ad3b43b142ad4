"""`auto`: the guard that needs no settings, because it reads them off the index's calibration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from anechoic.detectors import calibration
from anechoic.detectors.nearest import NearestStretch
from anechoic.embedders import embedder as make_embedder
from anechoic.guidance.base import Guidance
from anechoic.guidance.similarity import read_off
from anechoic.guidance.step import Guided, Step
from anechoic.guidance.substitution import OPENS, CaptionSubstitution
from anechoic.index import JoinedIndex, TrainingIndex
from anechoic.types import Embedder, VectorIndex, parts_of

if TYPE_CHECKING:
    from anechoic.detectors.calibration import Calibration

Given = TrainingIndex | str | Path
Method = Guidance | Callable[[Step], Guided | Tensor]
GuidedBy = TrainingIndex | Path | Sequence[TrainingIndex | Path] | Method  # what `guard` takes


@dataclass(frozen=True)
class Auto(CaptionSubstitution):
    """Caption substitution without settings: its one number is read off the index's calibration.

    A caption is replaced once its estimate comes nearer to a training clip than nineteen in twenty
    of the held-out sounds. An index that is not calibrated still gives a limit, by how near its own
    clips come to each other; but then nobody can judge what was generated, since no false-positive
    rate is known. `because` says which of the two it was.

    Its arguments are those of `CaptionSubstitution`; `opens`, if it is given, replaces what would
    be read.

    Raises:
        IndexMismatch: another embedder built the index; or its calibration is damaged, or older
            than the last change of the index.

    Source: our own; docs/evidence/auto.md has the measurements.
    """

    def __post_init__(self) -> None:
        if self.opens is None:
            limits = tuple(found.limit for found in self._origins)
            if isinstance(self.index, JoinedIndex):
                object.__setattr__(self, "index", JoinedIndex(self.index.parts, limits))
            object.__setattr__(self, "opens", limits[0])
        super().__post_init__()

    @classmethod
    def of(cls, index: Given | Sequence[Given], scale: float = 7.0) -> Auto:
        """The automatic guard for an index, by the embedder that built it.

        Args:
            index: an index, or its folder; or several by one embedder, such as that of a model
                and that of what it was fine-tuned on.
            scale: classifier-free guidance scale.

        Raises:
            IndexMismatch: as the class; or several of different embedders.
            UnknownEmbedder: the index's embedder is not installed, or its weights are not here.
        """
        given = [index] if isinstance(index, (TrainingIndex, str, Path)) else list(index)
        opened = [one if isinstance(one, TrainingIndex) else TrainingIndex.load(one)
                  for one in given]  # fmt: skip
        searched = JoinedIndex.of(opened)
        return cls(searched, make_embedder(searched.embedder_name, trusted=False), scale)

    @property
    def because(self) -> str:
        """What was chosen, and why, in a sentence."""
        origins = self._origins
        limits = getattr(self.index, "limits", None) or (self.threshold,) * len(origins)
        each = (
            f"over {limit:.3f}{found.of if len(origins) > 1 else ''}: the {100 * OPENS:.0f} % "
            f"point of {found.origin}"
            for limit, found in zip(limits, origins, strict=True)
        )
        return (
            "auto replaces a caption once what it leads to has a similarity to a training clip "
            f"{'; '.join(each)}"
        )

    @cached_property
    def _origins(self) -> list[_Origin]:
        parts = parts_of(self.index)
        names = [getattr(part, "name", "") for part in parts]
        if len({*names}) < len(names):  # folders of one name, in different places
            names = [str(getattr(part, "folder", None) or part.name) for part in parts]
        return [
            _origin(part, self.embedder, f" of index '{name}'")
            for part, name in zip(parts, names, strict=True)
        ]


def method_of(given: GuidedBy, scale: float) -> Method:
    """The method that guides: `Auto` at this scale where indexes are given."""
    several = given if isinstance(given, list | tuple) else [given]
    if not all(isinstance(one, TrainingIndex | Path) for one in several):
        return given  # type: ignore[return-value]
    return Auto.of(given, scale)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Origin:
    """A limit that was read off, and off what."""

    limit: float
    origin: str
    of: str  # which index, as a clause


def _origin(index: VectorIndex, embedder: Embedder, of: str) -> _Origin:
    known = _calibration(index, embedder)
    if known is None:
        near = (
            "how near the clips of the index come to each other, a guess, since it is not "
            "calibrated: 'anechoic calibrate' measures it on held-out sound"
        )
        return _Origin(read_off(index, OPENS)[0], near, of)
    limit, low, high = known.quantile(OPENS)
    origin = f"{len(known.null)} held-out sounds (95 % interval {low:.3f} to {high:.3f})"
    return _Origin(min(limit, 1 - 1e-3), origin, of)


def _calibration(index: VectorIndex, embedder: Embedder) -> Calibration | None:
    if not isinstance(index, TrainingIndex) or index.folder is None:
        return None
    return calibration.read(index.folder).get(NearestStretch(index, embedder).name)
