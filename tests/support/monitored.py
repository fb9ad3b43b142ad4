"""A monitor of a model that plays the sound of a caption once it has learned it."""

from __future__ import annotations

import random

import numpy as np
import torch

from anechoic.index import Sound, TrainingIndex
from anechoic.training import Monitor, Panel, Sketches
from anechoic.types import Embedder
from anechoic.verdict import Verifier
from support.pipelines import CAPTIONS

RATE = 4  # of the tiny model's sound, in Hz


class Samples(Embedder):
    """The samples themselves: a sound of the tiny model has 64."""

    name, dim, sample_rate, seconds = "samples", 64, RATE, 16.0

    def __call__(self, wav, sample_rate):
        mono = torch.nn.functional.pad(wav.mean(1), (0, 64))[:, :64]
        return torch.nn.functional.normalize(mono - mono.mean(1, keepdim=True) + 1e-4, dim=1)


def verifier(sounds, captions=CAPTIONS[:3], threshold=0.9):
    clips = [Sound(text, text, wav, RATE) for text, wav in zip(captions, sounds, strict=True)]
    index = TrainingIndex.build(clips, Samples(), centre=False)
    return Verifier.of(index, Samples(), threshold=threshold)


def noise(seed, channels=1):
    return 0.3 * torch.randn(channels, 64, generator=torch.Generator().manual_seed(seed))


class Sounding:
    """In place of a model: it plays the sound of a caption once it has learned it."""

    def __init__(self, clips):
        self.clips, self.learned, self.calls = clips, set(), 0

    def __call__(self, prompts, seeds):
        self.calls += 1
        torch.rand(3), np.random.rand(), random.random()
        sounds = [
            self.clips[text] if text in self.learned else noise(100 + seed + len(text))
            for text, seed in zip(prompts, seeds, strict=True)
        ]
        return Sketches(sounds, RATE, [1.0] * len(sounds))


CLIPS = {text: noise(i) for i, text in enumerate(CAPTIONS[:3])}


def make(tmp_path, model=None, **settings):
    panel = Panel(tuple(CLIPS), ("thunder far away", "a bell"))
    settings = {"every": 2, "share": None, "track": [], **settings}
    return Monitor(
        model or Sounding(CLIPS), verifier(CLIPS.values()), panel, tmp_path / "m", **settings
    )


def one_of_two(rank, folder, rendezvous, answers):
    """One of two processes that train together."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2
    )
    model = Sounding(CLIPS)
    model.learned = set(CLIPS)
    monitor = make(folder, model)
    said = [monitor(step) for step in (1, 2, 3)]
    answers.put((rank, said, model.calls))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
