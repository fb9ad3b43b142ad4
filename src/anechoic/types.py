"""The nouns that every room speaks: embedders, neighbours, guidance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from anechoic.step import Guided, Moment, Needs, Prompt, Step


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


class Store(Protocol):
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


class Guidance(Protocol):
    """What to do with the two halves of a classifier-free guided network at one evaluation.

    A plain function of a `Step` that returns an x0 estimate [b, *latent] qualifies as well. A
    method that changes the prompt itself has a `condition`, too: see `Conditioning`. One that
    does not always look at both halves says so beforehand: see `Sparing`.
    """

    def __call__(self, step: Step) -> Guided | Tensor: ...


@runtime_checkable
class Sparing(Protocol):
    """A guidance that says which halves of an evaluation it looks at, so that the other one is not
    computed. It looks at no distance of earlier evaluations: they are NaN where one was spared."""

    def needs(self, moment: Moment) -> Needs:
        """The halves it needs at a moment; alone, one half is scaled by 1 ("cond") or 0."""
        ...

    def __call__(self, step: Step) -> Guided | Tensor: ...


def needed(guidance: Guidance, moment: Moment) -> Needs:
    """The halves that a guidance needs at a moment; one that does not say needs both."""
    return guidance.needs(moment) if isinstance(guidance, Sparing) else "both"


@runtime_checkable
class Conditioning(Protocol):
    """A guidance that also changes the encoded prompt, before each evaluation."""

    def condition(self, prompt: Prompt) -> Tensor:
        """The encoded prompt to use, [b, s, d]."""
        ...

    def __call__(self, step: Step) -> Guided | Tensor: ...
