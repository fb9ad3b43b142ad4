"""Melodies of seeds, and instruments that play them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

RATE = 22_050
ORGAN, CLARINET = (1.0, 0.6, 0.4, 0.3, 0.2), (1.0, 0.0, 0.5, 0.0, 0.3)  # levels of harmonics
Note = tuple[float, float, int]  # start and length in seconds, MIDI pitch


def tune(seed: int) -> list[Note]:
    """Nine notes of a scale of C, in halves and wholes of 0.4 s."""
    rng = np.random.default_rng(seed)
    lengths = rng.choice([0.2, 0.2, 0.4], 9)
    starts = np.cumsum(lengths) - lengths
    steps, scale = np.cumsum(rng.choice([-2, -1, 1, 2, 3, -3], 9)) + 3, (0, 2, 4, 5, 7, 9, 11)
    pitches = [60 + 12 * int(step // 7) + scale[step % 7] for step in steps]
    return list(zip(starts.tolist(), lengths.tolist(), pitches, strict=True))


def play(
    notes: Sequence[Note], harmonics: Sequence[float], up: int = 0, tempo: float = 1.0
) -> Tensor:
    """The notes as sound [1, t]."""
    seconds = max(start + length for start, length, _ in notes) / tempo + 0.2
    wav = np.zeros(round(seconds * RATE))
    for start, length, pitch in notes:
        time = np.arange(round(0.92 * length / tempo * RATE)) / RATE
        hertz = 440 * 2 ** ((pitch + up - 69) / 12)
        wave = sum(level * np.sin(2 * np.pi * hertz * (k + 1) * time)
                   for k, level in enumerate(harmonics))  # fmt: skip
        at = round(start / tempo * RATE)
        wav[at : at + len(time)] += wave * np.minimum(time / 0.01, 1) * np.exp(-2 * time)
    return torch.from_numpy(np.float32(0.3 * wav))[None]
