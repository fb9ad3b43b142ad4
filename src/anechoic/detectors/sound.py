"""Prepares sound for fitted detectors: one channel, at their own rate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from anechoic.audio import SILENCE, is_silent, mono, voices
from anechoic.detectors.protocol import Detector, TrainingSound
from anechoic.errors import BadAudio
from anechoic.types import Match


class Fitted(Protocol):
    """A kind of detector that is fitted to sounds."""

    def fit(self, sounds: Sequence[TrainingSound]) -> Detector: ...


@runtime_checkable
class FittedInParts(Protocol):
    """A kind of detector that takes long to analyse a sound, and does so with each alone."""

    def part(self, sound: TrainingSound, row: int) -> Any: ...
    def of(self, parts: Iterable[Any], /) -> Detector: ...


@dataclass(frozen=True, eq=False)
class FittedToSome:
    """A detector fitted to the training clips that are loud and long enough for it."""

    detector: Detector
    rows: Sequence[int]  # rows of these clips
    left_out: Sequence[int]  # rows of clips that are silent, too short or too bare for it

    @property
    def name(self) -> str:
        return self.detector.name

    def __call__(self, wav: Tensor, sample_rate: int) -> list[Match]:
        return [
            one if one.row is None else replace(one, row=self.rows[one.row])
            for one in self.detector(wav, sample_rate)
        ]


def underlying(detector: Detector) -> Detector:
    """The detector itself, whether it was fitted to all clips or to some."""
    return detector.detector if isinstance(detector, FittedToSome) else detector


def fit(kind: Fitted, sounds: Sequence[TrainingSound]) -> Detector:
    """Fit a detector to all clips, or, if some are silent or too short for it, or have too little
    in them, to the others.

    Raises:
        BadAudio: that holds for all clips.
        IndexMismatch: there are no clips.
    """
    if isinstance(kind, FittedInParts):
        return _fit_in_parts(kind, sounds)
    try:
        return kind.fit(sounds)
    except BadAudio:
        rows = [row for row, sound in enumerate(sounds) if _fits(kind, sound)]
        if not rows:
            raise
    left_out = sorted({*range(len(sounds))} - {*rows})
    return FittedToSome(kind.fit([sounds[row] for row in rows]), rows, left_out)


def _fit_in_parts(kind: FittedInParts, sounds: Sequence[TrainingSound]) -> Detector:
    parts, left_out = {}, []
    for row, sound in enumerate(sounds):
        try:
            parts[row] = kind.part(sound, row)
        except BadAudio:
            left_out.append(row)
            if row == len(sounds) - 1 and not parts:
                raise
    detector = kind.of(parts.values())
    return FittedToSome(detector, list(parts), left_out) if left_out else detector


def _fits(kind: Fitted, sound: TrainingSound) -> bool:
    try:
        kind.fit([sound])
    except BadAudio:
        return False
    return True


def best_of_voices(
    wav: Tensor,
    sample_rate: int,
    search: Callable[[Sequence[Tensor]], Iterable[Match]],
    target: int | None = None,
) -> list[Match]:
    """Search the mix of each clip [b, c, t] and its channels that differ; the best match of each.

    Args:
        wav: sound at `sample_rate`.
        sample_rate: in Hz.
        search: the match of each of some sounds [t].
        target: the rate at which they are searched; None: that of the sound.

    Raises:
        BadAudio: not usable sound.
    """
    clips = voices(wav, sample_rate)
    flat = [resample(one, sample_rate, target or sample_rate) for clip in clips for one in clip]
    found = iter(search(flat))
    return [max((next(found) for _ in clip), key=lambda match: match.score) for clip in clips]


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
    """Convert a training clip [c, t] to one channel [t] at the rate `target`, with peak 1.

    Raises:
        BadAudio: it is not usable sound, silent, or shorter than `shortest_s`.
    """
    name = f"training clip {row}"
    if wav.dim() != 2:
        raise BadAudio(f"{name} has shape {list(wav.shape)}; expected [channels, samples]")
    clip = resample(mono(wav[None], sample_rate, name)[0], sample_rate, target)
    if len(clip) < shortest_s * target:
        raise BadAudio(
            f"{name} lasts {len(clip) / target:.3f} s, and sounds shorter than {shortest_s:g} s "
            "are all alike; leave it out"
        )
    if is_silent(clip):
        raise BadAudio(f"{name} is silent (peak below {SILENCE:g}); leave it out")
    return clip / clip.abs().max()
