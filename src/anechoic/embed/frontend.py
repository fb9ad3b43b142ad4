"""What embedders share between the sound they are given and the network: level, rate, spectrum.

Everything here is differentiable, treats each sample of a batch by itself, and stays finite, in
value and in gradient, on silence.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import julius
import torch
from torch import Tensor, nn

from anechoic.errors import BadAudio

# Sound that peaks below this is silence: half the last bit of 16-bit audio.
SILENCE = 2.0**-16


def prepare(wav: Tensor, sample_rate: int, target_rate: int) -> Tensor:
    """Sound as a descriptor wants it: mono, at its rate, each sample at full scale.

    Args:
        wav: sound [b, channels, t] at `sample_rate`; half precision is raised to float32.
        sample_rate: in Hz.
        target_rate: in Hz.

    Returns:
        [b, t'] with a peak of 1. What peaks below 2**-16 counts as silence: it is scaled by
        2**16 at most, so silence gives zeros.

    Raises:
        BadAudio: not [b, channels, t], empty, or with NaN or infinite samples.

    >>> prepare(torch.tensor([[[0.1, -0.2], [0.1, -0.2]]]), 8000, 8000)
    tensor([[ 0.5000, -1.0000]])
    """
    if wav.ndim != 3 or wav.numel() == 0:
        raise BadAudio(
            f"expected sound [batch, channels, samples], got shape {tuple(wav.shape)}; "
            "add the missing dimensions, or leave empty clips out"
        )
    if not torch.isfinite(wav).all():
        raise BadAudio(
            "expected finite sound, got NaN or infinite samples; leave the clip out, or generate "
            "in float32"
        )
    if wav.dtype not in (torch.float32, torch.float64):
        wav = wav.float()
    mono = wav.mean(1)
    if sample_rate != target_rate:
        mono = _resampler(sample_rate, target_rate, mono.device, mono.dtype)(mono, full=True)
    return mono / mono.abs().amax(-1, keepdim=True).clamp_min(SILENCE)


def power_spectrum(
    mono: Tensor, size: int, hop: int, pad_mode: Literal["reflect", "constant"]
) -> Tensor:
    """Squared magnitudes [b, size // 2 + 1, frames] of mono sound [b, t]; centred Hann windows."""
    window = torch.hann_window(size, device=mono.device, dtype=mono.dtype)
    stft = torch.stft(mono, size, hop, window=window, pad_mode=pad_mode, return_complex=True)
    # Not abs()**2: its gradient is NaN in a bin that is exactly zero.
    return stft.real.square() + stft.imag.square()


@lru_cache(maxsize=16)
def mel_filters(
    bands: int,
    size: int,
    sample_rate: int,
    low_hz: float,
    high_hz: float,
    scale: Literal["slaney", "htk"],
    norm: Literal["slaney", "sum"],
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """Triangular mel filters [bands, size // 2 + 1] over the bins of `power_spectrum`.

    Args:
        norm: "slaney" divides a filter by its width in Hz, "sum" by the sum of its weights.
    """
    from transformers.audio_utils import mel_filter_bank

    bank = mel_filter_bank(
        num_frequency_bins=size // 2 + 1,
        num_mel_filters=bands,
        min_frequency=low_hz,
        max_frequency=high_hz,
        sampling_rate=sample_rate,
        norm="slaney" if norm == "slaney" else None,
        mel_scale=scale,
    )
    # It is kept, and what is made in inference mode could never serve a gradient later.
    with torch.inference_mode(False):
        filters = torch.from_numpy(bank).T.contiguous()
        if norm == "sum":
            filters = filters / filters.sum(1, keepdim=True)
        return filters.to(device=device, dtype=dtype)


def window_starts(length: int, size: int, hop: int) -> list[int]:
    """Where windows of `size` begin that cover `length`: every `hop`, the last flush with the end.

    >>> window_starts(25, size=10, hop=5), window_starts(3, size=10, hop=5)
    ([0, 5, 10, 15], [0])
    """
    last = max(length - size, 0)
    return [*range(0, last, hop), last]


def follow(model: nn.Module, sound: Tensor) -> None:
    """Move a model's weights to the device of the sound, if they are elsewhere."""
    if next(model.parameters()).device != sound.device:
        with torch.inference_mode(False):  # as in `mel_filters`
            model.to(sound.device)


@lru_cache(maxsize=16)
def _resampler(old: int, new: int, device: torch.device, dtype: torch.dtype) -> julius.ResampleFrac:
    # Kept, for `julius.resample_frac` builds its kernels anew at each call: longer than their use.
    with torch.inference_mode(False):
        return julius.ResampleFrac(old, new).to(device=device, dtype=dtype)
