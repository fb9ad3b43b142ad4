"""Two training clips, or pictures: an index, and its embedder."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from anechoic.errors import IndexMismatch
from anechoic.types import Neighbours
from support.latents import ZeroLatent

CAPTIONS = ("rain on a roof", "high flute note")


class Pool:
    """The shape of a sound, or of a picture, in sixteen numbers; its own index, too."""

    dim = 16
    captions = CAPTIONS
    model: str | None = None
    seconds: float | None = None
    revision: str | None = None
    latents = ZeroLatent()

    def __init__(self, images: bool = False):
        self.name = "picture pool" if images else "sound pool"
        self.sample_rate = 0 if images else 16
        rows = torch.randn(2, 16, generator=torch.Generator().manual_seed(3))
        self.rows = functional.normalize(rows, dim=1)

    def __call__(self, wav: Tensor, sample_rate: int) -> Tensor:
        flat = wav.float().mean(1)
        if self.sample_rate:
            assert wav.ndim == 3
            assert sample_rate > 0
            pooled = functional.adaptive_avg_pool1d(flat, 16)
        else:
            assert wav.ndim == 4
            assert sample_rate == 0
            pooled = functional.adaptive_avg_pool2d(flat, 4).flatten(1) - 0.5
        return functional.normalize(pooled, dim=1)

    def __len__(self) -> int:
        return 2

    def check_embedder(self, embedder) -> None:
        if embedder.name != self.name:
            raise IndexMismatch(f"built with '{self.name}'")

    def project(self, emb: Tensor) -> Tensor:
        return emb

    def vectors(self, rows: Tensor) -> Tensor:
        return self.rows[rows]

    def search(self, query: Tensor, k: int = 1) -> Neighbours:
        return Neighbours(*(query @ self.rows.T).topk(k))
