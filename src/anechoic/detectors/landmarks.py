"""A landmark fingerprint: pairs of spectral peaks that agree on one alignment."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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

SAMPLE_RATE, SIZE, HOP = 8_000, 1_024, 128  # 128 ms frames every 16 ms, bins of 7.8 Hz
AROUND_FRAMES, AROUND_BINS = 4, 4  # a peak is the highest within this many on each side
FLOOR_DB = 60.0  # peaks are at most this far below the loudest bin of the sound
MARGIN_DB = 12.0  # peaks are at least this far above the mean around them,
BACKGROUND = (17, 33)  # over this many frames and bins
FAN, AHEAD_FRAMES, ASIDE_BINS = 10, 40, 60  # pairs per peak, and their largest distances
LOWEST_BIN = 2
BLUR = 1  # tolerance in frames of alignments and of the lengths of pairs
PRIOR = 10  # pairs added to those of each clip, so that a match of few counts less
RECIPE = 1  # increase with any change of the above: fitted files record it
SHORTEST_S = SIZE / SAMPLE_RATE
SHIFT = 1 << 32  # numbers of clips are kept above offsets in one integer


class _Pairs(NamedTuple):
    """Pairs of peaks, in temporal order."""

    frame: np.ndarray  # frame of the first peak
    low: np.ndarray  # its bin
    rise: np.ndarray  # bins up to the second
    ahead: np.ndarray  # frames up to the second


@dataclass(frozen=True, eq=False)
class Landmarks(fitted.FittedTensors):
    """Share of the landmarks of two clips that agree on one alignment.

    A landmark is a pair of peaks of the spectrogram: (bin, bin, frames between). With n the most
    landmarks that clip and training clip share at one offset, and m and m_j those that each
    has in the time that both cover there,

        s = n / sqrt((m + 10) (m_j + 10))

    Level, equaliser, codec and faint noise hardly move the peaks. Pitch does: a transposed copy has
    other landmarks. A hum or a single thud has hardly any, so its copies are hard to find.

    Clips under 0.128 s are not compared. The match extends from the first to the last agreeing
    peak; its two starts are accurate to some milliseconds relative to each other.

    Source: Wang, An industrial-strength audio search algorithm, ISMIR 2003; the normalisation is
    our own.
    """

    # the postings: all landmarks by their hash
    hashes: Tensor  # int32, ascending
    rows: Tensor  # the clip of each, int32
    frames: Tensor  # its frame in the clip, int32
    # the same landmarks clip after clip, in time
    times: Tensor  # frames, int32
    ends: Tensor  # where each clip ends in `times`, int64 [n]
    lengths: Tensor  # frames of each clip, int64 [n]

    name = f"landmarks ({SAMPLE_RATE} Hz, {SIZE} samples every {HOP}, recipe {RECIPE})"

    def __post_init__(self) -> None:
        if len(self.ends) == 0:
            raise IndexMismatch("landmarks need at least one training clip to be compared with")

    @classmethod
    def fit(cls, sounds: Iterable[TrainingSound]) -> Landmarks:
        """Compute the landmarks of the training clips, 16 bytes each.

        Raises:
            BadAudio: a clip that is not usable sound, or is shorter than 0.128 s.
            IndexMismatch: no clips.
        """
        hashes, times, lengths = [], [], []
        for row, sound in enumerate(sounds):
            wav = training(sound.wav, sound.sample_rate, SAMPLE_RATE, row, SHORTEST_S)
            pairs = landmarks(wav)
            hashes.append(_hash(pairs, pairs.ahead))
            times.append(pairs.frame.astype(np.int32))
            lengths.append(len(wav) // HOP)
        return cls.of(hashes, times, lengths)

    @classmethod
    def of(
        cls, hashes: Sequence[np.ndarray], times: Sequence[np.ndarray], lengths: Sequence[int]
    ) -> Landmarks:
        """From the hashes and frames of each clip's landmarks, int32, and its length in frames."""
        count = np.array([len(part) for part in hashes], np.int64)
        flat, when = (np.concatenate([np.zeros(0, np.int32), *one]) for one in (hashes, times))
        order = np.argsort(flat, kind="stable")
        rows = np.repeat(np.arange(len(count), dtype=np.int32), count)
        return cls(
            torch.from_numpy(flat[order]),
            torch.from_numpy(rows[order]),
            torch.from_numpy(when[order]),
            torch.from_numpy(when),
            torch.from_numpy(count.cumsum()),
            torch.tensor(lengths),
        )

    def __call__(self, wav: Tensor, sample_rate: int) -> list[Match]:
        """One match for each clip [b, c, t]; without a row if no landmark agrees.

        Raises:
            BadAudio: not usable sound.
        """
        return best_of_voices(wav, sample_rate, lambda clips: map(self._find, clips), SAMPLE_RATE)

    def _find(self, clip: Tensor) -> Match:
        if len(clip) < SIZE or is_silent(clip):
            return NOTHING
        pairs = landmarks(clip)
        pair, rows, offsets = self._hits(pairs)
        if len(pair) == 0:
            return Match(0.0)
        number, offset, agree = _best_alignment(pair, rows, offsets)
        begin, end = max(0, offset), min(len(clip) // HOP, offset + int(self.lengths[number]))
        stop = int(self.ends[number])
        theirs = self.times[int(self.ends[number - 1]) if number else 0 : stop].numpy() + offset
        m, m_j = (int(((f >= begin) & (f <= end)).sum()) for f in (pairs.frame, theirs))
        n = len(np.unique(pair[agree]))
        first, last = pairs.frame[pair[agree]], (pairs.frame + pairs.ahead)[pair[agree]]
        start_s = float(first.min()) * HOP / SAMPLE_RATE
        # frames are coarse, but the offsets of many pairs average out
        lag_s = float(offsets[agree].mean()) * HOP / SAMPLE_RATE
        return Match(
            score=n / ((m + PRIOR) * (m_j + PRIOR)) ** 0.5,
            row=number,
            start_s=start_s,
            match_start_s=start_s - lag_s,
            length_s=float(last.max() - first.min()) * HOP / SAMPLE_RATE,
        )

    def _hits(self, pairs: _Pairs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Landmarks shared with training clips: number in the clip, row, and offset."""
        hashes, rows, frames = (x.numpy() for x in (self.hashes, self.rows, self.frames))
        found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for blur in range(-BLUR, BLUR + 1):
            wanted = _hash(pairs, pairs.ahead + blur)
            left, right = (np.searchsorted(hashes, wanted, side) for side in ("left", "right"))
            count = right - left
            pair = np.repeat(np.arange(len(wanted)), count)
            within = np.arange(count.sum()) - np.repeat(count.cumsum() - count, count)
            at = np.repeat(left, count) + within
            row, frame = rows[at].astype(np.int64), frames[at].astype(np.int64)
            found.append((pair, row, pairs.frame[pair] - frame))
        pair, row, offset = (np.concatenate(part) for part in zip(*found, strict=True))
        return pair, row, offset


def landmarks(wav: Tensor) -> _Pairs:
    """The landmarks of sound [t] at 8 kHz."""
    frames, bins = _peaks(wav)
    first, second = [], []
    for i in range(len(frames)):
        near = np.arange(i + 1, np.searchsorted(frames, frames[i] + AHEAD_FRAMES, "right"))
        aside = np.abs(bins[near] - bins[i]) <= ASIDE_BINS
        chosen = near[aside][:FAN]
        first += [i] * len(chosen)
        second += chosen.tolist()
    a, b = np.array(first, dtype=np.int64), np.array(second, dtype=np.int64)
    return _Pairs(frames[a], bins[a], bins[b] - bins[a], frames[b] - frames[a])


def _peaks(wav: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Frames and bins of the peaks of a spectrogram, ordered by time, then pitch."""
    from scipy.ndimage import maximum_filter, uniform_filter

    window = torch.hann_window(SIZE)
    padded = torch.nn.functional.pad(wav, (SIZE // 2, SIZE // 2))
    spectrum = torch.stft(padded, SIZE, HOP, window=window, center=False, return_complex=True)
    magnitude = spectrum.abs().T.double().numpy()
    level = 20 * np.log10(np.maximum(magnitude / max(magnitude.max(), 1e-30), 10 ** (-80 / 20)))
    neighbourhood = (2 * AROUND_FRAMES + 1, 2 * AROUND_BINS + 1)
    peak = level == maximum_filter(level, neighbourhood, mode="nearest")
    peak &= level > -FLOOR_DB
    peak &= level > uniform_filter(level, BACKGROUND, mode="nearest") + MARGIN_DB
    peak[:, :LOWEST_BIN] = False
    frames, bins = np.nonzero(peak)
    return frames, bins


def _hash(pairs: _Pairs, ahead: np.ndarray) -> np.ndarray:
    """One number for each landmark: its lower bin, its rise and its length in time."""
    packed: np.ndarray = (pairs.low << 14) | ((pairs.rise + ASIDE_BINS) << 7) | (ahead + BLUR)
    return packed.astype(np.int32)


def _best_alignment(
    pair: np.ndarray, row: np.ndarray, offset: np.ndarray
) -> tuple[int, int, np.ndarray]:
    """The clip and offset on which most landmarks agree, and the hits that do."""
    hits = np.bincount(row)
    likely = row == hits.argmax()
    _, least = _most_votes(pair[likely], row[likely], offset[likely])
    able = hits[row] >= least  # a clip has no more votes than hits, so most need no count
    best, _ = _most_votes(pair[able], row[able], offset[able])
    winner, at = best // SHIFT, best % SHIFT - (SHIFT >> 1)
    return winner, at, (row == winner) & (np.abs(offset - at) <= BLUR)


def _most_votes(pair: np.ndarray, row: np.ndarray, offset: np.ndarray) -> tuple[int, int]:
    """The clip and offset with most votes, as one number, and how many; the first among equals."""
    votes = [(row * SHIFT + offset + d + (SHIFT >> 1), pair) for d in range(-BLUR, BLUR + 1)]
    keys, voters = (np.concatenate(part) for part in zip(*votes, strict=True))
    once = np.unique(np.stack([keys, voters], 1), axis=0)[:, 0]  # a landmark has one vote
    places, count = np.unique(once, return_counts=True)
    return int(places[count.argmax()]), int(count.max())
