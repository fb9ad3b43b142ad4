"""Notes out of what the network says of each frame."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from anechoic.transcription.network import LOWEST

STARTING, SOUNDING = 0.5, 0.3  # a note starts at this activation, and sounds above this one
PATIENCE = 11  # frames under that before a note has ended
SHORTEST = 11  # frames; a note is longer: 0.13 s


class NoteEvents(NamedTuple):
    """Notes, each from frame `start` until before frame `stop`."""

    start: np.ndarray  # int64 [n]
    stop: np.ndarray  # int64 [n]
    pitch: np.ndarray  # MIDI pitch, int64 [n]
    level: np.ndarray  # mean activation, float64 [n]


def note_events(sounding: np.ndarray, starting: np.ndarray, shortest: int = SHORTEST) -> NoteEvents:
    """The notes of all pitches, as Basic Pitch finds them.

    From each start, the last first, a note lasts until its pitch has been quiet for 11 frames. What
    then still sounds, the loudest first, are notes without a start of their own.

    Args:
        sounding: activations in [0, 1], [frames, pitches].
        starting: the same, of the starts of notes.
        shortest: frames; a note is longer.

    Source: `note_creation.output_to_notes_polyphonic` of Basic Pitch 0.4.0 (Apache-2.0), with its
    default settings; Bittner et al., ICASSP 2022.
    """
    left = sounding.astype(np.float64)
    frames, pitches = left.shape
    found: list[tuple[int, int, int]] = []

    def spend(start: int, stop: int, pitch: int) -> None:
        left[start:stop, max(pitch - 1, 0) : pitch + 2] = 0

    for start, pitch in _starts(sounding, starting):
        stop = start + 1 + _lasting(left[start + 1 : frames - 1, pitch])[0]
        if stop - start > shortest:
            spend(start, stop, pitch)
            found.append((start, stop, pitch))
    while left.size and left.max() > SOUNDING:
        middle, pitch = divmod(int(left.argmax()), pitches)
        after, heard_after = _lasting(left[middle + 1 : frames - 1, pitch])
        before, heard_before = _lasting(left[1:middle, pitch][::-1])
        left[middle, pitch] = 0
        spend(middle + 1, middle + 1 + heard_after, pitch)
        spend(middle - heard_before, middle, pitch)
        if after + before > shortest:
            found.append((middle - before, middle + after, pitch))
    levels = [float(sounding[start:stop, pitch].mean()) for start, stop, pitch in found]
    starts, stops, rows = np.array(found, np.int64).reshape(-1, 3).T
    return NoteEvents(starts, stops, rows + LOWEST, np.array(levels, np.float64))


def _starts(sounding: np.ndarray, starting: np.ndarray) -> list[tuple[int, int]]:
    """Frame and pitch of each peak of `starting`, and of rises of `sounding`; the last first."""
    rise = np.zeros(sounding.shape)
    rise[2:] = np.minimum(sounding[2:] - sounding[1:-1], sounding[2:] - sounding[:-2]).clip(0)
    likely = np.maximum(starting, rise * (starting.max(initial=0) / max(rise.max(initial=0), 1e-9)))
    within = likely[1:-1]
    peak = (within > likely[:-2]) & (within > likely[2:]) & (within >= STARTING)
    frame, pitch = np.nonzero(peak)
    return list(zip((frame[::-1] + 1).tolist(), pitch[::-1].tolist(), strict=True))


def _lasting(levels: np.ndarray) -> tuple[int, int]:
    """How many frames a note lasts, and how many were heard to know that."""
    quiet = levels < SOUNDING
    total = np.concatenate([[0], quiet.cumsum()])
    ends = np.flatnonzero(total[PATIENCE:] - total[:-PATIENCE] == PATIENCE)
    if len(ends):
        return int(ends[0]), int(ends[0]) + PATIENCE
    loud = np.flatnonzero(~quiet)
    return (int(loud[-1]) + 1 if len(loud) else 0), len(quiet)
