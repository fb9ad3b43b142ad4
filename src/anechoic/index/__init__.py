"""The training set that a generation is compared with."""

from __future__ import annotations

from anechoic.index.clips import Clip, Sound
from anechoic.index.joined import JoinedIndex
from anechoic.index.training import TrainingIndex

__all__ = ["Clip", "JoinedIndex", "Sound", "TrainingIndex"]
