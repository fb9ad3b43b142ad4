"""Compares waveforms by the peak of their normalised cross-correlation over all lags.

All comparisons of waveforms use the transform of `cross_correlation`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from anechoic.audio import is_silent, window_starts
from anechoic.detectors import fitted
from anechoic.detectors.protocol import NOTHING, TrainingSound
from anechoic.detectors.sound import best_of_voices, training
from anechoic.errors import BadSetting, IndexMismatch
from anechoic.types import Match

SHORTEST_S = 0.1  # the shortest training clip
AUDIBLE = 1e-4  # stretches 40 dB below the loudest of their sound are not compared
CHUNK = 1 << 22  # samples correlated at once
QUIET = 0.05  # share of the loudest stretch's energy below which `correlation_peak` skips one
FRAME_S = 0.005  # the ends of a match are searched in frames of this length


class _Peak(NamedTuple):
    score: float
    row: int
    start: int  # in the clip, in samples
    match_start: int  # in the training clip
    length: int

    def ranks_over(self, other: _Peak) -> bool:
        """Whether it ranks higher; among equals, the earlier training clip, then earlier start."""
        return (self.score, -self.row, -self.start) > (other.score, -other.row, -other.start)


_Windows = dict[int, list[tuple[int, Tensor]]]  # number of a clip -> its windows and their starts


def cross_correlation(spectrum: Tensor, template: Tensor, size: int) -> Tensor:
    """<wave[lag : lag + n], template> at every lag, [..., size]; `size` is the period of the wave.

    Args:
        spectrum: `torch.fft.rfft(wave, size)`.
        template: [..., n].
        size: size of the transform: the length of the wave for lags with the whole template in
            it, n more for lags with a part of the template.
    """
    products: Tensor = torch.fft.irfft(spectrum * torch.fft.rfft(template, size).conj(), size)
    return products


def correlation_peak(a: Tensor, b: Tensor) -> float:
    """Peak of the normalised cross-correlation of two whole sounds, in [0, 1].

        max_l |<long[l : l + n], short>| / (|long[l : l + n]| |short|)

    The mean of the channels is compared, and each stretch has its mean removed. The shorter sound
    slides along the longer, up to half of it beyond either end; 1 is the same waveform at any
    gain, polarity and position. Stretches of the longer one that are much quieter than its loudest
    are not compared.

    Args:
        a, b: sounds [c, t] at one rate.

    Source: Lewis, Fast normalized cross-correlation, 1995.

    >>> tone = torch.sin(torch.arange(100.0) ** 1.5)[None]
    >>> round(correlation_peak(-0.1 * tone[:, 20:60], tone), 6)
    1.0
    """
    short, long = sorted((x.double().mean(0).cpu() for x in (a, b)), key=len)
    padded = torch.nn.functional.pad(long, (len(short) // 2, len(short) // 2))[None]
    size = _fft_length(padded.shape[1])
    weight = _stretch_weight(padded, len(short), QUIET)
    scores = _correlate(torch.fft.rfft(padded, size), short, weight, size)
    return min(scores.max().item(), 1.0)


@dataclass(frozen=True, eq=False)
class Correlation:
    """Peak of the normalised cross-correlation of stretches of a clip with training clips.

        s = max_{w, j, lag} |<w, x_j[lag : lag + n]>| / (||w|| ||x_j[lag : lag + n]||)

    where w are windows of the clip, n samples each and half a window apart, so that a fragment of
    one and a half windows inside other sound contains a whole one. Both stretches are normalised by
    their own mean and energy, so level, polarity, a constant offset and the surrounding sound do
    not change the score. A training clip shorter than a window slides over the clip as a whole.

    Clips shorter than a window, and stretches 40 dB below the loudest, are not compared. The ends
    of the match are where the two waves diverge, to about 10 ms.

    Tones resemble each other: two notes of one pitch correlate highly over half a second, on any
    instrument. So calibrate.

    Source: Lewis, Fast normalized cross-correlation, 1995.
    """

    sound: Tensor  # the training clips end to end, peaks at 1, float16
    ends: Tensor  # where each clip ends in `sound`, int64 [n]
    sample_rate: int = 8_000  # rate of the comparison, in Hz
    window_s: float = 0.5

    def __post_init__(self) -> None:
        if len(self.ends) == 0:
            raise IndexMismatch("waves need at least one training clip to be compared with")
        if self.sample_rate <= 0 or self.window_s < SHORTEST_S:
            raise BadSetting(
                f"a rate above 0 and a window of {SHORTEST_S:g} s or more were expected, got "
                f"{self.sample_rate} Hz and {self.window_s:g} s; change them"
            )

    @classmethod
    def fit(
        cls, sounds: Iterable[TrainingSound], sample_rate: int = 8_000, window_s: float = 0.5
    ) -> Correlation:
        """Store the training clips, two bytes a sample.

        Raises:
            BadAudio: a clip that is not usable sound, or is shorter than 0.1 s.
            IndexMismatch: no clips.
            BadSetting: an impossible rate or window.
        """
        waves = [
            training(sound.wav, sound.sample_rate, sample_rate, row, SHORTEST_S).half()
            for row, sound in enumerate(sounds)
        ]
        ends = torch.tensor([len(wav) for wav in waves], dtype=torch.int64).cumsum(0)
        return cls(torch.cat(waves) if waves else torch.zeros(0), ends, sample_rate, window_s)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the fitted detector as one file.

        Raises:
            OutputExists: the file exists, and `overwrite` is off.
        """
        settings = {"sample_rate": self.sample_rate, "window_s": self.window_s}
        tensors = {"sound": self.sound, "ends": self.ends}
        return fitted.write(path, "correlation", tensors, settings, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path) -> Correlation:
        """Read a file from `save`.

        Raises:
            IndexMismatch: the file does not exist, is damaged, or of another detector.
        """
        return fitted.read(path, "correlation", cls)

    @property
    def name(self) -> str:
        return f"correlation ({self.sample_rate} Hz, window {self.window_s:g} s)"

    def __call__(self, wav: Tensor, sample_rate: int) -> list[Match]:
        """One match for each clip [b, c, t].

        Raises:
            BadAudio: not usable sound.
        """
        return best_of_voices(wav, sample_rate, self._search, self.sample_rate)

    def _search(self, clips: Sequence[Tensor]) -> list[Match]:
        length = round(self.window_s * self.sample_rate)
        windows = {
            i: _windows(clip, length)
            for i, clip in enumerate(clips)
            if len(clip) >= length and not is_silent(clip)
        }
        best: dict[int, _Peak] = {}
        for i, peak in [
            *self._in_long_clips(windows, length),
            *self._short_clips_in(windows, clips),
        ]:
            if i not in best or peak.ranks_over(best[i]):
                best[i] = peak
        return [self._match(clips[i], best[i]) if i in best else NOTHING for i in range(len(clips))]

    # ---------------------------------------------------------------------- both directions

    @cached_property
    def _lengths(self) -> list[int]:
        return torch.diff(self.ends, prepend=torch.zeros(1, dtype=torch.int64)).tolist()

    def _wave(self, row: int) -> Tensor:
        """A training clip, [t] float32."""
        end = int(self.ends[row])
        return self.sound[end - self._lengths[row] : end].float()

    def _chunks(self, rows: Iterable[int]) -> Iterator[list[int]]:
        """Rows in groups of one FFT length and a bounded size, in a fixed order."""
        sizes: dict[int, list[int]] = {}
        for row in rows:
            sizes.setdefault(_fft_length(self._lengths[row]), []).append(row)
        for size, alike in sorted(sizes.items()):
            count = max(CHUNK // size, 1)
            yield from (alike[i : i + count] for i in range(0, len(alike), count))

    def _in_long_clips(self, windows: _Windows, length: int) -> Iterator[tuple[int, _Peak]]:
        """Each window's best position in the training clips that are at least as long."""
        if not windows:
            return
        for rows in self._chunks(r for r, n in enumerate(self._lengths) if n >= length):
            padded = torch.zeros(len(rows), _fft_length(self._lengths[rows[0]]))
            for i, row in enumerate(rows):
                padded[i, : self._lengths[row]] = self._wave(row)
            spectra, weight = torch.fft.rfft(padded), _stretch_weight(padded, length)
            for i, row in enumerate(rows):  # past its last whole stretch
                weight[i, self._lengths[row] - length + 1 :] = 0
            # one window at a time, so that its score does not depend on its neighbours
            for clip, own in windows.items():
                for start, window in own:
                    top, lags = _correlate(spectra, window, weight, padded.shape[1]).max(1)
                    i = int(top.argmax())
                    yield clip, _Peak(float(top[i]), rows[i], start, int(lags[i]), length)

    def _short_clips_in(
        self, windows: _Windows, clips: Sequence[Tensor]
    ) -> Iterator[tuple[int, _Peak]]:
        """The best position in each clip of the training clips shorter than a window."""
        length = round(self.window_s * self.sample_rate)
        short = [row for row, n in enumerate(self._lengths) if n < length]
        for clip in windows if short else ():
            size = _fft_length(len(clips[clip]))
            padded = torch.nn.functional.pad(clips[clip], (0, size - len(clips[clip])))[None]
            spectrum = torch.fft.rfft(padded)
            for row in short:
                wave = self._wave(row)
                weight = _stretch_weight(padded, len(wave))
                weight[:, len(clips[clip]) - len(wave) + 1 :] = 0  # past its last whole stretch
                scores = _correlate(spectrum, wave, weight, size)[0]
                lag = int(scores.argmax())
                yield clip, _Peak(float(scores[lag]), row, lag, 0, len(wave))

    # -------------------------------------------------------------------- ends of the match

    def _match(self, clip: Tensor, peak: _Peak) -> Match:
        """Extend the match from the peak to where the two waves diverge."""
        wave = self._wave(peak.row)
        lag = peak.start - peak.match_start
        clip = clip - clip[peak.start : peak.start + peak.length].mean()
        wave = wave - wave[peak.match_start : peak.match_start + peak.length].mean()
        first = max(-lag, 0)  # the common part, in the training clip's time
        last = min(len(wave), len(clip) - lag)
        frame = max(round(FRAME_S * self.sample_rate), 1)
        here = slice(peak.match_start, peak.match_start + peak.length)
        sign = (clip[peak.start : peak.start + peak.length] * wave[here]).sum().sign()
        alike = sign * _framewise(clip[first + lag : last + lag], wave[first:last], frame)
        alike = alike - peak.score / 2
        left, right = (peak.match_start - first) // frame, peak.match_start - first + peak.length
        right = min(-(-right // frame), len(alike))
        begin = left - _reach(alike[:left].flip(0))
        end = right + _reach(alike[right:])
        start = min(first + begin * frame, peak.match_start)
        stop = max(min(first + end * frame, last), peak.match_start + peak.length)
        rate = self.sample_rate
        return Match(
            score=min(peak.score, 1.0),
            row=peak.row,
            start_s=(start + lag) / rate,
            match_start_s=start / rate,
            length_s=(stop - start) / rate,
        )


def _windows(clip: Tensor, length: int) -> list[tuple[int, Tensor]]:
    """Audible windows of a clip [t], half a window apart, and their starts."""
    starts = window_starts(len(clip), length, max(length // 2, 1))
    windows = [(start, clip[start : start + length]) for start in starts]
    energies = [(window.double() - window.double().mean()).square().sum() for _, window in windows]
    loud = AUDIBLE * max(energies)
    return [window for window, energy in zip(windows, energies, strict=True) if energy > loud]


def _fft_length(samples: int) -> int:
    return 1 << max(samples - 1, 1).bit_length()


def _stretch_weight(waves: Tensor, length: int, audible: float = AUDIBLE) -> Tensor:
    """1 / the norm of each stretch of `length` samples around its mean, [n, t - length + 1].

    0 if a stretch has less than `audible` of the loudest one's energy, so it correlates with
    nothing.
    """
    total, square = (
        torch.nn.functional.pad(x.cumsum(1), (1, 0)) for x in (waves.double(), waves.double() ** 2)
    )
    mean = (total[:, length:] - total[:, :-length]) / length
    energy = square[:, length:] - square[:, :-length] - length * mean**2
    loud = energy > audible * energy.amax(1, keepdim=True)
    return torch.where(loud, energy.clamp_min(1e-30).rsqrt(), 0.0).to(waves.dtype)


def _correlate(spectra: Tensor, template: Tensor, weight: Tensor, size: int) -> Tensor:
    """Normalised correlation of a template [n] at every lag, [m, lags].

    The transform is as long as the waves; only lags past the last whole one wrap around.
    """
    template = template - template.mean()  # then the mean of a stretch does not matter
    unit = template / template.norm().clamp_min(1e-30)  # silence gives 0
    return cross_correlation(spectra, unit, size)[:, : weight.shape[1]].abs_() * weight


def _framewise(a: Tensor, b: Tensor, frame: int) -> Tensor:
    """Correlation of two aligned waves in frames, each with its neighbours: [t] -> [frames]."""
    count = -(-len(a) // frame)

    def framed(x: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(x.double(), (0, count * frame - len(x)))
        return torch.nn.functional.avg_pool1d(padded.reshape(1, count, frame).sum(2), 3, 1, 1)[0]

    energy = framed(a * a) * framed(b * b)
    return torch.where(energy > 0, framed(a * b) / energy.clamp_min(1e-30).sqrt(), 0.0)


def _reach(excess: Tensor) -> int:
    """The number of frames to extend by, up to the largest sum of the excess."""
    if len(excess) == 0:
        return 0
    total = excess.cumsum(0)
    furthest = int(total.argmax())
    return furthest + 1 if total[furthest] > 0 else 0
