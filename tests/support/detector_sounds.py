"""Sound for the tests of the detectors: notes with harmonics, plucked, over a little noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RATE = 16_000


@dataclass(frozen=True)
class Sounding:
    """A training clip, as detectors want it."""

    wav: Tensor
    sample_rate: int = RATE


def tune(seed: int, seconds: float = 2.0) -> Tensor:
    """A few plucked notes at random times and pitches, mono [t], peak at 0.9."""
    rng = torch.Generator().manual_seed(seed)
    time = torch.arange(round(seconds * RATE)) / RATE
    wav = 0.003 * torch.randn(len(time), generator=rng)
    for _ in range(round(6 * seconds)):
        start, pitch, tone = torch.rand(3, generator=rng).tolist()
        after = (time - start * seconds * 0.9).clamp_min(0)
        for harmonic in range(1, 6):
            frequency = 110 * 2 ** (3 * pitch) * harmonic
            wave = torch.sin(2 * torch.pi * frequency * after)
            wav += wave * torch.exp(-(4 + 3 * tone) * harmonic**0.5 * after) / harmonic
    return 0.9 * wav / wav.abs().max()


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
