"""Condition-annealed sampling: a prompt that is noise at first, and itself in the end."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from anechoic.errors import BadSetting
from anechoic.guidance.base import PromptGuidance
from anechoic.guidance.cfg import check_scale
from anechoic.guidance.step import Prompt
from anechoic_lab.guidance.perturb import noise_like


@dataclass(frozen=True)
class CADS(PromptGuidance):
    """Condition-annealed diffusion sampling (CADS).

    With t = 1 - progress, which falls from 1 to 0 along the schedule, and new noise n at each
    evaluation:

        gamma = 1 for t <= tau1,  (tau2 - t)/(tau2 - tau1) between,  0 for t >= tau2
        y'    = sqrt(gamma) * y + noise_scale * sqrt(1 - gamma) * n
        y''   = (y' - mean(y'))/std(y') * std(y) + mean(y)
        used  = mixing * y'' + (1 - mixing) * y'

    of the tokens y that are text; mean and deviation are of each sample's own. The paper's t is the
    share of a uniform schedule. On Stable Audio's schedule more than half of the steps lie where
    nothing about the sample is decided: to hold the prompt back until something is, choose
    tau1 and tau2 lower than for Stable Diffusion.

    Args:
        scale: classifier-free guidance scale.
        tau1: share of the schedule that is left when the prompt has become itself.
        tau2: share of the schedule that is left when it begins to.
        noise_scale: the paper's s; 0 switches the annealing off.
        mixing: the paper's psi: how much of the rescaled prompt is used, in [0, 1].
        seed: another noise for the same starting noise.

    Raises:
        BadSetting: a setting out of range.

    Source: Sadat et al., 2024 (arXiv:2310.17347).
    """

    scale: float = 7.0
    tau1: float = 0.6
    tau2: float = 0.9
    noise_scale: float = 0.25
    mixing: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_scale(self.scale)
        if not (0 <= self.tau1 <= self.tau2 <= 1 and self.tau1 < 1):
            raise BadSetting(
                f"0 <= tau1 <= tau2 <= 1 with tau1 under 1 was expected, got {self.tau1}, "
                f"{self.tau2}"
            )
        if not 0 < self.noise_scale < float("inf"):
            raise BadSetting(f"noise_scale is a number above 0, got {self.noise_scale}")
        if not 0 <= self.mixing <= 1:
            raise BadSetting(f"mixing is between 0 and 1, got {self.mixing}")

    def gamma(self, t: float) -> float:
        """How much of the prompt is used where `t` of the schedule is left."""
        if t <= self.tau1:
            return 1.0
        return 0.0 if t >= self.tau2 else (self.tau2 - t) / (self.tau2 - self.tau1)

    def condition(self, prompt: Prompt) -> Tensor:
        gamma = self.gamma(1 - prompt.progress)
        if gamma == 1.0:
            return prompt.encoded
        salt = 1 + round(1e6 * prompt.progress)  # new noise at each evaluation
        noise = noise_like(prompt, self.seed * 1_000_003 + salt)
        noised = gamma**0.5 * prompt.encoded + self.noise_scale * (1 - gamma) ** 0.5 * noise
        rescaled = _with_moments_of(prompt.encoded, noised, prompt.mask)
        mixed: Tensor = self.mixing * rescaled + (1 - self.mixing) * noised
        return mixed


def _with_moments_of(like: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """`values` [b, s, d] moved and scaled to the mean and deviation of `like`, over the mask."""
    mean, std = _moments(values, mask)
    like_mean, like_std = _moments(like, mask)
    moved = (values - mean) / std.clamp_min(1e-12) * like_std + like_mean
    return torch.where(mask[:, :, None], moved, values)


def _moments(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each sample's masked values, [b, 1, 1] each."""
    weight = mask[:, :, None].expand_as(values).to(values)
    count = weight.sum((1, 2), keepdim=True).clamp_min(1)
    mean = (values * weight).sum((1, 2), keepdim=True) / count
    variance = ((values - mean).square() * weight).sum((1, 2), keepdim=True) / count
    return mean, variance.sqrt()
