"""A tiny pipeline and the index of its training set, as folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from anechoic import TrainingIndex, embedder
from anechoic.diffusers import fingerprint
from anechoic.index.clips import Sound
from support.pipelines import CAPTIONS, make_pipe
from support.sounds import RATE


def audible_pipe(rate: int = RATE) -> Any:
    """Stable Audio, whose 64 samples are a click, but audible."""
    pipe = make_pipe()
    pipe.vae.register_to_config(sampling_rate=rate)
    return pipe


def noise_clips(rate: int = RATE) -> list[Sound]:
    """A clip of a caption, as long as what the pipeline makes."""
    noise = torch.Generator().manual_seed(0)
    return [
        Sound(f"{i}.wav", caption, 0.3 * torch.randn(2, 64, generator=noise), rate)
        for i, caption in enumerate(CAPTIONS)
    ]


def save(folder: Path, rate: int = RATE, index: str = "i", copy: float | None = None) -> Path:
    """A pipeline, "model", and the index of its training set, by default "i"."""
    pipe = audible_pipe(rate)
    pipe.save_pretrained(folder / "model")
    TrainingIndex.build(
        noise_clips(rate),
        embedder("magmel"),
        thresholds={} if copy is None else {"copy": copy},
        model=fingerprint(pipe),
    ).save(folder / index)
    return folder
