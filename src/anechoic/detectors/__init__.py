"""Detectors, one file each: does this sound copy a training clip, and is this prompt memorized?

Detectors of sound are fitted to training clips (`TopCosine`, `NearestRatio` and `Segments` to an
index of their embeddings, `Correlation` and `Landmarks` to their sound) and answer with a
`Finding` for each clip. Detectors of runs (`Magnitude`, `Angle`) need neither training clips nor
sound, only what a guard recorded. What a score is worth is told by its `Calibration`.
"""

from __future__ import annotations

from anechoic.detectors.angle import Angle, Watched, alignment
from anechoic.detectors.calibration import (
    Calibration,
    Estimate,
    Verdict,
    auc,
    calibrate,
    true_positive_rate,
)
from anechoic.detectors.correlation import Correlation
from anechoic.detectors.cosine import NearestRatio, TopCosine
from anechoic.detectors.landmarks import Landmarks
from anechoic.detectors.magnitude import Magnitude, magnitudes
from anechoic.detectors.protocol import NOTHING, Detector, Finding, RunDetector, TrainingSound
from anechoic.detectors.segments import Segments

__all__ = [
    "NOTHING",
    "Angle",
    "Calibration",
    "Correlation",
    "Detector",
    "Estimate",
    "Finding",
    "Landmarks",
    "Magnitude",
    "NearestRatio",
    "RunDetector",
    "Segments",
    "TopCosine",
    "TrainingSound",
    "Verdict",
    "Watched",
    "alignment",
    "auc",
    "calibrate",
    "magnitudes",
    "true_positive_rate",
]
