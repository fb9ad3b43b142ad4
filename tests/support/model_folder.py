"""A tiny pipeline and the index of its training set, as folders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from anechoic import TrainingIndex, embedder
from anechoic.diffusers import fingerprint
from anechoic.index.clips import Sound
from support.pipelines import CAPTIONS, make_pipe

RATE = 16_000


def save(folder: Path) -> Path:
    """A pipeline, "model", and the index of its training set, "i"."""
    pipe = make_pipe()
    pipe.vae.register_to_config(sampling_rate=RATE)  # 64 samples
    pipe.save_pretrained(folder / "model")
    noise = torch.Generator().manual_seed(0)
    sounds = [0.3 * torch.randn(2, 64, generator=noise) for _ in CAPTIONS]
    clips = [Sound(f"{c}.wav", c, wav, RATE) for c, wav in zip(CAPTIONS, sounds, strict=True)]
    index = TrainingIndex.build(clips, embedder("magmel"))
    replace(index, about=replace(index.about, model=fingerprint(pipe))).save(folder / "i")
    return folder
