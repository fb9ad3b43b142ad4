"""What every detector takes and answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from anechoic.guidance.step import Record


@dataclass(frozen=True)
class Finding:
    """How much a clip is like the training clip it comes nearest to, and where.

    `start_s` and `match_start_s` are the same instant of the sound, in the clip and in the
    training clip. None: the detector does not tell.
    """

    score: float  # higher: more like a copy; minus infinity: there was nothing to compare
    row: int | None = None  # the training clip, in the order of the training set
    start_s: float | None = None  # of the match, in the clip
    match_start_s: float | None = None  # of the match, in the training clip
    length_s: float | None = None  # of the match

    @property
    def compared(self) -> bool:
        """Whether the clip could be compared: it sounds, and is long enough for the detector."""
        return self.score > -math.inf


NOTHING = Finding(-math.inf)  # for a clip that is silent or too short to be compared


@runtime_checkable
class Detector(Protocol):
    """Tells copies of training clips by their sound.

    Each clip of a batch is judged by itself, and the same sound gives the same finding. A clip
    that is silent, or shorter than the detector says, gets `NOTHING`; sound that is NaN, infinite
    or of another shape is refused.
    """

    @property
    def name(self) -> str:
        """What calibrations of it are filed under: it tells every setting that a score has."""
        ...

    def __call__(self, wav: Tensor, sample_rate: int) -> list[Finding]:
        """Judge clips.

        Args:
            wav: sound [b, channels, t] at `sample_rate`, of any level.
            sample_rate: in Hz.

        Returns:
            One finding a clip.

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

    def __call__(self, records: Sequence[Record]) -> list[Finding]:
        """Judge one batch.

        Args:
            records: of one generation, an evaluation of the network each.

        Returns:
            One finding a sample; only its score is told.

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
