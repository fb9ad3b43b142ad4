"""The common front end of embedders of sound: level, rate, spectrum.

Everything here is differentiable, treats each sample of a batch separately, and has finite values
and gradients on silence.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from julius.resample import ResampleFrac
from numpy.typing import NDArray
from torch import Tensor, nn

from anechoic import audio

# Sound that peaks below this is silence: half the last bit of 16-bit audio.
SILENCE = 2.0**-16
# Julius' kernel: so many zero crossings on each side, and this share of the band let through.
ZEROS, ROLLOFF = 24, 0.945
DENSE = 2**20  # old * new, coprime: up to here Julius keeps a kernel for each phase
BLOCK = 2**20  # taps that other ratios take at once
# Slaney's mel scale is linear up to here, and logarithmic from here on.
LOG_FROM_HZ, LOG_FROM_MEL, LOG_STEP = 1000.0, 15.0, np.log(6.4) / 27.0


def prepare(wav: Tensor, sample_rate: int, target_rate: int) -> Tensor:
    """Prepare sound for an embedder: mono, at its rate, each sample at full scale.

    Args:
        wav: sound [b, channels, t] at `sample_rate`; half precision is raised to float32.
        sample_rate: in Hz.
        target_rate: in Hz.

    Returns:
        [b, t'] with a peak of 1. What peaks below 2**-16 counts as silence: it is scaled by
        2**16 at most, so silence gives zeros.

    Raises:
        BadAudio: not [b, channels, t], empty, or with NaN or infinite samples.

    >>> prepare(torch.tensor([[[0.1, -0.2, 0.1], [0.1, -0.2, 0.1]]]), 8000, 8000)
    tensor([[ 0.5000, -1.0000,  0.5000]])
    """
    wav = audio.mono(wav, sample_rate)
    if sample_rate != target_rate:
        wav = _resampled(wav, sample_rate, target_rate)
    return wav / wav.abs().amax(-1, keepdim=True).clamp_min(SILENCE)


def power_spectrum(
    mono: Tensor, size: int, hop: int, pad_mode: Literal["reflect", "constant"]
) -> Tensor:
    """Squared magnitudes [b, size // 2 + 1, frames] of mono sound [b, t]; centred Hann windows."""
    window = torch.hann_window(size, device=mono.device, dtype=mono.dtype)
    stft = torch.stft(mono, size, hop, window=window, pad_mode=pad_mode, return_complex=True)
    # Not abs()**2: its gradient is NaN in a bin that is exactly zero.
    return stft.real.square() + stft.imag.square()


class MelBank(NamedTuple):
    """Triangular filters, equally wide on the mel scale, over the bins of `power_spectrum`.

        slaney:  m = 3 f / 200,  from 1 kHz on 15 + 27 ln(f / 1000) / ln 6.4
        htk:     m = 2595 log10(1 + f / 700)

    Source: Slaney, Auditory Toolbox, 1998; Young et al., The HTK Book.
    """

    bands: int
    size: int  # window of the spectrum, in samples
    sample_rate: int
    low_hz: float
    high_hz: float
    scale: Literal["slaney", "htk"]
    norm: Literal["slaney", "sum"] | None  # divide by the width in Hz, or by the sum; None: peak 1

    def weights(self) -> NDArray[np.float64]:
        """[bands, size // 2 + 1], before "sum" is applied; without it bit for bit what
        `transformers.audio_utils.mel_filter_bank` gives, without a second of imports."""
        to_mel, to_hz = (_slaney_mel, _slaney_hz) if self.scale == "slaney" else (_htk_mel, _htk_hz)
        low, high = to_mel(np.array([self.low_hz, self.high_hz]))
        corners = to_hz(np.linspace(low, high, self.bands + 2))
        bins = np.linspace(0, self.sample_rate // 2, self.size // 2 + 1)
        from_bin = corners[:, None] - bins
        width = np.diff(corners)[:, None]
        bank = np.maximum(0.0, np.minimum(-from_bin[:-2] / width[:-1], from_bin[2:] / width[1:]))
        if self.norm == "slaney":
            bank = bank * (2.0 / (corners[2:] - corners[:-2]))[:, None]
        return bank

    def filters(self, like: Tensor) -> Tensor:
        """The filters on the device and in the number format of a spectrum; cached."""
        return _filters(self, like.device, like.dtype)


@lru_cache(maxsize=16)
def _filters(bank: MelBank, device: torch.device, dtype: torch.dtype) -> Tensor:
    # The cache outlives inference mode, and a tensor made in it could never serve a gradient.
    with torch.inference_mode(False):
        filters = torch.from_numpy(bank.weights())
        if bank.norm == "sum":
            filters = filters / filters.sum(1, keepdim=True)
        return filters.to(device=device, dtype=dtype)


def _slaney_mel(hz: NDArray[np.float64]) -> NDArray[np.float64]:
    above = np.maximum(hz, LOG_FROM_HZ) / LOG_FROM_HZ
    return np.where(hz < LOG_FROM_HZ, 3.0 * hz / 200.0, LOG_FROM_MEL + np.log(above) / LOG_STEP)


def _slaney_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    above = np.maximum(mel, LOG_FROM_MEL) - LOG_FROM_MEL
    return np.where(mel < LOG_FROM_MEL, 200.0 * mel / 3.0, LOG_FROM_HZ * np.exp(LOG_STEP * above))


def _htk_mel(hz: NDArray[np.float64]) -> NDArray[np.float64]:
    return 2595.0 * np.log10(1.0 + hz / 700.0)


def _htk_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    return 700.0 * (np.power(10, mel / 2595.0) - 1.0)


def follow(model: nn.Module, sound: Tensor) -> None:
    """Move a model's weights to the device of the sound, if they are elsewhere."""
    if next(model.parameters()).device != sound.device:
        with torch.inference_mode(False):  # as in `_filters`
            model.to(sound.device)


def _resampled(mono: Tensor, old: int, new: int) -> Tensor:
    """Sound [b, t] at another rate, [b, ceil(t new / old)], whatever the ratio of the rates is."""
    common = math.gcd(old, new)
    old, new = old // common, new // common
    if old * new <= DENSE:
        whole: Tensor = _resampler(old, new, mono.device, mono.dtype)(mono, full=True)
        return whole
    # A kernel for each of `new` phases, each as long as `old`, would fill the memory: the same
    # kernels are made for a block of samples at a time, and made again for the gradient.
    width = math.ceil(ZEROS * old / (min(old, new) * ROLLOFF))
    padded = F.pad(mono[:, None], (width, width + 1), mode="replicate")[:, 0]
    length, size = -(-mono.shape[-1] * new // old), max(1, BLOCK // (2 * width + 2))

    def block(padded: Tensor, start: int) -> Tensor:
        at = torch.arange(start, min(start + size, length), device=mono.device)[:, None] * old
        taps = torch.arange(2 * width + 2, device=mono.device)
        time = (taps - width - (at % new).to(mono.dtype) / new) * (min(old, new) * ROLLOFF / old)
        time = math.pi * time.clamp(-ZEROS, ZEROS)
        kernel = torch.sinc(time / math.pi) * torch.cos(time / ZEROS / 2).square()
        kernel = kernel / kernel.sum(1, keepdim=True)
        return (padded[:, torch.div(at, new, rounding_mode="floor") + taps] * kernel).sum(-1)

    starts = range(0, length, size)
    if not (torch.is_grad_enabled() and mono.requires_grad):
        return torch.cat([block(padded, start) for start in starts], 1)
    from torch.utils.checkpoint import checkpoint

    return torch.cat([checkpoint(block, padded, start, use_reentrant=False) for start in starts], 1)


@lru_cache(maxsize=16)
def _resampler(old: int, new: int, device: torch.device, dtype: torch.dtype) -> ResampleFrac:
    # Cached, since `julius.resample_frac` takes longer to build its kernels than to use them.
    with torch.inference_mode(False):
        return ResampleFrac(old, new).to(device=device, dtype=dtype)
