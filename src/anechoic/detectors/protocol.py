"""What every detector takes and answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from anechoic.guidance.step import Record
from anechoic.types import Match

NOTHING = Match(-math.inf)  # for a clip that is silent or too short to be compared


@runtime_checkable
class Detector(Protocol):
    """Tells copies of training clips by their sound.

    Each clip of a batch is judged by itself, and the same sound gives the same match. A clip
    that is silent, or shorter than the detector says, gets `NOTHING`; sound that is NaN, infinite
    or of another shape is refused.
    """

    @property
    def name(self) -> str:
        """What calibrations of it are filed under: it tells every setting that a score has."""
        ...

    def __call__(self, wav: Tensor, sample_rate: int) -> list[Match]:
        """Judge clips.

        Args:
            wav: sound [b, channels, t] at `sample_rate`, of any level.
            sample_rate: in Hz.

        Returns:
            One match a clip.

        Raises:
            BadAudio: not usable sound.
        """
        ...


@runtime_checkable
class RunDetector(Protocol):
    """Tells memorized prompts by what a guard recorded while they were generated.

    It needs neither training set nor sound, and no more of the run than it says.
    """

    @property
    def name(self) -> str:
        """What calibrations of it are filed under."""
        ...

    def __call__(self, records: Sequence[Record]) -> list[Match]:
        """Judge one batch.

        Args:
            records: of one generation, an evaluation of the network each.

        Returns:
            One match a sample; only its score is told.

        Raises:
            GuardError: the records do not hold what is needed.
        """
        ...


class TrainingSound(Protocol):
    """A training clip: an `anechoic.index.Sound` is one."""

    @property
    def wav(self) -> Tensor:
        """[c, t]"""
        ...

    @property
    def sample_rate(self) -> int:
        """In Hz."""
        ...
