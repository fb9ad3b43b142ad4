"""The interface of detectors: of sound, and of runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from anechoic.guidance.step import Record
from anechoic.types import Match

NOTHING = Match(-math.inf)  # for a clip that is silent, too short, or too bare


@runtime_checkable
class Detector(Protocol):
    """Scores how much a sound is like the training clip that it comes nearest to.

    Each clip of a batch is compared separately, and the same sound gives the same match. The match
    of a clip that is silent, too short for the detector, or has too little in it (peaks, notes), is
    `NOTHING`; NaN, infinite values and other shapes are refused.
    """

    @property
    def name(self) -> str:
        """The key of its calibrations; it includes every setting that changes a score."""
        ...

    def __call__(self, wav: Tensor, sample_rate: int) -> list[Match]:
        """Compare clips.

        Args:
            wav: sound [b, channels, t] at `sample_rate`, of any level.
            sample_rate: in Hz.

        Returns:
            One match for each clip.

        Raises:
            BadAudio: not usable sound.
        """
        ...


@runtime_checkable
class RunDetector(Protocol):
    """Scores how memorized a prompt is by what a guard recorded while it was generated.

    It needs neither a training set nor sound.
    """

    @property
    def name(self) -> str:
        """The key of its calibrations."""
        ...

    def __call__(self, records: Sequence[Record]) -> list[Match]:
        """Score one batch.

        Args:
            records: records of one generation, one for each evaluation of the denoiser.

        Returns:
            One match for each sample, with only a score.

        Raises:
            GuardError: the records lack what it needs.
        """
        ...


class TrainingSound(Protocol):
    """A training clip, such as `anechoic.index.Sound`."""

    @property
    def wav(self) -> Tensor:
        """[c, t]"""
        ...

    @property
    def sample_rate(self) -> int:
        """In Hz."""
        ...
