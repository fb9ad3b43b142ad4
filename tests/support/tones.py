"""A few tones with attacks of their own."""

from __future__ import annotations

import torch
from torch import Tensor

RATE = 16_000


LENGTH = 16_384  # the window of magmel, 1.024 s


def take(seed: int) -> Tensor:
    """A few tones with attacks of their own: no two seeds sound alike. [1, LENGTH]"""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(LENGTH) / RATE
    wav = torch.zeros(1, LENGTH)
    for hz, onset in torch.rand(4, 2, generator=generator).tolist():
        after = (time - 0.8 * onset).clamp_min(0)
        wav += torch.sin(2 * torch.pi * 100 * 40**hz * after) * torch.exp(-6 * after)
    return 0.9 * wav / wav.abs().max()
