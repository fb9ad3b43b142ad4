"""How the demo judges a generation: descriptors that no guard optimises, and a prompt classifier.

Guides and judges are kept apart: a gradient can fool the descriptor it follows while the ear
hears the same clip. The guards of the demo follow "magmel"; here judge

- `mel`: centred log-mel correlation, the measure by which a copy of a clip is told;
- `envelope`: centred energy envelopes of five bands at 4 ms, no mel scale and four times
  finer in time: it tells the takes of one note apart by their rhythm and touch;
- `waveform`: the peak of the normalised cross-correlation over all lags.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from anechoic.demo.codec import mel_filters
from anechoic.demo.corpus import INSTRUMENTS, REGISTERS, SAMPLE_RATE

FAMILIES = tuple(INSTRUMENTS)
COPY = 0.9  # centred mel correlation above which a generation is its training clip


def _magnitude(wav: Tensor, frame: int, hop: int) -> Tensor:
    window = torch.hann_window(frame, device=wav.device)
    return torch.stft(wav, frame, hop, window=window, return_complex=True).abs()


def _level(wav: Tensor) -> Tensor:
    return wav / wav.abs().amax(1, keepdim=True).clamp_min(1e-6)


def mel(wav: Tensor) -> Tensor:
    """Log mel, 30 dB deep: [b, t] at 16 kHz -> [b, d]."""
    bands = mel_filters(64, 513, SAMPLE_RATE, 40.0, 7600.0) @ _magnitude(_level(wav), 1024, 256)
    return torch.log(bands / bands.amax((1, 2), keepdim=True).clamp_min(1e-6) + 0.03).flatten(1)


def envelope(wav: Tensor) -> Tensor:
    """Square root of the energy of five bands every 4 ms: [b, t] at 16 kHz -> [b, d]."""
    power = _magnitude(_level(wav), 256, 64).square()
    edges = (1, 4, 10, 24, 64, 129)  # bins of 62.5 Hz
    bands = torch.stack(
        [power[:, low:high].sum(1) for low, high in zip(edges, edges[1:], strict=False)], 1
    )
    return bands.sqrt().flatten(1)


def waveform(a: Tensor, b: Tensor) -> Tensor:
    """Peak of the normalised cross-correlation over all lags, [b, t] x [b, t] -> [b]."""
    n = 2 * a.shape[1]
    cross = torch.fft.irfft(torch.fft.rfft(a, n) * torch.fft.rfft(b, n).conj(), n)
    return cross.abs().amax(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp_min(1e-9)


DESCRIPTORS = {"mel": mel, "envelope": envelope}


@dataclass(frozen=True)
class Judge:
    """One descriptor of the training set, centred on its mean."""

    name: str
    centre: Tensor  # [d]
    training: Tensor  # unit norm, [n, d]

    @classmethod
    def of(cls, name: str, training: Tensor) -> Judge:
        """Describe the training clips, [n, t]."""
        raw = torch.cat([DESCRIPTORS[name](part) for part in training.split(256)])
        centre = raw.mean(0)
        return cls(name, centre, torch.nn.functional.normalize(raw - centre, dim=1))

    def __call__(self, wav: Tensor) -> Tensor:
        """Correlation of each clip [b, t] with each training clip: [b, n]."""
        raw = torch.cat([DESCRIPTORS[self.name](part) for part in wav.split(256)])
        return torch.nn.functional.normalize(raw - self.centre, dim=1) @ self.training.T


def mfcc_statistics(wav: Tensor) -> Tensor:
    """Means and deviations of 20 MFCCs, and their means at the start: [b, t] -> [b, 60]."""
    bands = mel_filters(64, 513, SAMPLE_RATE, 40.0, 7600.0) @ _magnitude(_level(wav), 1024, 256)
    log = torch.log(bands + 1e-3)
    n = torch.arange(64)
    dct = torch.cos(math.pi / 64 * (n + 0.5)[None] * torch.arange(20)[:, None])
    cepstrum = dct @ log / 8
    loud = log.mean(1).softmax(-1)[:, None]  # weight by level: the note, not the silence
    return torch.cat([cepstrum.mean(2), cepstrum.std(2), (cepstrum * loud).sum(2)], 1)


@dataclass(frozen=True)
class PromptClassifier:
    """Tells instrument family and register of a note: logistic regression on MFCC statistics.

    Trained on real training clips after a round trip through the codec.
    """

    mean: Tensor  # [60]
    std: Tensor  # [60]
    weights: Tensor  # [families + registers, 60]
    bias: Tensor  # [families + registers]

    @classmethod
    def fit(cls, wav: Tensor, families: list[str], registers: list[str]) -> PromptClassifier:
        """Fit on notes [n, t]."""
        from sklearn.linear_model import LogisticRegression

        features = mfcc_statistics(wav)
        mean, std = features.mean(0), features.std(0)
        scaled = ((features - mean) / std).numpy()
        weights, bias = [], []
        for names, labels in ((FAMILIES, families), (REGISTERS, registers)):
            truth = [names.index(label) for label in labels]
            fitted = LogisticRegression(max_iter=2000, C=1.0).fit(scaled, truth)
            weights.append(fitted.coef_)
            bias.append(fitted.intercept_)
        return cls(
            mean,
            std,
            torch.from_numpy(np.concatenate(weights)).float(),
            torch.from_numpy(np.concatenate(bias)).float(),
        )

    def __call__(self, wav: Tensor) -> tuple[list[str], list[str]]:
        """Family and register of each note [b, t]."""
        scaled = (mfcc_statistics(wav) - self.mean) / self.std
        logits = scaled @ self.weights.T + self.bias
        families, registers = logits.split([len(FAMILIES), len(REGISTERS)], 1)
        return (
            [FAMILIES[i] for i in families.argmax(1).tolist()],
            [REGISTERS[i] for i in registers.argmax(1).tolist()],
        )

    def save(self, path: Path) -> None:
        from safetensors.torch import save_file

        save_file({k: v.contiguous() for k, v in vars(self).items()}, path)

    @classmethod
    def load(cls, path: Path) -> PromptClassifier:
        from safetensors.torch import load_file

        return cls(**load_file(path))
