"""Finds a training clip at another pitch, another tempo or backwards, by its spectrogram."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from anechoic.audio import is_silent, window_starts
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
LOWEST, HIGHEST, BANDS = 6.0, 84.0, 2  # the picture: from 78 Hz to 7 kHz, bands in a semitone,
EVERY = 2  # one frame of this many,
AROUND_BANDS, AROUND_FRAMES = 16, 17  # and its level above the mean of as many around it
PITCHES, TIMES = 40, 30  # components of a picture's Fourier transform that are compared,
SIZES = (256, 128)  # of so many bands and frames; longer sounds are cut into halves that overlap
SPREAD = 0.001  # of the mean spread, added to that of each component over the training set
RECIPE = 2  # increase with any change of the above: fitted files record it
SHORTEST_S = SIZE / SAMPLE_RATE


class Peaks(NamedTuple):
    """The peaks of a spectrogram."""

    semitone: np.ndarray  # above 55 Hz, float32 [n]
    frame: np.ndarray  # int32 [n]


class _Analysis(NamedTuple):
    """What is compared of a sound."""

    peaks: Peaks
    picture: np.ndarray  # dB above what is around, by pitch and frame, uint8 [bands, frames]


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
class Transposed(fitted.FittedTensors):
    """Likeness of the spectrograms of two sounds at one pitch, tempo and alignment.

    Up to 6 semitones, tempos from 0.8 to 1.25, forwards and backwards:

        s = sqrt(r n / sqrt((m + 20) (m_j + 20)))

    where n spectral peaks of the sound fall on n peaks of the training clip, m and m_j are the
    peaks that each has in the time that both cover, and r is the correlation there of the two
    spectrograms, as levels above what is around, by semitones. The match says how far the sound is
    transposed, how much faster it plays, and whether it is backwards.

    The candidates are the 16 clips whose spectrogram by semitones has the most similar magnitudes
    of its two-dimensional Fourier transform, of which a shift in pitch or time changes only the
    phases. So a short fragment of a long clip, or a clip under loud other sound, may not be among
    them: `Landmarks` finds those.

    A note resembles other notes of its instrument at another pitch. So calibrate, on sound of the
    same kind. A hum or a thud has few peaks, so its copies score low. Sound under 0.128 s, or with
    fewer than 4 peaks, is not compared.

    Source: after Wang, An industrial-strength audio search algorithm, ISMIR 2003, and Sonnleitner
    and Widmer, Robust quad-based audio fingerprinting, 2016; magnitudes of the transform as in
    Bertin-Mahieux and Ellis, Large-scale cover song recognition using the 2D Fourier transform
    magnitude, ISMIR 2012.

    >>> notes = torch.cat([torch.sin(torch.arange(4000.0) * f) for f in (0.1, 0.15, 0.12, 0.2)])
    >>> from anechoic.index import Sound
    >>> detector = Transposed.fit([Sound("a", "notes", notes[None], 16_000)])
    >>> (match,) = detector(notes.flip(0)[None, None], 16_000)
    >>> match.row, match.backwards
    (0, True)
    """

    semitones: Tensor  # of each peak, clip after clip, float32
    frames: Tensor  # int32
    pictures: Tensor  # clip after clip, one of two frames, uint8 [frames, bands]
    ends: Tensor  # where each clip's peaks end, int64 [n]
    picture_ends: Tensor  # where each clip's picture ends, int64 [n]

    name = f"transposed ({SAMPLE_RATE} Hz, {SIZE} samples every {HOP}, recipe {RECIPE})"

    def __post_init__(self) -> None:
        if len(self.ends) == 0:
            raise IndexMismatch("peaks need at least one training clip to be compared with")

    @classmethod
    def fit(cls, sounds: Iterable[TrainingSound]) -> Transposed:
        """Analyse the training clips: five kilobytes for a second of sound, and its peaks.

        Raises:
            BadAudio: a clip that is not usable sound, or is shorter than 0.128 s.
            IndexMismatch: no clips.
        """
        semitones, frames, pictures = [], [], []
        for row, sound in enumerate(sounds):
            wav = training(sound.wav, sound.sample_rate, SAMPLE_RATE, row, SHORTEST_S)
            found, picture = _analyse(wav)
            semitones.append(torch.from_numpy(found.semitone))
            frames.append(torch.from_numpy(found.frame))
            pictures.append(torch.from_numpy(picture.T[::EVERY].copy()))

        def joined(parts: list[Tensor]) -> Tensor:
            return torch.cat(parts or [torch.zeros(0)])

        def ends(parts: list[Tensor]) -> Tensor:
            return torch.tensor([len(part) for part in parts], dtype=torch.int64).cumsum(0)

        columns = (joined(semitones), joined(frames), joined(pictures))
        return cls(*columns, ends(frames), ends(pictures))

    def __call__(self, wav: Tensor, sample_rate: int) -> list[Match]:
        """One match for each clip [b, c, t].

        Raises:
            BadAudio: not usable sound.
        """
        return best_of_voices(wav, sample_rate, lambda clips: map(self._find, clips), SAMPLE_RATE)

    def _clip(self, row: int) -> _Analysis:
        """A training clip; of its picture, one of two frames."""
        here, picture = (
            slice(int(ends[row - 1]) if row else 0, int(ends[row]))
            for ends in (self.ends, self.picture_ends)
        )
        found = Peaks(self.semitones[here].numpy(), self.frames[here].numpy())
        return _Analysis(found, self.pictures[picture].numpy().T)

    @cached_property
    def _shapes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The clips' shapes at unit norm, and the mean and spread that they are taken from."""
        raw = np.stack([_shape(self._clip(row).picture) for row in range(len(self.ends))])
        mean, spread = raw.mean(0), raw.std(0)
        spread = spread + np.float32(SPREAD * raw.std() + 1e-9)
        unit = (raw - mean) / spread
        unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-9)
        return unit, mean, spread

    def _find(self, clip: Tensor) -> Match:
        if len(clip) < SIZE or is_silent(clip):
            return NOTHING
        sound = _analyse(clip / clip.abs().max())
        if len(sound.peaks.frame) < LEAST:
            return NOTHING
        clips, mean, spread = self._shapes
        near = clips @ ((_shape(sound.picture[:, ::EVERY]) - mean) / spread)
        rows = np.argsort(-near, kind="stable")[:CANDIDATES].tolist()
        matches = (self._match(sound, row) for row in rows)
        return max(matches, key=lambda match: match.score)

    def _match(self, found: _Analysis, row: int) -> Match:
        (sound, ours_seen), (clip, theirs_seen) = found, self._clip(row)
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
        alike = _correlation(ours_seen, theirs_seen, best, semitones, last)
        begin, end = sound.frame[ours].min(), sound.frame[ours].max()
        start = best.frames(np.array([end if best.backwards else begin]), last)[0]
        seconds = HOP / SAMPLE_RATE
        return Match(
            score=(alike * n / ((m + PRIOR) * (m_j + PRIOR)) ** 0.5) ** 0.5,
            row=row,
            start_s=float(begin) * seconds,
            match_start_s=max(float(start), 0.0) * seconds,
            length_s=float(end - begin) * seconds,
            semitones=round(semitones, 3),
            tempo=best.tempo,
            backwards=best.backwards,
        )


def _analyse(wav: Tensor) -> _Analysis:
    """The peaks and the picture of sound [t] at 16 kHz."""
    from scipy.ndimage import uniform_filter

    level = _levels(wav)
    place = 55 * 2 ** (np.arange(LOWEST, HIGHEST, 1 / BANDS) / 12) * SIZE / SAMPLE_RATE
    below = place.astype(int)
    share = (place - below).astype(np.float32)[:, None]
    bands = np.maximum((1 - share) * level[below] + share * level[below + 1], -FLOOR_DB)
    bands -= uniform_filter(bands, (AROUND_BANDS, AROUND_FRAMES), mode="nearest")
    return _Analysis(_peaks(level), np.round(np.maximum(bands, 0)).astype(np.uint8))


def _levels(wav: Tensor) -> np.ndarray:
    """The spectrogram of sound [t] in dB under its loudest bin, [bins, frames]."""
    padded = torch.nn.functional.pad(wav, (SIZE // 2, SIZE // 2))
    window = torch.hann_window(SIZE)
    spectrum = torch.stft(padded, SIZE, HOP, window=window, center=False, return_complex=True)
    magnitude = spectrum.abs().numpy()
    level: np.ndarray = 20 * np.log10(np.maximum(magnitude / max(magnitude.max(), 1e-30), 1e-4))
    return level


def _peaks(level: np.ndarray) -> Peaks:
    """The peaks of a spectrogram; their pitch is refined by a parabola through three bins."""
    from scipy.ndimage import maximum_filter, uniform_filter

    peak = level == maximum_filter(level, 2 * AROUND + 1, mode="nearest")
    peak &= level > -FLOOR_DB
    peak &= level > uniform_filter(level, BACKGROUND, mode="nearest") + MARGIN_DB
    peak[:LOWEST_BIN], peak[-1] = False, False
    bins, frames = np.nonzero(peak)
    below, here, above = (level[bins + step, frames] for step in (-1, 0, 1))
    offset = 0.5 * (below - above) / np.minimum(below - 2 * here + above, -1e-6)
    hertz = (bins + np.clip(offset, -0.5, 0.5)) * SAMPLE_RATE / SIZE
    return Peaks((12 * np.log2(hertz / 55)).astype(np.float32), frames.astype(np.int32))


def _shape(picture: np.ndarray) -> np.ndarray:
    """Magnitudes of a picture's slow components, [PITCHES * TIMES]; the mean over the parts of a
    long one. They are the same at any pitch and any start, and backwards."""
    starts = window_starts(picture.shape[1], SIZES[1], SIZES[1] // 2)
    parts = [picture[:, start : start + SIZES[1]].astype(np.float32) for start in starts]
    found = np.mean([np.abs(np.fft.rfft2(part - part.mean(), SIZES)) for part in parts], axis=0)
    both = found[:PITCHES] + found[-np.arange(PITCHES)]  # backwards, one becomes the other
    shape: np.ndarray = np.sqrt(both[:, :TIMES]).astype(np.float32).ravel()
    return shape


def _correlation(
    sound: np.ndarray, clip: np.ndarray, best: _Alignment, semitones: float, last: int
) -> float:
    """Correlation of two pictures in the time that both cover; 0 if it is negative.

    `clip` has one of two frames.
    """
    frame = (EVERY * np.arange(clip.shape[1]) - best.lag) / best.tempo
    frame = np.round(last - frame if best.backwards else frame).astype(int)
    common = (frame >= 0) & (frame < sound.shape[1])
    up = round(semitones * BANDS)
    ours = sound[max(up, 0) : len(sound) + min(up, 0), frame[common]].astype(np.float32)
    theirs = clip[max(-up, 0) : len(clip) - max(up, 0), common].astype(np.float32)
    if common.sum() < 2:
        return 0.0
    ours, theirs = ours - ours.mean(), theirs - theirs.mean()
    norm = float(np.linalg.norm(ours) * np.linalg.norm(theirs))
    return max(float((ours * theirs).sum()) / max(norm, 1e-9), 0.0)


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
