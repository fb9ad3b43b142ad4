"""A small training set for the tests of the audit, and sounds to compare with it."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from anechoic import TrainingIndex, audio, embedder
from anechoic.audit import TrainingSet
from anechoic.index import Clip
from anechoic.index.clips import Sound
from anechoic.processes import Shared

RATE, SECONDS = 16_000, 1.024
CLIPS = 5
NASTY = '<script>alert("x")</script> & \'quotes\' "😀" </template></style>\u202egnp'


def tune(seed: int, seconds: float = SECONDS) -> Tensor:
    """Plucked notes at times and pitches of their own, [1, t], peak at 0.9."""
    rng = torch.Generator().manual_seed(seed)
    time = torch.arange(round(seconds * RATE)) / RATE
    wav = 0.002 * torch.randn(len(time), generator=rng)
    for _ in range(max(round(7 * seconds), 2)):
        start, pitch, tone = torch.rand(3, generator=rng).tolist()
        after = (time - 0.85 * start * seconds).clamp_min(0)
        for harmonic in range(1, 6):
            wave = torch.sin(2 * torch.pi * 110 * 2 ** (3 * pitch) * harmonic * after)
            wav += wave * torch.exp(-(4 + 4 * tone) * harmonic**0.5 * after) / harmonic
    return (0.9 * wav / wav.abs().max())[None]


def training_set(threshold: float | None = 0.9, caption: str = "tune number {}") -> TrainingSet:
    """Some tunes with their sound."""
    info = {"licence": "CC0-1.0", "source": "our own hands", "url": "https://example.org/tunes"}
    sounds = [Sound(f"tune-{i}", caption.format(i), tune(i), RATE, info=info) for i in range(CLIPS)]
    limits = {} if threshold is None else {"copy": threshold}
    index = TrainingIndex.build(sounds, embedder("magmel"), thresholds=limits)
    heard = {sound.id: (sound.wav, sound.sample_rate) for sound in sounds}
    return TrainingSet(index, partial(_sound, heard))


def _sound(heard: dict[str, tuple[Tensor, int]], clip: Clip) -> tuple[Tensor, int]:
    return heard[clip.id]


def folder_of(folder: Path, **sounds: Tensor) -> Path:
    """A folder of WAV files."""
    for name, wav in sounds.items():
        audio.write(folder / f"{name}.wav", wav, RATE)
    return folder


class Model:
    """A generator that returns its own training clip where it knows the prompt, and counts."""

    def __init__(self, copies: bool = True, stop_after: int | None = None):
        self.copies, self.stop_after = copies, stop_after
        self.calls: list[tuple[str, int]] = []

    def __call__(self, prompt: str, seed: int) -> tuple[Tensor, int]:
        if len(self.calls) == self.stop_after:
            raise KeyboardInterrupt
        self.calls.append((prompt, seed))
        known = {f"tune number {i}": i for i in range(CLIPS)}
        if self.copies and prompt in known:
            return 0.5 * tune(known[prompt]) + 0.001 * (seed + 1), RATE
        return tune(1_000 + 97 * seed + len(prompt)), RATE


# ------------------------------------------------- for other processes, which import it from here


def told(shared: Shared) -> tuple[int, object, int]:
    """The process, the value that it was given, and its place in the process."""
    return os.getpid(), shared.value, id(shared.value)


def dies(prompt: str, seed: int) -> tuple[Tensor, int]:
    """A generator that ends its process under the second seed."""
    if seed == 1:
        os._exit(9)
    return tune(70 + seed), RATE
