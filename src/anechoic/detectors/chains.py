"""Aligns melodies: chains of notes that step by the same intervals, in the same rhythm."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

REACH = 3  # a step leads over fewer than this many notes of each melody
SKIP = 0.4  # what each of these notes costs
OCTAVE = 0.5  # what a step is worth that is an octave off
OFF_S, OFF = 0.05, 0.15  # a step is worth less in another rhythm: the width, and by its time
NEVER = -1e6  # what a step by another interval is worth
TEMPOS = (2.0 ** np.linspace(-0.6, 0.6, 13)).astype(np.float32)


class Tunes(NamedTuple):
    """Melodies, one after another."""

    start_s: np.ndarray  # of each note, float32 [n]
    pitch: np.ndarray  # MIDI pitch, float32 [n]
    number: np.ndarray  # of the melody that each note is of, ascending, int64 [n]


class Chain(NamedTuple):
    """The best chain through two melodies."""

    worth: float
    tempo: float  # how much faster the first is, one of `TEMPOS`
    ours: np.ndarray  # its notes in the first, int64 [k]
    theirs: np.ndarray  # and in the second, int64 [k]


def worths(tune: Tunes, others: Tunes) -> Iterator[np.ndarray]:
    """The worth of the best chain that ends at each pair of notes, by tempo.

        w(i, j) = max(0, max over a, b of w(i - a, j - b) + p r - 0.4 (a + b - 2))

    where p is 1 if both melodies step by the same interval, and 0.5 if one step is an octave
    larger; and r = exp(-d^2 / 2) with d = (r t - t_j) / (0.05 s + 0.15 t_j), the times t and t_j
    that the steps take, and the tempo r.

    Args:
        tune: one melody, of n notes.
        others: the melodies to search, with m notes in all.

    Yields:
        float32 [tempos, m], for each note of `tune`.

    Source: after Mongeau and Sankoff, Comparison of musical sequences, 1990, without a key.
    """
    before: deque[np.ndarray] = deque(maxlen=REACH)  # the nearest first
    for i in range(len(tune.pitch)):
        here = np.zeros((len(TEMPOS), len(others.pitch)), np.float32)
        for a, there in enumerate(before, 1):
            for b in range(1, min(REACH, len(others.pitch) - 1) + 1):
                worth = there[:, :-b] + _step(tune, others, i, a, b, TEMPOS)
                np.maximum(here[:, b:], worth, out=here[:, b:])
        yield here
        before.appendleft(here)


def worth_with(tune: Tunes, others: Tunes) -> np.ndarray:
    """The worth of the best chain through a melody and each of the others, float32 [k]."""
    best = np.zeros(len(others.pitch), np.float32)
    for here in worths(tune, others):
        np.maximum(best, here.max(0), out=best)
    firsts = np.flatnonzero(np.diff(others.number, prepend=-1))
    each: np.ndarray = np.maximum.reduceat(best, firsts)
    return each


def best_chain(tune: Tunes, other: Tunes) -> Chain:
    """The best chain through two melodies."""
    found = np.stack(list(worths(tune, other)))
    i, at, j = (int(one) for one in np.unravel_index(found.argmax(), found.shape))
    along, tempo, pairs = found[:, at], TEMPOS[at : at + 1], [(i, j)]
    worth = float(along[i, j])
    while along[i, j] > 0:
        _, i, j = max(
            (along[i - a, j - b] + _step(tune, other, i, a, b, tempo)[0, j - b], i - a, j - b)
            for a in range(1, min(REACH, i) + 1)
            for b in range(1, min(REACH, j) + 1)
        )
        pairs.append((i, j))
    ours, theirs = np.array(pairs[::-1], np.int64).T
    return Chain(worth, float(tempo[0]), ours, theirs)


def _step(tune: Tunes, others: Tunes, i: int, a: int, b: int, tempos: np.ndarray) -> np.ndarray:
    """What the steps are worth to note i over a notes, and to each other note from the b-th on over
    b notes, [r, m - b]."""
    apart = others.pitch[b:] - others.pitch[:-b] - (tune.pitch[i] - tune.pitch[i - a])
    alike = np.select([apart == 0, np.abs(apart) == 12], [np.float32(1), np.float32(OCTAVE)])
    alike *= others.number[b:] == others.number[:-b]
    theirs = others.start_s[b:] - others.start_s[:-b]
    ours = (tune.start_s[i] - tune.start_s[i - a]) * tempos[:, None]
    off = (ours - theirs) / (OFF_S + OFF * np.abs(theirs))
    alike = alike * ((ours > 0) & (theirs > 0))  # no steps within a chord
    worth: np.ndarray = np.where(alike > 0, alike * np.exp(-0.5 * off * off), NEVER)
    return worth - SKIP * (a + b - 2)
