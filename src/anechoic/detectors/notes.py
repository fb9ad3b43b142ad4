"""Finds a training clip's melody, whatever plays it, by its notes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from anechoic.audio import is_silent
from anechoic.detectors import fitted
from anechoic.detectors.chains import Tunes, best_chain, worth_with
from anechoic.detectors.protocol import NOTHING, TrainingSound
from anechoic.detectors.sound import best_of_voices, training
from anechoic.errors import BadAudio, IndexMismatch
from anechoic.transcription import SAMPLE_RATE, Melody, hear_melody
from anechoic.types import Match

LEAST = 5  # sounds with fewer notes are not compared
PRIOR = 6  # steps added to those of each melody, so that a match of few counts less
LONGER = 2  # a melody counts as so many times the steps of the other at most
RECIPE = 1  # increase with any change of this, of the chains or of the melody
SHORTEST_S = 0.5


@dataclass(frozen=True, eq=False)
class Notes(fitted.FittedTensors):
    """Likeness of the melodies of two sounds: the same intervals in the same rhythm.

    The network of Basic Pitch writes down the notes of a sound, and those that no louder ones cover
    are its melody. The best chain through two melodies steps by the same interval in both, in the
    same rhythm, at a tempo from 0.66 to 1.5; so the key, the instrument and the tempo do not
    matter. A step counts 1, less in another rhythm, and half if it is an octave off; each note that
    it leads over costs 0.4. With w the sum of the best chain, and m and m_j the steps of the two
    melodies,

        s = w / sqrt((m + 6) (m_j + 6))

    where a melody counts as twice the other's steps at most, so that a part of a long one is found.
    The match says how far the sound is transposed, and how much faster it plays.

    A melody of few notes is like many others, so calibrate on melodies as long and of the same
    genre. Sound under 0.5 s, or with fewer than 5 notes, is not compared: percussion, speech and
    held chords have no melody. A melody that is repeated without rests is one long note.

    Needs `pip install 'anechoic[notes]'`.

    Source: Bittner et al., A lightweight instrument-agnostic model for polyphonic note
    transcription and multipitch estimation, ICASSP 2022, for the notes; the chains after Mongeau
    and Sankoff, Comparison of musical sequences, 1990.
    """

    start_s: Tensor  # of each note, clip after clip, float32
    length_s: Tensor  # float32
    pitch: Tensor  # MIDI pitch, int16
    ends: Tensor  # where each clip's notes end, int64 [n]

    name = f"notes (Basic Pitch of ICASSP 2022, from {LEAST} notes on, recipe {RECIPE})"

    def __post_init__(self) -> None:
        if len(self.ends) == 0:
            raise IndexMismatch("notes need at least one training clip to be compared with")

    @classmethod
    def fit(cls, sounds: Iterable[TrainingSound]) -> Notes:
        """Write down the notes of the training clips, ten bytes each.

        Raises:
            BadAudio: a clip that is not usable sound, is shorter than 0.5 s, or has fewer than 5
                notes.
            BadSetting: ONNX Runtime is not installed.
            IndexMismatch: no clips.
        """
        return cls.of([cls.part(sound, row) for row, sound in enumerate(sounds)])

    @staticmethod
    def part(sound: TrainingSound, row: int) -> Melody:
        """The melody of one training clip, for `of`.

        Raises:
            BadAudio, BadSetting: as `fit`.
        """
        wav = training(sound.wav, sound.sample_rate, SAMPLE_RATE, row, SHORTEST_S)
        melody = hear_melody(wav.numpy())
        if len(melody.pitch) < LEAST:
            raise BadAudio(
                f"training clip {row} has {len(melody.pitch)} notes, and melodies of fewer "
                f"than {LEAST} are all alike; leave it out"
            )
        return melody

    @classmethod
    def of(cls, melodies: Iterable[Melody]) -> Notes:
        """Fit to melodies that are written down already.

        Raises:
            IndexMismatch: no melodies.
        """
        found = list(melodies)

        def column(name: str) -> Tensor:
            parts = [torch.from_numpy(getattr(one, name)) for one in found]
            return torch.cat(parts or [torch.zeros(0)])

        lengths = torch.tensor([len(one.pitch) for one in found], dtype=torch.int64)
        return cls(column("start_s"), column("length_s"), column("pitch"), lengths.cumsum(0))

    def __call__(self, wav: Tensor, sample_rate: int) -> list[Match]:
        """One match for each clip [b, c, t].

        Raises:
            BadAudio: not usable sound.
            BadSetting: ONNX Runtime is not installed.
        """
        return best_of_voices(wav, sample_rate, lambda clips: map(self._hear, clips), SAMPLE_RATE)

    def _hear(self, clip: Tensor) -> Match:
        if len(clip) < SHORTEST_S * SAMPLE_RATE or is_silent(clip):
            return NOTHING
        return self.find(hear_melody((clip / clip.abs().max()).numpy()))

    def find(self, melody: Melody) -> Match:
        """The training clip whose melody is most like one that is written down already."""
        if len(melody.pitch) < LEAST:
            return NOTHING
        scores = worth_with(_tune(melody), self._tunes) / self._scale(len(melody.pitch) - 1)
        row = int(scores.argmax())
        return self._match(melody, row, float(scores[row]))

    def _scale(self, steps: int) -> np.ndarray:
        """What the worths of chains with each training clip are divided by."""
        theirs = self._lengths - 1
        m, m_j = np.minimum(steps, LONGER * theirs), np.minimum(theirs, LONGER * steps)
        scale: np.ndarray = np.sqrt((m + PRIOR) * (m_j + PRIOR))
        return scale

    def melody(self, row: int) -> Melody:
        """The notes of a training clip."""
        here = slice(int(self.ends[row - 1]) if row else 0, int(self.ends[row]))
        columns = (self.start_s, self.length_s, self.pitch)
        return Melody(*(column[here].numpy() for column in columns))

    @cached_property
    def _lengths(self) -> np.ndarray:
        lengths: np.ndarray = np.diff(self.ends.numpy(), prepend=0)
        return lengths

    @cached_property
    def _tunes(self) -> Tunes:
        numbers = np.repeat(np.arange(len(self.ends)), self._lengths)
        return Tunes(self.start_s.numpy(), self.pitch.numpy().astype(np.float32), numbers)

    def _match(self, melody: Melody, row: int, score: float) -> Match:
        clip = self.melody(row)
        chain = best_chain(_tune(melody), _tune(clip))
        if len(chain.ours) < 2:
            return Match(0.0, row)
        first, last = chain.ours[0], chain.ours[-1]
        seconds = melody.start_s[last] - melody.start_s[first]
        clip_seconds = np.ptp(clip.start_s[chain.theirs])
        return Match(
            score=score,
            row=row,
            start_s=float(melody.start_s[first]),
            match_start_s=float(clip.start_s[chain.theirs[0]]),
            length_s=float(seconds + melody.length_s[last]),
            semitones=float(np.median(melody.pitch[chain.ours] - clip.pitch[chain.theirs])),
            tempo=round(float(clip_seconds / seconds), 3),
        )


def _tune(melody: Melody) -> Tunes:
    numbers = np.zeros(len(melody.pitch), np.int64)
    return Tunes(melody.start_s, melody.pitch.astype(np.float32), numbers)
