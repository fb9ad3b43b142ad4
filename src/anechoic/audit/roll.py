"""The notes of a sound over those of its training clip, as a piano roll."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from anechoic.audio import mono
from anechoic.detectors.sound import resample
from anechoic.transcription import SAMPLE_RATE, Melody, hear_melody
from anechoic.types import Match

THICK, GAP = 3, 4  # rows of a semitone, and between the two rolls
COLUMNS_PER_S, MOST = 100, 1_600
ALONE, BOTH, BETWEEN = 0.5, 1.0, 0.25  # how light a note is that one has, that both have; the gap
NEAR_S = 0.12  # notes of both start so close together


def heard(wav: Tensor, sample_rate: int) -> Melody:
    """The melody of a sound [c, t] that is not silent, of any level."""
    clip = resample(mono(wav[None], sample_rate)[0], sample_rate, SAMPLE_RATE)
    return hear_melody((clip / clip.abs().max()).numpy())


def piano_roll(
    ours: Melody, theirs: Melody, match: Match, start_s: float, seconds: float
) -> np.ndarray:
    """The sound's notes above, the training clip's below, moved to its key, tempo and time.

    Notes that both have are lighter, so that what is alike is read off the picture.

    Args:
        ours: the melody of the sound.
        theirs: that of the training clip.
        match: how the two are laid over each other.
        start_s: start of the picture, in the sound.
        seconds: its length.

    Returns:
        Shares for `shaded_png`, [rows, columns]; the highest pitch is at the top of each roll.
    """
    tempo = match.tempo or 1.0
    at = (match.start_s or 0.0) + (theirs.start_s - (match.match_start_s or 0.0)) / tempo
    up = theirs.pitch + round(match.semitones or 0.0)
    moved = Melody(at, theirs.length_s / tempo, up)
    pitches = np.concatenate([ours.pitch, up])
    lowest, highest = int(pitches.min(initial=127)), int(pitches.max(initial=0))
    columns = int(np.clip(COLUMNS_PER_S * seconds, 8, MOST))

    def drawn(notes: Melody, other: Melody) -> np.ndarray:
        roll = np.zeros((THICK * max(highest - lowest + 3, 3), columns))
        for start, length, pitch in zip(*notes, strict=True):
            near = np.abs(other.start_s - start) <= NEAR_S
            row = THICK * (highest + 1 - int(pitch))
            first, last = (
                int(np.clip(columns * (time - start_s) / seconds, 0, columns))
                for time in (start, start + length)
            )
            lightness = BOTH if (near & (other.pitch == pitch)).any() else ALONE
            roll[row : row + THICK, first : max(last - 1, first)] = lightness
        return roll

    gap = np.full((GAP, columns), BETWEEN)
    return np.concatenate([drawn(ours, moved), gap, drawn(moved, ours)])
