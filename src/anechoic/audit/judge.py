"""Judges a sound by any detector of sound, as `anechoic.verdict.Verifier` does by the nearest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from anechoic.audit.training import TrainingSet
from anechoic.detectors import Calibration, Detector
from anechoic.index import TrainingIndex
from anechoic.verdict import Rule, Verdict, weigh, without_rule


@dataclass(frozen=True, eq=False)
class DetectorVerifier:
    """A detector that is fitted to a training set, and the rule that its scores are judged by.

    Args:
        training: the clips.
        detector: fitted to them.
        rule: how scores are judged; None: sounds are compared, but not judged.
        calibration: gives the p-values; None: there are none.
    """

    training: TrainingSet
    detector: Detector
    rule: Rule | None
    calibration: Calibration | None

    @property
    def index(self) -> TrainingIndex:
        return self.training.index

    def file(self, number: int) -> Path | None:
        """The sound file of a training clip, if the index names one."""
        return self.training.file(number)

    def __call__(self, wav: Tensor, sample_rate: int) -> Verdict:
        """DetectorVerifier one sound [c, t].

        Raises:
            BadAudio: not usable sound.
        """
        (match,) = self.detector(wav[None], sample_rate)
        unruled = without_rule(self.index, self.detector.name)
        return weigh(match, self.training.clips, self.rule, self.calibration, unruled)
