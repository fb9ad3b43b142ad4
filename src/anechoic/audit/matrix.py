"""How two sounds resemble each other, moment by moment."""

from __future__ import annotations

import numpy as np

SIDE = 72  # moments of the longer sound
FLOOR_DB = 60.0


def similarity_matrix(
    a: np.ndarray, b: np.ndarray, seconds: tuple[float, float], side: int = SIDE
) -> np.ndarray:
    """Cosine of every moment of one sound with every moment of another, [moments, moments].

        S_ij = <a_i, b_j> / (|a_i| |b_j|)

    over log spectra with the mean of both sounds taken off, so that what they have in common at all
    times does not count. A copy is a bright diagonal, a loop several.

    Args:
        a, b: spectrograms in dB under the loudest point, [rows, columns].
        seconds: how long each of them lasts.
        side: moments of the longer one; those of the shorter last as long.

    Source: Foote, Visualizing music and audio using self-similarity, 1999.

    >>> ramp = np.array([[0.0, -60.0], [-60.0, 0.0]])
    >>> similarity_matrix(ramp, ramp, (1.0, 1.0), side=2).round(2).tolist()
    [[1.0, -1.0], [-1.0, 1.0]]
    """
    counts = [max(round(side * length / max(seconds)), 1) for length in seconds]
    x, y = (_moments(s, count) for s, count in zip((a, b), counts, strict=True))
    mean = np.concatenate([x, y]).mean(0)
    x, y = x - mean, y - mean
    norms = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(y, axis=1)[None]
    return np.divide(x @ y.T, norms, out=np.zeros_like(norms), where=norms > 1e-9)


def _moments(spectrogram: np.ndarray, count: int) -> np.ndarray:
    """The levels over the floor, in so many stretches of time, [count, rows]."""
    levels = np.clip(FLOOR_DB + spectrogram, 0.0, None).T
    count = min(count, len(levels))
    return np.stack([part.mean(0) for part in np.array_split(levels, count)])
