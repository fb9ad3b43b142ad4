"""`auto`: the guard that needs no settings, because it reads them off the index's calibration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from anechoic.detectors import calibration
from anechoic.detectors.nearest import NearestStretch
from anechoic.embedders import embedder as make_embedder
from anechoic.guidance.substitution import OPENS, CaptionSubstitution
from anechoic.index import TrainingIndex

if TYPE_CHECKING:
    from anechoic.detectors.calibration import Calibration


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
        if self.opens is None and (known := self._calibration()) is not None:
            object.__setattr__(self, "opens", min(known.quantile(OPENS)[0], 1 - 1e-3))
        super().__post_init__()

    @classmethod
    def of(cls, index: TrainingIndex | str | Path, scale: float = 7.0) -> Auto:
        """The automatic guard for an index, by the embedder that built it.

        Args:
            index: an index, or its folder.
            scale: classifier-free guidance scale.

        Raises:
            IndexMismatch: as the class.
            UnknownEmbedder: the index's embedder is not installed, or its weights are not here.
        """
        opened = index if isinstance(index, TrainingIndex) else TrainingIndex.load(index)
        return cls(opened, make_embedder(opened.embedder_name, trusted=False), scale)

    @property
    def because(self) -> str:
        """What was chosen, and why, in a sentence."""
        known = self._calibration()
        origin = "how near the clips of the index come to each other, since it is not calibrated"
        if known is not None:
            _, low, high = known.quantile(OPENS)
            origin = f"{len(known.null)} held-out sounds (95 % interval {low:.3f} to {high:.3f})"
        return (
            "auto replaces a caption once what it leads to has a similarity to a training clip "
            f"over {self.threshold:.3f}: the {100 * OPENS:.0f} % point of {origin}"
        )

    def _calibration(self) -> Calibration | None:
        index = self.index
        if not isinstance(index, TrainingIndex) or index.folder is None:
            return None
        detector = NearestStretch(index, self.embedder).name
        return calibration.read(index.folder).get(detector)
