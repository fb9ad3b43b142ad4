"""The nouns that every room speaks: embedders, neighbours, the index that is searched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Embedder(Protocol):
    """Sound or images to a point on the unit sphere, differentiably."""

    name: str  # what `embedder(name)` makes again; it is recorded in an index
    dim: int
    sample_rate: int  # in Hz; 0: it embeds images

    def __call__(self, wav: Tensor, sample_rate: int) -> Tensor:
        """Embed clips.

        Args:
            wav: sound [b, channels, t] at `sample_rate`, of any level; or images [b, 3, h, w]
                in [0, 1].
            sample_rate: in Hz, the embedder resamples to its own; 0 of images.

        Returns:
            Unit-norm embeddings [b, dim], with a gradient if `wav` has one.
        """
        ...


@dataclass(frozen=True)
class Neighbours:
    """The nearest training clips of each query, nearest first."""

    scores: Tensor  # cosine similarity, [b, k]
    rows: Tensor  # rows of the index, [b, k]


class VectorIndex(Protocol):
    """Training clips to compare with: what a guidance needs of a `TrainingIndex`."""

    @property
    def captions(self) -> Sequence[str]:
        """The caption of each row."""
        ...

    def __len__(self) -> int: ...

    def check_embedder(self, embedder: Embedder) -> None:
        """Raise `IndexMismatch` for an embedder other than the one that built the index."""

    def project(self, emb: Tensor) -> Tensor:
        """Embeddings [b, d] as the index compares them: centred, where it was built so."""
        ...

    def search(self, query: Tensor, k: int = 1) -> Neighbours:
        """The k nearest clips of projected queries [b, d]."""
        ...

    def vectors(self, rows: Tensor) -> Tensor:
        """The projected unit-norm embeddings of some rows, [*rows.shape, d]."""
        ...
