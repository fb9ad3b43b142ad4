"""What a tiny model can learn by heart in seconds: sounds whose latents do not change in time."""

from __future__ import annotations

import torch
from torch import Tensor

from anechoic.index import Sound, TrainingIndex
from anechoic.types import Embedder
from anechoic.verdict import Verifier

LEVELS = [[1.5, -1.5, 1.5], [-1.5, 1.5, 1.5], [1.0, 1.0, -1.0]]


def latents(length: int) -> Tensor:
    """Three latents [3, 3, length]."""
    return torch.tensor(LEVELS)[:, :, None].expand(-1, -1, length).contiguous()


class Samples(Embedder):
    """The samples themselves."""

    name = "samples"

    def __init__(self, samples: int, rate: int):
        self.dim, self.sample_rate, self.seconds = samples, rate, samples / rate

    def __call__(self, wav: Tensor, sample_rate: int) -> Tensor:
        mono = torch.nn.functional.pad(wav.mean(1), (0, self.dim))[:, : self.dim]
        mean = mono.mean(1, keepdim=True)
        return torch.nn.functional.normalize(mono - mean + 1e-4, dim=1)


def verifier(
    sounds: Tensor, captions: list[str], others: Tensor, rate: int, threshold: float
) -> Verifier:
    """Of sounds [n, c, t] under captions; `others` only show what all sounds have in common."""
    embedder = Samples(sounds.shape[-1], rate)
    clips = [Sound(text, text, wav, rate) for text, wav in zip(captions, sounds, strict=True)]
    clips += [Sound(f"other {i}", f"other {i}", wav, rate) for i, wav in enumerate(others)]
    index = TrainingIndex.build(clips, embedder)
    return Verifier.of(index, embedder, threshold=threshold)
