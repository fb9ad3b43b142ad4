"""Gram-volume guidance: stay out of the plane that the nearest training clips span."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from anechoic.errors import BadSetting
from anechoic.guidance.base import Reach
from anechoic.guidance.similarity import EmbeddedEstimate, Estimate, GatedGuidance, Gradient
from anechoic.guidance.step import Guided, Step
from anechoic.guidance.triggers import LogSNR, Progress, Timestep
from anechoic.types import Embedder, Neighbours, VectorIndex, parts_of

RIDGE = 1e-4  # added to the Gram matrix, so that an exact copy has a volume and a direction


@dataclass(frozen=True)
class GramVolume(GatedGuidance):
    """Raises the log volume spanned by the estimate's embedding and its k nearest training clips.

    At each evaluation, for each sample whose similarity to the nearest clip is above `threshold`:

        V(e)  = 1/2 * log det(G + ridge * I),   G the Gram matrix of [e, n_1, ..., n_k]
        out   = u + scale*(c - u) + strength * ((1-abar)/sqrt(abar)) * grad_x V

    The volume is the distance of e to the span of its neighbours, times the volume of the
    neighbours themselves. So its gradient leads away from all of them at once, while dissimilarity
    guidance (AMG), with its one nearest clip, may step from one neighbour to the next.

    Args:
        index: the training set to stay away from.
        embedder: the differentiable embedder that built the index.
        scale: classifier-free guidance scale.
        strength: strength of the gradient, like AMG's c3.
        k: neighbours that span the plane; all clips of an index that has fewer.
        threshold: cosine to the nearest clip above which the guidance acts.
        estimate: see `SimilarityGradient`.
        gradient: see `SimilarityGradient`.
        start: see `AntiMemorization`.
        every: see `AntiMemorization`.

    Raises:
        IndexMismatch, GuardError: see `SimilarityGradient`.
        BadSetting: a setting out of range.

    Source: no paper was found; a repository derived from that of Messina et al., 2025
    (arXiv:2509.14934), uses the measure. Gates and factors here are AMG's.
    """

    index: VectorIndex
    embedder: Embedder
    scale: float = 7.0
    strength: float = 10.0
    k: int = 4
    threshold: float = 0.5
    estimate: Estimate = "cond"
    gradient: Gradient = "denoiser"
    start: LogSNR | Progress | Timestep | float | None = None
    every: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.strength < float("inf"):
            raise BadSetting(f"expected strength above 0, got {self.strength}")
        if self.k < 1:
            raise BadSetting(f"expected k, a number of neighbours, of 1 or more, got {self.k}")
        if not -1 <= self.threshold < 1:
            raise BadSetting(
                f"expected threshold, a cosine, of -1 or more and below 1, got {self.threshold}"
            )
        if len(parts_of(self.index)) > 1:
            raise BadSetting(
                "the volume is that of one space, and joined indexes have one each; give one index"
            )
        super().__post_init__()

    def requires_uncond(self) -> bool:
        return self.estimate == "guided"

    def gradient_reach(self) -> Reach:
        return self._reach(self.strength)

    def with_threshold(self, similarity: float) -> GramVolume:
        return replace(self, threshold=similarity)

    @property
    def neighbours(self) -> int:
        return self.k

    def gate(self, abar: float) -> float:
        return self.threshold

    def act(self, step: Step, nearest: Neighbours, embedded: EmbeddedEstimate | None) -> Guided:
        others = self.index.vectors(nearest.rows).to(step.x.device)
        gradient = self._similarity().gradient_of(
            lambda emb: log_volume(emb, others), step, embedded
        )
        factor = self.strength * step.noise.sigma**2 / step.noise.alpha
        return Guided(self.scale, factor * gradient)


def log_volume(emb: Tensor, others: Tensor, ridge: float = RIDGE) -> Tensor:
    """Log volume spanned by each embedding [b, d] and its neighbours [b, k, d], [b].

    >>> log_volume(torch.tensor([[0.0, 1.0]]), torch.tensor([[[1.0, 0.0]]]), ridge=0.0)
    tensor([0.])
    """
    vectors = torch.cat([emb[:, None], others.to(emb)], 1).double()
    gram = vectors @ vectors.mT
    identity = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    return 0.5 * torch.logdet(gram + ridge * identity).to(emb.dtype)
