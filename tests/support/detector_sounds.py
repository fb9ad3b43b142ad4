"""Sound for the tests of the detectors: notes with harmonics, plucked, over a little noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from support import sounds
from support.sounds import RATE


@dataclass(frozen=True)
class Sounding:
    """A training clip, as detectors want it."""

    wav: Tensor
    sample_rate: int = RATE


def tune(seed: int, seconds: float = 2.0) -> Tensor:
    """Plucked notes, mono [t]."""
    return sounds.tune(seed, seconds)[0]


def noise(seed: int, seconds: float) -> Tensor:
    """White noise, mono [t]."""
    rng = torch.Generator().manual_seed(seed)
    return 0.2 * torch.randn(round(seconds * RATE), generator=rng)


def hidden(bed: Tensor, piece: Tensor, at_s: float) -> Tensor:
    """A piece in the place of what a bed had there."""
    start = round(at_s * RATE)
    wav = bed.clone()
    wav[start : start + len(piece)] = piece
    return wav
