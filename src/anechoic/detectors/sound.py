"""Sound as fitted detectors compare it: one channel, at their own rate."""

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

    samples = soxr.resample(wav.numpy(), sample_rate, target)
    length = round(len(wav) * target / sample_rate)
    samples = np.pad(samples, (0, max(length - len(samples), 0)))[:length]
    return torch.from_numpy(np.ascontiguousarray(samples, np.float32))


def training(wav: Tensor, sample_rate: int, target: int, row: int, shortest_s: float) -> Tensor:
    """A training clip [c, t] to one channel [t] at a rate of `target`, its peak at 1.

    Raises:
        BadAudio: it is not usable sound, silent, or shorter than `shortest_s`.
    """
    name = f"training clip {row}"
    if wav.dim() != 2:
        raise BadAudio(f"{name} has shape {list(wav.shape)}; expected [channels, samples]")
    clip = resample(mono(wav[None], sample_rate, name)[0], sample_rate, target)
    if len(clip) < shortest_s * target:
        raise BadAudio(
            f"{name} lasts {len(clip) / target:.3f} s, and under {shortest_s:g} s everything "
            "sounds alike; leave it out"
        )
    if is_silent(clip):
        raise BadAudio(f"{name} is silent (peak below {SILENCE:g}); leave it out")
    return clip / clip.abs().max()
