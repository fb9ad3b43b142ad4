"""How two sounds resemble each other, moment by moment."""

from __future__ import annotations

import numpy as np

SIDE = 72  # moments of the longer sound
FLOOR_DB = 45.0  # under the loudest point nothing is compared: faint noise, silence
AROUND = 2  # moments before and after that count for one


def similarity_matrix(
    a: np.ndarray, b: np.ndarray, seconds: tuple[float, float], side: int = SIDE
) -> np.ndarray:
    """Cosine of every moment of one sound with every moment of another, [moments, moments].

        S_ij = mean_{|d| <= 2} <a_{i + d}, b_{j + d}> / (|a_{i + d}| |b_{j + d}|)

    over log spectra with the mean of both sounds taken off, so that what they have in common at all
    times does not count. A copy is a bright diagonal, a loop several; silence is like nothing.

    Args:
        a, b: spectrograms in dB under the loudest point, [rows, columns].
        seconds: how long each of them lasts.
        side: moments of the longer one; those of the shorter last as long.

    Source: Foote, Visualizing music and audio using self-similarity, 1999; the mean along the
    diagonal is that of Mueller and Kurth, 2006.

    >>> ramp = np.array([[0.0, -60.0], [-60.0, 0.0]])
    >>> similarity_matrix(ramp, ramp, (1.0, 1.0), side=2).round(2).tolist()
    [[1.0, -1.0], [-1.0, 1.0]]
    """
    counts = [max(round(side * length / max(seconds)), 1) for length in seconds]
    x, y = (_moments(s, count) for s, count in zip((a, b), counts, strict=True))
    mean = np.concatenate([part[part.max(1) > 0] for part in (x, y)]).mean(0)
    x, y = (_unit(np.where(part.max(1, keepdims=True) > 0, part - mean, 0.0)) for part in (x, y))
    cosines = x @ y.T
    total, terms = np.zeros_like(cosines), np.zeros_like(cosines)
    for shift in range(-AROUND, AROUND + 1):
        here, there = _overlap(cosines.shape, shift), _overlap(cosines.shape, -shift)
        total[here] += cosines[there]
        terms[here] += 1
    return total / terms


def _moments(spectrogram: np.ndarray, count: int) -> np.ndarray:
    """The levels over the floor, in so many stretches of time, [count, rows]."""
    levels = np.clip(FLOOR_DB + spectrogram, 0.0, None).T
    count = min(count, len(levels))
    return np.stack([part.mean(0) for part in np.array_split(levels, count)])


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


def _overlap(shape: tuple[int, ...], shift: int) -> tuple[slice, ...]:
    """Where a matrix lies over itself that was shifted along its diagonal."""
    return tuple(slice(max(shift, 0), size + min(shift, 0)) for size in shape)
