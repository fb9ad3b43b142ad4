"""`auto`: the guard that needs no settings, because it reads them off the index's calibration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from anechoic.detectors import calibration
from anechoic.detectors.nearest import NearestStretch
from anechoic.embedders import embedder as make_embedder
from anechoic.guidance.projection import LIMIT, OPENS, Projection
from anechoic.index import TrainingIndex

if TYPE_CHECKING:
    from anechoic.detectors.calibration import Calibration


@dataclass(frozen=True)
class Auto(Projection):
    """A `Projection` whose limits come from the calibration of its index.

    A sample is led away once it comes nearer to a training clip than nine tenths of the held-out
    sounds, and to where three quarters of them come nearer. An index that is not calibrated still
    gives limits, by how near its own clips come to each other; but then nobody can judge what was
    generated, since no false-positive rate is known. `because` says which of the two it was.

    Its arguments are those of `Projection`; `opens` and `limit`, where they are given, replace
    what would be read.

    Raises:
        IndexMismatch: another embedder built the index; or its calibration is damaged, or older
            than the last change of the index.

    Source: our own; docs/evidence/auto.md has the measurements.
    """

    def __post_init__(self) -> None:
        if (known := self._calibration()) is not None:
            for name, share in (("opens", OPENS), ("limit", LIMIT)):
                if getattr(self, name) is None:
                    object.__setattr__(self, name, min(known.quantile(share)[0], 1 - 1e-3))
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
        opens, limit = self.constraints[0].levels
        known = self._calibration()
        origin = "how near the clips of the index come to each other, since it is not calibrated"
        if known is not None:
            origin = f"{len(known.null)} held-out sounds"
        return (
            f"auto leads a sample away once its similarity to a training clip is over {opens:.3f}, "
            f"to under {limit:.3f}: the {100 * OPENS:.0f} % and {100 * LIMIT:.0f} % points of "
            f"{origin}"
        )

    def _calibration(self) -> Calibration | None:
        index = self.index
        if not isinstance(index, TrainingIndex) or index.folder is None:
            return None
        detector = NearestStretch(index, self.embedder).name
        return calibration.read(index.folder).get(detector)
