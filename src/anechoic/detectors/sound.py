"""Sound as detectors hear it: checked, mono, at their own rate."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from anechoic.errors import BadAudio

SILENCE = 1e-6  # a peak below this is silence, as everywhere in anechoic
OFFSET = 0.1  # of the rms: from there on a constant offset is taken off; sound has less
CANCELLED = 0.01  # a mean with less of the loudest channel's energy has lost the sound


def mono(wav: Tensor, sample_rate: int, name: str = "the sound") -> Tensor:
    """Sound [b, c, t] to one channel, [b, t] float32 on the CPU.

    The mean of the channels; where they cancel each other, the loudest of them, for a copy with
    one channel turned over is still a copy. A constant offset is no sound: one that stands out is
    taken off.

    Raises:
        BadAudio: another shape, no samples, a rate that is none, NaN or infinite samples.
    """
    if wav.dim() != 3 or wav.numel() == 0 or sample_rate <= 0:
        raise BadAudio(
            f"{name} has shape {list(wav.shape)} at {sample_rate} Hz; expected [batch, channels, "
            "samples] of at least one sample at a rate above 0"
        )
    wav = wav.detach().float().cpu()
    if not torch.isfinite(wav).all():
        bad = int((~torch.isfinite(wav)).sum())
        raise BadAudio(f"{name} has {bad} samples that are NaN or infinite; generate it again")
    offset = wav.mean(2, keepdim=True)
    wav = torch.where(
        offset.abs() > OFFSET * wav.std(2, correction=0, keepdim=True), wav - offset, wav
    )
    middle, energy = wav.mean(1), wav.double().square().sum(2)
    loudest = wav[torch.arange(len(wav)), energy.argmax(1)]
    cancelled = middle.double().square().sum(1) < CANCELLED * energy.amax(1)
    return torch.where(cancelled[:, None], loudest, middle)


def is_silent(wav: Tensor) -> bool:
    """Whether the peak is below `SILENCE`."""
    return wav.numel() == 0 or bool(wav.abs().max() < SILENCE)


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
