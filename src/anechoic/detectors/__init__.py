"""Detectors: does this sound copy a training clip, and is this prompt memorized?

Detectors of sound are fitted to training clips (`NearestStretch`, `TopCosine`, `NearestRatio` and
`Segments` to an index of their embeddings, `Correlation`, `Landmarks`, `Transposed` and `Notes` to
their sound) and return a `Match` for each clip. Detectors of runs (`Magnitude`, `Angle`) need
neither training clips nor sound, only the records of a guard. A `Calibration` turns scores into
p-values and a threshold.
"""

from __future__ import annotations

from anechoic.detectors.calibration import Calibration, calibrate
from anechoic.detectors.correlation import Correlation
from anechoic.detectors.landmarks import Landmarks
from anechoic.detectors.nearest import NearestRatio, NearestStretch, Segments, TopCosine, locate
from anechoic.detectors.notes import Notes
from anechoic.detectors.protocol import NOTHING, Detector, RunDetector, TrainingSound
from anechoic.detectors.screening import Angle, AngleRecorder, Magnitude, alignment, magnitudes
from anechoic.detectors.transposed import Transposed
from anechoic.types import Match

__all__ = [
    "NOTHING",
    "Angle",
    "AngleRecorder",
    "Calibration",
    "Correlation",
    "Detector",
    "Landmarks",
    "Magnitude",
    "Match",
    "NearestRatio",
    "NearestStretch",
    "Notes",
    "RunDetector",
    "Segments",
    "TopCosine",
    "TrainingSound",
    "Transposed",
    "alignment",
    "calibrate",
    "locate",
    "magnitudes",
]
