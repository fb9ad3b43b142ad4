"""Sounds of seeds: no two seeds sound alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from anechoic import audio
from anechoic.index import Sound

RATE = 16_000
LENGTH, SECONDS = 16_384, 1.024  # the window of magmel


def bands(seed: int, length: int = LENGTH) -> Tensor:
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


def tones(seed: int) -> Tensor:
    """A few tones with attacks of their own: no two seeds sound alike. [1, LENGTH]"""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(LENGTH) / RATE
    wav = torch.zeros(1, LENGTH)
    for hz, onset in torch.rand(4, 2, generator=generator).tolist():
        after = (time - 0.8 * onset).clamp_min(0)
        wav += torch.sin(2 * torch.pi * 100 * 40**hz * after) * torch.exp(-6 * after)
    return 0.9 * wav / wav.abs().max()


def tune(seed: int, seconds: float = SECONDS) -> Tensor:
    """Plucked notes at times and pitches of their own, [1, t], peak at 0.9."""
    return _tune(seed, seconds).clone()  # for a test to change


@cache
def _tune(seed: int, seconds: float) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    time = torch.arange(round(seconds * RATE)) / RATE
    wav = 0.002 * torch.randn(len(time), generator=rng)
    for _ in range(max(round(7 * seconds), 2)):
        start, pitch, tone = torch.rand(3, generator=rng).tolist()
        after = (time - 0.85 * start * seconds).clamp_min(0)
        for harmonic in range(1, 6):
            wave = torch.sin(2 * torch.pi * 110 * 2 ** (3 * pitch) * harmonic * after)
            wav += wave * torch.exp(-(4 + 4 * tone) * harmonic**0.5 * after) / harmonic
    return (0.9 * wav / wav.abs().max())[None]


def sounds(count: int = 12) -> list[Sound]:
    return [Sound(f"clip{i}", f"take number {i}", bands(i), RATE) for i in range(count)]


def save_clips(
    folder: Path,
    wavs: Iterable[Tensor],
    table: str = "captions.csv",
    suffix: str = "wav",
    **columns: Sequence[str],
) -> None:
    """Sounds in "clips", named by their number, and a table of what is known of each."""
    rows = [("file_name", *columns)]
    for i, (wav, *cells) in enumerate(zip(wavs, *columns.values(), strict=True)):
        audio.write(folder / f"clips/{i}.{suffix}", wav, RATE)
        rows.append((f"{i}.{suffix}", *cells))
    (folder / table).write_text("\n".join(map(",".join, rows)))
