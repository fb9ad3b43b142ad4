"""Sounds to index: noise in bands that come and go."""

from __future__ import annotations

import torch
from torch import Tensor

from anechoic.index import Sound

RATE = 16_000


LENGTH = 16_384  # the window of magmel, 1.024 s


def take(seed: int, length: int = LENGTH) -> Tensor:
    """Noise in a few bands that come and go: no two seeds sound alike. [1, length]"""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(length, generator=generator)
    spectrum = torch.stft(noise, 512, 128, window=torch.hann_window(512), return_complex=True)
    gains = torch.rand(1, 1, 32, 8, generator=generator) ** 6
    gains = torch.nn.functional.interpolate(gains, spectrum.shape, mode="bilinear")
    wav = torch.istft(
        spectrum * gains[0, 0], 512, 128, window=torch.hann_window(512), length=length
    )
    return 0.5 * wav[None] / wav.abs().max()


def sounds(count: int = 12) -> list[Sound]:
    return [Sound(f"clip{i}", f"take number {i}", take(i), RATE) for i in range(count)]
