"""Sound as detectors hear it: checked, mono, at their own rate."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from anechoic.audio import SILENCE, is_silent, mono
from anechoic.errors import BadAudio


def resample(wav: Tensor, sample_rate: int, target: int) -> Tensor:
    """One channel [t] at another rate, by soxr; the same start, and round(t * ratio) samples."""
    if sample_rate == target:
        return wav
    import soxr

    heard = soxr.resample(wav.numpy(), sample_rate, target)
    length = round(len(wav) * target / sample_rate)
    heard = np.pad(heard, (0, max(length - len(heard), 0)))[:length]
    return torch.from_numpy(np.ascontiguousarray(heard, np.float32))


def training(wav: Tensor, sample_rate: int, target: int, row: int, shortest_s: float) -> Tensor:
    """A training clip [c, t] to one channel [t] at a rate of `target`, its peak at 1.

    Raises:
        BadAudio: it is no usable sound, silent, or shorter than `shortest_s`.
    """
    name = f"training clip {row}"
    if wav.dim() != 2:
        raise BadAudio(f"{name} has shape {list(wav.shape)}; expected [channels, samples]")
    heard = resample(mono(wav[None], sample_rate, name)[0], sample_rate, target)
    if len(heard) < shortest_s * target:
        raise BadAudio(
            f"{name} lasts {len(heard) / target:.3f} s, and under {shortest_s:g} s everything "
            "sounds alike; leave it out"
        )
    if is_silent(heard):
        raise BadAudio(f"{name} is silent (peak below {SILENCE:g}); leave it out")
    return heard / heard.abs().max()
