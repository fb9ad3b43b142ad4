"""The notes of both, where notes decide."""

from __future__ import annotations

import numpy as np
import pytest

from anechoic.audit.roll import ALONE, BETWEEN, BOTH, GAP, THICK, piano_roll
from anechoic.transcription import Melody
from anechoic.types import Match


def melody(*notes: tuple[float, float, int]) -> Melody:
    start, length, pitch = zip(*notes, strict=True)
    return Melody(np.float32(start), np.float32(length), np.int16(pitch))


def test_a_melody_in_another_key_tempo_and_place_lies_under_itself() -> None:
    ours = melody((1.0, 0.5, 62), (1.5, 0.5, 66), (2.0, 0.5, 64))
    theirs = melody((0.0, 1.0, 60), (1.0, 1.0, 64), (2.0, 1.0, 62))
    match = Match(0.5, 0, 1.0, 0.0, 1.5, semitones=2.0, tempo=2.0)
    roll = piano_roll(ours, theirs, match, 0.0, 3.0)
    rows = (66 - 62 + 3) * THICK
    assert roll.shape == (2 * rows + GAP, 300)
    assert np.array_equal(roll[:rows], roll[-rows:])
    assert np.all(roll[rows:-rows] == BETWEEN)
    assert set(np.unique(roll[:rows])) == {0.0, BOTH}
    assert np.all(roll[THICK : 2 * THICK, 150:198] == BOTH)  # 66, the highest, from 1.5 s


def test_a_note_that_only_one_has_is_darker() -> None:
    ours, theirs = melody((0.0, 0.5, 60), (0.5, 0.5, 64)), melody((0.0, 0.5, 60), (0.5, 0.5, 65))
    match = Match(0.5, 0, 0.0, 0.0, 0.5, semitones=0.0, tempo=1.0)
    roll = piano_roll(ours, theirs, match, 0.0, 1.0)
    for half in (roll[: (65 - 60 + 3) * THICK], roll[-(65 - 60 + 3) * THICK :]):
        assert half[:, 10].max() == BOTH
        assert half[:, 60].max() == ALONE


@pytest.mark.parametrize("notes", [[], [(0.9, 0.5, 60)]])
def test_notes_beyond_the_picture_are_cut(notes: list[tuple[float, float, int]]) -> None:
    ours = melody(*notes) if notes else Melody(*np.zeros((3, 0), np.float32))
    roll = piano_roll(ours, ours, Match(0.0, 0), 0.0, 1.0)
    assert roll.shape[1] == 100
