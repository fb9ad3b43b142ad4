"""An index with a calibration, and a new sound, to certify."""

from __future__ import annotations

from pathlib import Path

import torch

from anechoic import TrainingIndex, audio, embedder
from anechoic.detectors import Calibration, NearestStretch, calibration
from support.sounds import RATE, sounds, tune

NULL = tuple(0.60 + 0.002 * i for i in range(120))


def save_index(folder: Path, count: int = 4, shift: float = 0.0) -> Path:
    """An index of so many clips, calibrated on made-up scores."""
    made = embedder("magmel")
    index = TrainingIndex.build(sounds(count), made)
    index.save(folder, overwrite=True)
    name = NearestStretch(index, made).name
    null = tuple(score + shift for score in NULL)
    calibration.write(folder, [Calibration(name, null, 0.02, seconds=1.0)])
    return folder


def write_new(path: Path, channels: int = 1) -> Path:
    """A sound that is in no such index."""
    return audio.write(path, torch.cat([tune(99 + i) for i in range(channels)]), RATE)
