"""The melody of a sound: one note at a time, out of all that sound at once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from anechoic.transcription.events import NoteEvents, note_events
from anechoic.transcription.network import activations

SHORTEST = 9  # frames; a note of a melody is longer: 0.1 s
REST = 4  # frames; a note that starts so soon after one of its pitch continues it
COVERED = 0.8  # a note of which louder ones cover this share is not of the melody


class Melody(NamedTuple):
    """Notes in temporal order."""

    start_s: np.ndarray  # float32 [n]
    length_s: np.ndarray  # float32 [n]
    pitch: np.ndarray  # MIDI pitch, int16 [n]


def hear_melody(wav: np.ndarray) -> Melody:
    """The melody of a sound.

    Args:
        wav: mono at 22,050 Hz, float32 [t].

    Raises:
        BadSetting: ONNX Runtime is not installed.
    """
    heard = activations(wav)
    found = leading(note_events(heard.sounding, heard.starting, SHORTEST))
    last = max(len(heard.seconds) - 1, 0)
    start, stop = (heard.seconds[np.minimum(at, last)] for at in (found.start, found.stop))
    return Melody(
        start.astype(np.float32), (stop - start).astype(np.float32), found.pitch.astype(np.int16)
    )


def leading(events: NoteEvents) -> NoteEvents:
    """The notes that no louder ones cover, in temporal order.

    Vibrato cuts a long note into short ones, which are joined; so are notes that are repeated
    without a rest.
    """
    joined = _joined(events)
    free = np.ones(int(joined.stop.max(initial=0)), bool)
    kept = []
    for number in np.argsort(-joined.level, kind="stable").tolist():
        frames = slice(joined.start[number], joined.stop[number])
        if free[frames].mean() > 1 - COVERED:
            free[frames] = False
            kept.append(number)
    kept.sort(key=lambda number: (int(joined.start[number]), int(joined.pitch[number])))
    return NoteEvents(*(column[kept] for column in joined))


def _joined(events: NoteEvents) -> NoteEvents:
    found: list[list[float]] = []
    for number in np.lexsort((events.start, events.pitch)).tolist():
        start, stop, pitch, level = (column[number] for column in events)
        if found and found[-1][2] == pitch and start - found[-1][1] < REST:
            before = found[-1]
            lengths = (before[1] - before[0], stop - start)
            before[3] = float(np.average([before[3], level], weights=lengths))
            before[1] = max(before[1], stop)
        else:
            found.append([start, stop, pitch, level])
    start, stop, pitch, level = np.array(found, np.float64).reshape(-1, 4).T
    return NoteEvents(start.astype(int), stop.astype(int), pitch.astype(int), level)
