"""Anti-memorization guidance: step away from the nearest training clip."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from anechoic.errors import BadSetting
from anechoic.guidance.base import Reach
from anechoic.guidance.similarity import EmbeddedEstimate, Estimate, GatedGuidance, Gradient
from anechoic.guidance.step import Guided, Step
from anechoic.guidance.triggers import LogSNR, Progress, Timestep, training_timestep
from anechoic.types import Embedder, Neighbours, VectorIndex


@dataclass(frozen=True)
class AntiMemorization(GatedGuidance):
    """Anti-memorization guidance (AMG), for sound.

    At each evaluation, for each sample, with `sim` its cosine to the nearest training clip:

        gate  = sim > lambda_t,  lambda_t = lambda_min + (lambda_max - lambda_min) * abar^2
        s1    = clamp(c1 * sim, 0, scale - 1)        despecification
        s2    = clamp(c2 * sim, 0, scale - s1 - 1)   caption deduplication
        out   = u + scale*(c - u)
                + gate * (-s1*(c - u) - s2*(n - u) - c3*((1-abar)/sqrt(abar))*grad_x sim)

    where n is the estimate under the nearest clip's caption. A constant of 0 switches its term
    off. While a sample's gate is shut, its output is classifier-free guidance bit for bit, and
    neither the caption pass nor the gradient is computed for it. `start` and `every` save
    comparisons, too: docs/evidence/speed.md says what they cost and what they miss.

    With the exact posterior mean the dissimilarity term is `-c3 * Cov(x0 | x) * grad_x0 sim`: the
    factor of the noise level and the denoiser's Jacobian together are the posterior covariance.

    Args:
        index: the training set to stay away from.
        embedder: the differentiable embedder that built the index.
        scale: classifier-free guidance scale.
        c1: strength of despecification.
        c2: strength of caption deduplication.
        c3: strength of dissimilarity guidance.
        lambda_min: similarity that opens the gate in pure noise.
        lambda_max: similarity that opens the gate at the end.
        parity: "paper", or "reference" for what the authors' published audio code computes: it
            adds `-c3*sqrt(1-abar)*grad_(x/alpha) sim` to x0, without the factor sigma/alpha that
            an epsilon-space term needs.
        estimate: which x0 estimate is embedded: "cond" (AMG-audio's code) or "guided" (AMG).
        gradient: "denoiser" back-propagates through the network, as the papers do; "x0" stops
            at the estimate and takes the Jacobian of a unit Gaussian prior, `alpha`, instead:
            far cheaper.
        schedule: the course of lambda_t: "parabolic", as above; "constant" at lambda_max; or
            "exponential", as in the code of AMG for images (which sets 0.3 and 0.4):
            `lambda_min + (lambda_max - lambda_min) * exp(-t / 200)`, with t the training
            timestep of Stable Diffusion, 0..999, that has the same noise level. It stays low
            until late.
        start: the first point at which anything is compared with the training set, such as
            `LogSNR(-3.0)`; the gate is shut before it. None, as in the papers: the first step.
        every: while a sample's gate is shut, one of this many evaluations is compared; while it is
            open, all are. The papers compare at all.

    Raises:
        IndexMismatch: the index was built with another embedder, or is empty.
        BadSetting: a constant out of range.
        GuardError: while generating, sound longer than the window of a fixed-length embedder; an
            estimate or gradient that is not finite.

    Source: Chen, Liu and Xu, 2024 (arXiv:2404.00922); Messina et al., 2025 (arXiv:2509.14934).
    """

    index: VectorIndex
    embedder: Embedder
    scale: float = 7.0
    c1: float = 4.0
    c2: float = 3.0
    c3: float = 100.0
    lambda_min: float = 0.7
    lambda_max: float = 0.8
    parity: Literal["paper", "reference"] = "paper"
    estimate: Estimate = "cond"
    gradient: Gradient = "denoiser"
    schedule: Literal["parabolic", "constant", "exponential"] = "parabolic"
    start: LogSNR | Progress | Timestep | float | None = None
    every: int = 1

    def __post_init__(self) -> None:
        for name in ("c1", "c2", "c3"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise BadSetting(f"expected {name} of 0 or more, got {getattr(self, name)}")
        if self.c1 == self.c2 == self.c3 == 0:
            raise BadSetting("c1, c2 and c3 are all 0, so nothing would act; set one above 0")
        if not -1 <= self.lambda_min <= self.lambda_max <= 1:
            raise BadSetting(
                "expected cosines -1 <= lambda_min <= lambda_max <= 1, got "
                f"{self.lambda_min} and {self.lambda_max}"
            )
        lowest = "lambda_max" if self.schedule == "constant" else "lambda_min"
        if getattr(self, lowest) == 1:
            raise BadSetting(
                f"{lowest} is 1, which no similarity exceeds, so the gate would never open; set it "
                "lower"
            )
        for name, known in (
            ("parity", ("paper", "reference")),
            ("schedule", ("parabolic", "constant", "exponential")),
        ):
            if getattr(self, name) not in known:
                raise BadSetting(f"expected {name} among {known}, got {getattr(self, name)!r}")
        super().__post_init__()

    def requires_uncond(self) -> bool:
        return self.c1 > 0 or self.c2 > 0 or self.estimate == "guided"

    def threshold(self, abar: float) -> float:
        """lambda_t, the similarity above which the gate is open."""
        if self.schedule == "constant":
            return self.lambda_max
        share = abar**2
        if self.schedule == "exponential":
            share = math.exp(-training_timestep(abar) / 200)
        return self.lambda_min + (self.lambda_max - self.lambda_min) * share

    def gate(self, abar: float) -> float:
        return self.threshold(abar)

    def gradient_reach(self) -> Reach:
        return self._reach(self.c3)

    def with_threshold(self, similarity: float) -> AntiMemorization:
        return replace(self, lambda_min=similarity, lambda_max=similarity)

    def act(self, step: Step, nearest: Neighbours, embedded: EmbeddedEstimate | None) -> Guided:
        sim, row = nearest.scores[:, 0], nearest.rows[:, 0]
        s1 = (self.c1 * sim).clamp(0.0, self.scale - 1)
        s2 = torch.minimum((self.c2 * sim).clamp_min(0.0), self.scale - s1 - 1)
        delta = torch.zeros_like(step.cond)
        if self.c2 > 0:
            captions = [self.index.captions[number] for number in row.tolist()]
            other = step.denoise(step.x, captions)
            delta = delta - step.per_sample(s2) * (other - step.uncond)
        if self.c3 > 0:
            delta = delta + self._away(step, row, embedded)
        return Guided(self.scale - s1, delta)

    def _away(self, step: Step, rows: Tensor, embedded: EmbeddedEstimate | None) -> Tensor:
        """The dissimilarity step in x0 space, [b, *latent]; `rows` are rows of the index."""
        alpha, sigma = step.noise.alpha, step.noise.sigma
        target = self.index.vectors(rows).to(step.x.device)
        gradient = self._similarity().gradient_of(lambda emb: (emb * target).sum(1), step, embedded)
        if self.parity == "reference":
            return -self.c3 * sigma * alpha * gradient  # grad over x/alpha is alpha * grad over x
        return -self.c3 * (sigma**2 / alpha) * gradient
