"""Finds a training clip at another pitch, another tempo or backwards, by its spectral peaks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from anechoic.audio import is_silent
from anechoic.detectors import fitted
from anechoic.detectors.protocol import NOTHING, TrainingSound
from anechoic.detectors.sound import best_of_voices, training
from anechoic.errors import IndexMismatch
from anechoic.types import Match

SAMPLE_RATE, SIZE, HOP = 16_000, 2_048, 256  # 128 ms frames every 16 ms, bins of 7.8 Hz
AROUND = 3  # a peak is the highest within this many frames and bins on each side
FLOOR_DB = 60.0  # peaks are at most this far below the loudest bin of the sound
MARGIN_DB = 9.0  # peaks are at least this far above the mean around them,
BACKGROUND = (33, 17)  # over this many bins and frames
LOWEST_BIN = 10  # 78 Hz; below it a bin is wider than two semitones
LEAST = 4  # sounds with fewer peaks are not compared
SEMITONES = 6.0  # the largest transposition
TEMPOS = (0.8, 0.84, 0.88, 0.92, 0.96, 1.0, 1.04, 1.09, 1.14, 1.19, 1.25)
STEP = 0.25  # semitones; alignments of peaks are counted in squares of two steps by two frames
PRIOR = 20  # peaks added to those of each sound, so that a match of few counts less
CANDIDATES = 16  # training clips that are aligned
WIDEST, FURTHEST = 24.0, 40  # semitones and frames between the peaks of a pair
WIDTH, LENGTH = 0.33, 0.14  # cells of the histogram of pairs: semitones, and log of frames
SPREAD = 0.05  # added to the spread of each cell over the training set
RECIPE = 1  # increase with any change of the above: fitted files record it
SHORTEST_S = SIZE / SAMPLE_RATE


class Peaks(NamedTuple):
    """The peaks of a spectrogram."""

    semitone: np.ndarray  # above 55 Hz, float32 [n]
    frame: np.ndarray  # int32 [n]


class _Alignment(NamedTuple):
    """How the frames of a sound map to those of a training clip."""

    agreeing: int  # peaks, some counted twice
    semitones: float
    tempo: float
    backwards: bool
    lag: float  # frame of the clip at which the sound's first (backwards: last) frame lies

    def frames(self, frame: np.ndarray, last: int) -> np.ndarray:
        """Frames of the sound, in the time of the clip."""
        moved: np.ndarray = (last - frame if self.backwards else frame) * self.tempo + self.lag
        return moved


@dataclass(frozen=True, eq=False)
class Transposed:
    """Share of the spectral peaks of two sounds that agree on one pitch, tempo and alignment.

    Up to 6 semitones, tempos from 0.8 to 1.25, forwards and backwards:

        s = n / sqrt((m + 20) (m_j + 20))

    where n peaks of the sound fall on n peaks of the training clip, m and m_j are the peaks that
    each has in the time that both cover. The match says how far the sound is transposed, how much
    faster it plays, and whether it is backwards.

    The candidates are the 16 clips with the most similar histogram of the intervals between peaks,
    in pitch and in time, which none of these changes much. So a short fragment of a long clip,
    or a clip under loud other sound, may not be among them: `Landmarks` finds those.

    A note resembles other notes of its instrument at another pitch. So calibrate, on sound of the
    same kind. A hum or a thud has few peaks, so its copies score low. Sound under 0.128 s, or with
    fewer than 4 peaks, is not compared.

    Source: after Wang, An industrial-strength audio search algorithm, ISMIR 2003, and Sonnleitner
    and Widmer, Robust quad-based audio fingerprinting, 2016; the histogram is our own.

    >>> notes = torch.cat([torch.sin(torch.arange(4000.0) * f) for f in (0.1, 0.15, 0.12, 0.2)])
    >>> from anechoic.index import Sound
    >>> detector = Transposed.fit([Sound("a", "notes", notes[None], 16_000)])
    >>> (match,) = detector(notes.flip(0)[None, None], 16_000)
    >>> match.row, match.backwards
    (0, True)
    """

    semitones: Tensor  # of each peak, clip after clip, float32
    frames: Tensor  # int32
    ends: Tensor  # where each clip ends in them, int64 [n]

    name = f"transposed ({SAMPLE_RATE} Hz, {SIZE} samples every {HOP}, recipe {RECIPE})"

    def __post_init__(self) -> None:
        if len(self.ends) == 0:
            raise IndexMismatch("peaks need at least one training clip to be compared with")

    @classmethod
    def fit(cls, sounds: Iterable[TrainingSound]) -> Transposed:
        """Compute the peaks of the training clips, eight bytes each; about 100 in a second.

        Raises:
            BadAudio: a clip that is not usable sound, or is shorter than 0.128 s.
            IndexMismatch: no clips.
        """
        found = [
            peaks(training(sound.wav, sound.sample_rate, SAMPLE_RATE, row, SHORTEST_S))
            for row, sound in enumerate(sounds)
        ]
        ends = torch.tensor([len(one.frame) for one in found], dtype=torch.int64).cumsum(0)
        columns = zip(*found, strict=True) if found else [[np.zeros(0)]] * 2
        semitones, frames = (torch.from_numpy(np.concatenate(list(one))) for one in columns)
        return cls(semitones, frames, ends)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the fitted detector as one file.

        Raises:
            OutputExists: the file exists, and `overwrite` is off.
        """
        tensors = {name: getattr(self, name) for name in ("semitones", "frames", "ends")}
        return fitted.write(path, self.name, tensors, {}, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path) -> Transposed:
        """Read a file from `save`.

        Raises:
            IndexMismatch: the file does not exist, is damaged, or of another detector or settings.
        """
        return fitted.read(path, cls.name, cls)

    def __call__(self, wav: Tensor, sample_rate: int) -> list[Match]:
        """One match for each clip [b, c, t].

        Raises:
            BadAudio: not usable sound.
        """
        return best_of_voices(wav, sample_rate, lambda clips: map(self._find, clips), SAMPLE_RATE)

    def _clip(self, row: int) -> Peaks:
        here = slice(int(self.ends[row - 1]) if row else 0, int(self.ends[row]))
        return Peaks(self.semitones[here].numpy(), self.frames[here].numpy())

    @cached_property
    def _histograms(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The clips' histograms at unit norm, and the mean and spread that they are taken from."""
        raw = np.stack([_intervals(self._clip(row)) for row in range(len(self.ends))])
        mean, spread = raw.mean(0), raw.std(0) + np.float32(SPREAD)
        return _unit((raw - mean) / spread), mean, spread

    def _find(self, clip: Tensor) -> Match:
        if len(clip) < SIZE or is_silent(clip):
            return NOTHING
        sound = peaks(clip / clip.abs().max())
        if len(sound.frame) < LEAST:
            return NOTHING
        clips, mean, spread = self._histograms
        near = clips @ ((_intervals(sound) - mean) / spread)
        rows = np.argsort(-near, kind="stable")[:CANDIDATES].tolist()
        matches = (self._match(sound, row) for row in rows if int(self.ends[row]))
        return max(matches, key=lambda match: match.score, default=NOTHING)

    def _match(self, sound: Peaks, row: int) -> Match:
        clip = self._clip(row)
        if len(clip.frame) == 0:
            return Match(0.0, row)
        best, last = _align(sound, clip), int(sound.frame.max())
        at = best.frames(sound.frame, last)
        apart = sound.semitone[:, None] - clip.semitone
        near = np.abs(at[:, None] - clip.frame) <= 1
        close = near & (np.abs(apart - best.semitones) < 1.5 * STEP)
        semitones = float(np.median(apart[close])) if close.any() else best.semitones
        agree = near & (np.abs(apart - semitones) <= STEP)
        ours, theirs = agree.any(1), agree.any(0)
        if not ours.any():
            return Match(0.0, row)
        first, stop = max(at.min(), clip.frame.min()) - 1, min(at.max(), clip.frame.max()) + 1
        m, m_j = (int(((x >= first) & (x <= stop)).sum()) for x in (at, clip.frame))
        n = min(int(ours.sum()), int(theirs.sum()))
        begin, end = sound.frame[ours].min(), sound.frame[ours].max()
        start = best.frames(np.array([end if best.backwards else begin]), last)[0]
        seconds = HOP / SAMPLE_RATE
        return Match(
            score=n / ((m + PRIOR) * (m_j + PRIOR)) ** 0.5,
            row=row,
            start_s=float(begin) * seconds,
            match_start_s=max(float(start), 0.0) * seconds,
            length_s=float(end - begin) * seconds,
            semitones=round(semitones, 3),
            tempo=best.tempo,
            backwards=best.backwards,
        )


def peaks(wav: Tensor) -> Peaks:
    """The peaks of sound [t] at 16 kHz; their pitch is refined by a parabola through three bins."""
    from scipy.ndimage import maximum_filter, uniform_filter

    padded = torch.nn.functional.pad(wav, (SIZE // 2, SIZE // 2))
    window = torch.hann_window(SIZE)
    spectrum = torch.stft(padded, SIZE, HOP, window=window, center=False, return_complex=True)
    magnitude = spectrum.abs().numpy()
    level = 20 * np.log10(np.maximum(magnitude / max(magnitude.max(), 1e-30), 1e-4))
    peak = level == maximum_filter(level, 2 * AROUND + 1, mode="nearest")
    peak &= level > -FLOOR_DB
    peak &= level > uniform_filter(level, BACKGROUND, mode="nearest") + MARGIN_DB
    peak[:LOWEST_BIN], peak[-1] = False, False
    bins, frames = np.nonzero(peak)
    below, here, above = (level[bins + step, frames] for step in (-1, 0, 1))
    offset = 0.5 * (below - above) / np.minimum(below - 2 * here + above, -1e-6)
    hertz = (bins + np.clip(offset, -0.5, 0.5)) * SAMPLE_RATE / SIZE
    return Peaks((12 * np.log2(hertz / 55)).astype(np.float32), frames.astype(np.int32))


def _intervals(sound: Peaks) -> np.ndarray:
    """Square roots of a histogram of the intervals between peaks in pitch and time, [cells].

    The sign of the interval is left out, so that the reversed sound has the same; times are
    logarithmic, so that another tempo moves all by one cell or two.
    """
    order = np.argsort(sound.frame, kind="stable")
    pitch, frame = sound.semitone[order], sound.frame[order]
    until = np.searchsorted(frame, frame + FURTHEST, "right")
    count = until - np.arange(len(frame)) - 1
    first = np.repeat(np.arange(len(frame)), count)
    second = first + 1 + np.arange(count.sum()) - np.repeat(count.cumsum() - count, count)
    wide, ahead = np.abs(pitch[second] - pitch[first]), frame[second] - frame[first]
    known = wide < WIDEST
    across = wide[known] / WIDTH
    along = np.where(ahead > 0, 1 + np.log(np.maximum(ahead, 1)) / LENGTH, 0.0)[known]
    rows, columns = int(WIDEST / WIDTH) + 2, int(np.log(FURTHEST) / LENGTH) + 3
    total = np.zeros(rows * columns)
    for up in (0, 1):  # shared between the cells around it
        for on in (0, 1):
            cell = (across.astype(int) + up) * columns + along.astype(int) + on
            weight = np.abs(1 - up - across % 1) * np.abs(1 - on - along % 1)
            total += np.bincount(cell, weight, rows * columns)
    return np.sqrt(total).astype(np.float32)


def _unit(rows: np.ndarray) -> np.ndarray:
    unit: np.ndarray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    return unit


def _align(sound: Peaks, clip: Peaks) -> _Alignment:
    """The transposition, tempo, direction and lag on which most peaks agree."""
    apart = sound.semitone[:, None] - clip.semitone
    i, j = np.nonzero(np.abs(apart) < SEMITONES)
    pitches = int(2 * SEMITONES / STEP) + 2
    longest, last = int(clip.frame.max()) + 1, int(sound.frame.max())
    lags = int(longest + last * TEMPOS[-1]) + 3
    place = ((apart[i, j] + SEMITONES) / STEP).astype(np.int64) * lags
    best = _Alignment(0, 0.0, 1.0, False, 0.0)
    for tempo in sorted(TEMPOS, key=lambda tempo: abs(np.log(tempo))):  # of equals, the nearest
        for backwards in (False, True):
            time = (last - sound.frame if backwards else sound.frame) * tempo
            cells = place + (time[i] + (longest - clip.frame)[j]).astype(np.int64)
            votes = np.bincount(cells, minlength=pitches * lags).reshape(pitches, lags)
            votes = votes[:-1] + votes[1:]
            votes = votes[:, :-1] + votes[:, 1:]
            at = int(votes.argmax())
            if votes.flat[at] > best.agreeing:
                pitch, lag = divmod(at, lags - 1)
                best = _Alignment(
                    int(votes.flat[at]),
                    (pitch + 1) * STEP - SEMITONES,
                    tempo,
                    backwards,
                    float(longest - lag - 1),
                )
    return best
