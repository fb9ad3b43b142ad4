"""Judges a generation by descriptors that no guard follows, and by the waveform.

Guides and judges are separate, because a gradient can change the descriptor that it follows while
a listener still recognizes the clip. The demo's guards follow "magmel"; the judges are

- `mel`: centred log-mel correlation, which decides whether a generation is a copy of a clip;
- `envelope`: centred energy envelopes of eight bands every 8 ms, with hardly any pitch but twice
  the resolution in time; it distinguishes renderings of one note by rhythm and touch;
- `spectrum`: centred mean log-mel spectrum; it does not find copies, but tells whether a recording
  was recognizably followed;
- `rank`: the rank correlation of log mel, which a few loud spots do not change. A guard that
  follows a gradient lowers `magmel`, and `mel` with it, by such spots, and leaves the clip beside
  them as it was: see docs/evidence/auto.md;
- `waveform`: the peak of the normalised cross-correlation over all lags.

Those compare whole clips from their start on. Of clips that are longer than a second, `fragment`
compares any second with any second of the training clip, by ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from anechoic.detectors.correlation import cross_correlation
from anechoic.detectors.sound import resample
from anechoic_lab.demo.codec import mel_filters
from anechoic_lab.demo.corpus import SAMPLE_RATE

RANK = 0.9  # rank correlation above which a generation counts as its training clip
LOUD, QUIET = 0.03, 3e-4  # floors of log mel: ranges of 30 dB and 70 dB
COPY = 0.9  # centred mel correlation above which a generation is its training clip


def heard(wav: Tensor, rate: int) -> Tensor:
    """Sound [n, t] at the rate of the judges, 16 kHz."""
    return torch.stack([resample(one, rate, SAMPLE_RATE) for one in wav])


def _magnitude(wav: Tensor, frame: int, hop: int) -> Tensor:
    window = torch.hann_window(frame, device=wav.device)
    return torch.stft(wav, frame, hop, window=window, return_complex=True).abs()


def _level(wav: Tensor) -> Tensor:
    return wav / wav.abs().amax(1, keepdim=True).clamp_min(1e-6)


def _mel_bands(wav: Tensor) -> Tensor:
    """Mel bands relative to the loudest part: [b, t] at 16 kHz -> [b, 64, frames]."""
    bands = mel_filters(64, 513, SAMPLE_RATE, 40.0, 7600.0) @ _magnitude(_level(wav), 1024, 256)
    return bands / bands.amax((1, 2), keepdim=True).clamp_min(1e-6)


def _log(bands: Tensor, floor: float) -> Tensor:
    return torch.log(bands + floor).flatten(1)


def _mean_over_time(log_mel: Tensor) -> Tensor:
    mean: Tensor = log_mel.unflatten(1, (64, -1)).mean(2)
    return mean


def _ranks(values: Tensor) -> Tensor:
    """The rank of each value in its row: [b, d] -> [b, d]."""
    order = values.argsort(1)
    places = torch.arange(order.shape[1], dtype=torch.float32, device=order.device)
    return torch.empty_like(order, dtype=torch.float32).scatter_(1, order, places.expand_as(order))


def mel(wav: Tensor) -> Tensor:
    """Log mel with a range of 30 dB: [b, t] at 16 kHz -> [b, d]."""
    return _log(_mel_bands(wav), LOUD)


def envelope(wav: Tensor) -> Tensor:
    """Compressed energy of eight bands every 8 ms: [b, t] at 16 kHz -> [b, d]."""
    power = _magnitude(_level(wav), 512, 128).square()
    edges = (1, 6, 12, 22, 38, 64, 102, 160, 257)  # bins of 31.25 Hz
    bands = torch.stack([power[:, low:high].sum(1) for low, high in pairwise(edges)], 1)
    bands = torch.nn.functional.avg_pool1d(bands, 3, stride=1, padding=1)
    level = bands.amax((1, 2), keepdim=True).clamp_min(1e-9)
    return (bands / level).pow(0.3).flatten(1)


def spectrum(wav: Tensor) -> Tensor:
    """Mean over time of the log mel: [b, t] at 16 kHz -> [b, 64]."""
    return _mean_over_time(mel(wav))


def waveform(a: Tensor, b: Tensor) -> Tensor:
    """Peak of the cross-correlation over all lags, normalised by the energies of the whole clips,
    [b, t] x [b, t] -> [b].

    The demo's table reports this figure. `correlation_peak` normalises each lag by itself.
    """
    n = 2 * a.shape[1]
    cross = cross_correlation(torch.fft.rfft(a, n), b, n)
    peak: Tensor = cross.abs().amax(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp_min(1e-9)
    return peak


def rank(wav: Tensor) -> Tensor:
    """Ranks of the log mel with a range of 70 dB: [b, t] at 16 kHz -> [b, d].

    `mel` and `magmel` follow the loudest part: one loud spot lowers them while the clip stays as it
    was beside it. Ranks do not move with a few spots, however loud.
    """
    return _ranks(_log(_mel_bands(wav), QUIET))


def describe(wav: Tensor) -> dict[str, Tensor]:
    """All descriptors at once, three of them from the same mel bands: [b, t] -> [b, d] each."""
    bands = _mel_bands(wav)
    log_mel = _log(bands, LOUD)
    return {"mel": log_mel, "envelope": envelope(wav), "spectrum": _mean_over_time(log_mel),
            "rank": _ranks(_log(bands, QUIET))}  # fmt: skip


DESCRIPTORS = {"mel": mel, "envelope": envelope, "spectrum": spectrum, "rank": rank}
NEAREST = 10  # a recording is recognized if a clip of its caption is among so many by spectrum


@dataclass(frozen=True)
class ClipScorer:
    """Correlates clips with the training set by one descriptor, centred on its mean."""

    name: str
    centre: Tensor  # [d]
    training: Tensor  # unit norm, [n, d]

    @classmethod
    def of(cls, name: str, training: Tensor) -> ClipScorer:
        """Describe the training clips, [n, t]."""
        return cls._of(name, [DESCRIPTORS[name](part) for part in training.split(256)])

    @classmethod
    def all_of(cls, training: Tensor) -> dict[str, ClipScorer]:
        """Describe the training clips, [n, t], by each descriptor."""
        parts = [describe(part) for part in training.split(256)]
        return {name: cls._of(name, [part[name] for part in parts]) for name in DESCRIPTORS}

    @classmethod
    def _of(cls, name: str, parts: Sequence[Tensor]) -> ClipScorer:
        raw = torch.cat(list(parts))
        centre = raw.mean(0)
        return cls(name, centre, torch.nn.functional.normalize(raw - centre, dim=1))

    def __call__(self, wav: Tensor) -> Tensor:
        """Correlation of each clip [b, t] with each training clip: [b, n]."""
        raw = torch.cat([DESCRIPTORS[self.name](part) for part in wav.split(256)])
        return torch.nn.functional.normalize(raw - self.centre, dim=1) @ self.training.T


SECOND = 64  # frames of 16 ms: what `fragment` compares
SECOND_S = SECOND * 256 / SAMPLE_RATE  # 1.024 s
FRAGMENT = 0.9  # correlation above which a second is that of a training clip
LONGER = 1.5  # times as long as a second is a sound with fragments
EVERY = 16  # frames from one second of the sound to the next; in the clip, every frame
AUDIBLE = 1e-3  # share of the loudest second's energy that a second has to have


@dataclass(frozen=True)
class Fragment:
    """The second of a sound that is most like a second of a training clip."""

    score: float  # correlation of the ranks of log mel
    at_s: float  # where it begins in the sound
    from_s: float  # and in the clip


@dataclass(frozen=True)
class FragmentScorer:
    """Compares seconds of sound with seconds of a training clip, at any offset.

    The ranks of each second's log mel are centred on the mean of all training seconds in each band,
    so that what all sound has in common, more energy in the lower bands, does not count.
    """

    centre: Tensor  # [64, 1]

    @classmethod
    def of(cls, training: Tensor) -> FragmentScorer:
        """Centre on the training clips, [n, t] at 16 kHz."""
        ranks = [_seconds(clip, SECOND // 2)[0].mean((0, 2)) for clip in training]
        return cls(torch.stack(ranks).mean(0)[:, None])

    def __call__(self, wav: Tensor, clip: Tensor) -> Fragment:
        """The best pair of seconds of two sounds, [t] at 16 kHz, of a second or more."""
        (sound, at), (second, since) = _seconds(wav, EVERY), _seconds(clip, 1)
        ours, theirs = (
            torch.nn.functional.normalize((x - self.centre).flatten(1), dim=1)
            for x in (sound, second)
        )
        scores = ours @ theirs.T
        best = divmod(int(scores.argmax()), scores.shape[1])
        return Fragment(scores[best].item(), at[best[0]].item(), since[best[1]].item())


def _seconds(wav: Tensor, every: int) -> tuple[Tensor, Tensor]:
    """Ranks of the log mel of the audible seconds of a sound [t]: [n, 64, SECOND], and where they
    begin, in seconds [n]."""
    log_mel = _log(_mel_bands(wav[None]), QUIET).unflatten(1, (64, -1))[0]
    parts = log_mel.unfold(1, SECOND, every).transpose(0, 1)
    energy = parts.exp().square().mean((1, 2))
    chosen = (energy > AUDIBLE * energy.amax()).nonzero()[:, 0]
    ranks = _ranks(parts[chosen].flatten(1)).unflatten(1, (64, SECOND))
    return ranks, chosen * (every * 256 / SAMPLE_RATE)
