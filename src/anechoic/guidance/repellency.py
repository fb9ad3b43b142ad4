"""Repellency: the estimate stays out of a ball around each training latent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

from anechoic.errors import BadSetting, GuardError, IndexMismatch
from anechoic.guidance.balls import leave_balls
from anechoic.guidance.base import Guidance
from anechoic.guidance.cfg import check_scale
from anechoic.guidance.step import Guided, Record, Step, classifier_free
from anechoic.types import LatentStore, VectorIndex


@dataclass(frozen=True)
class Repellency(Guidance):
    """Keeps the guided estimate at least `radius` away from each training latent.

    At each evaluation, the smallest step d that leaves all balls is added:

        g    = u + scale*(c - u)
        out  = g + d,    min |d|  such that  |g + d - z_k| >= radius  for the k nearest latents z

    Outside of the balls it is classifier-free guidance bit for bit. It has no strength, and needs
    no decoder, no embedder and no gradient: each evaluation costs a search of the latents. In one
    ball, the step is that of SPELL with an overcompensation of 1. Where balls overlap, SPELL sums
    their steps, which may cancel each other; here the whole is solved (`leave_balls`).

    It knows neither shifts nor levels: a copy that is later or softer may be far away in latents.

    Args:
        index: an index with latents, which `anechoic index latents` stores.
        scale: classifier-free guidance scale.
        radius: of the balls, in units of the latent; None: read off the index, the median distance
            of a clip to its nearest other (`LatentIndex.radius`).
        k: how many of the nearest latents are looked at.

    Raises:
        IndexMismatch: an index without latents; while generating, latents of another size.
        BadSetting: a setting out of range.
        GuardError: while generating, an estimate that is not finite.

    Source: Kirchhof et al., 2025 (SPELL, arXiv:2410.06025).
    """

    index: VectorIndex
    scale: float = 7.0
    radius: float | None = None
    k: int = 8

    def __post_init__(self) -> None:
        check_scale(self.scale)
        if self.radius is not None and not 0 < self.radius < float("inf"):
            raise BadSetting(f"expected radius, a distance, above 0, got {self.radius:g}")
        if self.k < 1:
            raise BadSetting(f"expected k, a number of neighbours, of 1 or more, got {self.k}")
        if getattr(self.index, "latents", None) is None:
            raise IndexMismatch(
                f"index '{getattr(self.index, 'name', '')}' has no latents to keep away from; make "
                "them with 'anechoic index latents INDEX --model MODEL'"
            )

    @property
    def _latents(self) -> LatentStore:
        store: LatentStore = cast(Any, self.index).latents  # checked when it was made
        return store

    def indexes(self) -> tuple[VectorIndex, ...]:
        return (self.index, cast(VectorIndex, self._latents))  # the latents name their codec

    def looks_back(self) -> bool:
        return False

    def requires_uncond(self) -> bool:
        return False

    def __call__(self, step: Step) -> Guided:
        alone = bool(step.uncond.isnan().all())  # a distilled model: it has no scale
        other = step.x if alone else step.uncond
        estimate = step.cond if alone else classifier_free(step.uncond, step.cond, self.scale)
        if not torch.isfinite(estimate).all():
            raise GuardError(
                f"the estimate is not finite at log-SNR {step.noise.log_snr:.2f}, so it cannot be "
                "compared with the training set; run the model in a wider number format (fp32 or "
                "bf16)"
            )
        store = self._latents
        near = store.nearest(estimate, min(self.k, len(store)))
        radius = store.radius if self.radius is None else self.radius
        radii = torch.full_like(near.distances, radius)
        inside = (near.distances < radii).any(1)
        notes = {
            "latent_distance": near.distances[:, 0],
            "neighbour": near.rows[:, 0],
            "gate": inside,
        }
        if not bool(inside.any()):
            return Guided(self.scale, notes=notes)
        aside = store.reduced(other - step.cond)
        steps = leave_balls(near.points, near.centres, radii, aside)
        return Guided(self.scale, store.spread(steps.to(estimate), estimate), notes)

    def idle(self, records: Sequence[Record]) -> str | None:
        distances = [record.notes["latent_distance"] for record in records]
        if len(distances) > 1 and len(torch.cat(distances).unique()) == 1:
            return (
                f"every estimate was {float(distances[0][0]):.4g} from its nearest training "
                "latent; the model's estimate does not depend on the noise"
            )
        return None
