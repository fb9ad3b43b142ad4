"""Safe Denoiser: away from what a model of the training clips alone would estimate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from anechoic.errors import BadSetting
from anechoic.guidance.base import Guidance
from anechoic.guidance.cfg import check_scale
from anechoic.guidance.step import Guided, Record, Step
from anechoic_lab.guidance.latents import LatentBank


@dataclass(frozen=True)
class SafeDenoiser(Guidance):
    """Moves the estimate away from the posterior mean over the training clips.

    With E = u + scale*(c - u), and the training latents z_n:

        E_unsafe = sum_n z_n w_n,   w_n = softmax_n(-||x - alpha z_n||^2 / (2 sigma^2))
        out      = E + beta * (E - E_unsafe)

    E_unsafe is what a network that knows these clips and nothing else would estimate. In the
    paper, beta depends on x and is not known; its method, and this one, take a constant in a window
    of the schedule. Put it in `During` for a window, with `ClassifierFree` outside.

    A verbatim copy is where E equals E_unsafe, so the step is smallest where it is needed most.

    Args:
        latents: of the training clips, [n, *latent], as the model's codec encodes them.
        scale: classifier-free guidance scale.
        beta: strength; 0 is plain guidance.

    Raises:
        BadSetting: a setting out of range, or latents that are none.
        GuardError: the latents of the generation have another shape.

    Source: Kim et al., 2025 (arXiv:2502.08011). The released code computes something else: it
    subtracts beta * E_unsafe alone, and weighs by the distance to E rather than its square to x.
    """

    latents: Tensor | LatentBank = field(repr=False, compare=False)
    scale: float = 7.0
    beta: float = 1.0

    def __post_init__(self) -> None:
        check_scale(self.scale)
        if not 0 <= self.beta < math.inf:
            raise BadSetting(f"expected beta of 0 or more, got {self.beta}")
        object.__setattr__(self, "latents", LatentBank.of(self.latents))

    def looks_back(self) -> bool:
        return False

    def idle(self, records: Sequence[Record]) -> str | None:
        return None if self.beta else "its beta is 0, which is plain guidance; raise it"

    def __call__(self, step: Step) -> Guided:
        if not self.beta:
            return Guided(self.scale)
        guided = Guided(self.scale).x0(step)
        unsafe = posterior_mean(LatentBank.of(self.latents), step)
        return Guided(self.scale, self.beta * (guided - unsafe))


def posterior_mean(bank: LatentBank, step: Step) -> Tensor:
    """The mean of the training clips given a step's input, each clip as likely: [b, *latent]."""
    noise = step.noise
    distances = bank.squared_distances(step.x / noise.alpha)
    return bank.mean((distances / (-2 * noise.ratio**2)).softmax(1), step.x)
