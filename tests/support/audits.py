"""What an audit compares: a small training set, a generator, a folder of sounds."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from torch import Tensor

from anechoic import TrainingIndex, audio, embedder
from anechoic.audit import TrainingSet
from anechoic.index import Clip
from anechoic.index.clips import Sound
from anechoic.processes import Shared
from support.sounds import RATE, tune

CLIPS = 5
NASTY = '<script>alert("x")</script> & \'quotes\' "😀" </template></style>\u202egnp'


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
