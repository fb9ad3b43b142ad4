"""Prompt-embedding optimisation: move the prompt out of memory before the first step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from anechoic.errors import BadSetting, GuardError
from anechoic.guidance.base import PromptGuidance
from anechoic.guidance.cfg import check_scale
from anechoic.guidance.step import Prompt


@dataclass(frozen=True)
class PromptOptimization(PromptGuidance):
    """Optimise the encoded prompt at the first evaluation until d_T is under a target.

        minimise ||eps(x_T, p) - eps(x_T, none)||_2 over the encoded prompt p, by Adam

    until it is at most `target`, or for `iterations`; then guide with that prompt to the end. Each
    sample stops by itself; only the tokens that are text are moved.

    The published target, 3, is that of Stable Diffusion 1.4. On another model a number means
    something else: on Stable Audio's schedule the first evaluation has sigma/alpha = 500, and d_T
    its 1/500 of what it would be at Stable Diffusion's. So `share` gives the target as a share of
    the prompt's own d_T before.

    Args:
        scale: classifier-free guidance scale.
        target: of d_T = ||eps_c - eps_u||; not looked at where `share` is given.
        share: target as a share of d_T before, in (0, 1).
        learning_rate: of Adam.
        iterations: at most.

    Raises:
        BadSetting: a setting out of range.
        GuardError: a gradient that is not finite.

    Source: Wen et al., 2024 (arXiv:2407.21720), inference-time mitigation; `share` is our own.
    """

    scale: float = 7.0
    target: float = 3.0
    share: float | None = None
    learning_rate: float = 0.05
    iterations: int = 10

    def __post_init__(self) -> None:
        check_scale(self.scale)
        for name in ("target", "learning_rate"):
            if not 0 < getattr(self, name) < float("inf"):
                raise BadSetting(f"{name} is a number above 0, got {getattr(self, name)}")
        if self.share is not None and not 0 < self.share < 1:
            raise BadSetting(f"share is between 0 and 1, got {self.share}")
        if self.iterations < 1:
            raise BadSetting(f"iterations is 1 or more, got {self.iterations}")

    def requires_uncond(self) -> bool:
        return True

    def condition(self, prompt: Prompt) -> Tensor:
        if prompt.first is not None:
            return prompt.first
        with torch.no_grad():
            uncond = prompt.denoise(prompt.x, "uncond")
        with torch.enable_grad():
            encoded = prompt.encoded.detach().clone().requires_grad_(True)
            optimizer = torch.optim.Adam([encoded], self.learning_rate)
            target: Tensor | None = None
            for _ in range(self.iterations):
                cond = prompt.denoise(prompt.x, encoded)
                distance = (cond - uncond).flatten(1).norm(dim=1) / prompt.noise.ratio
                if target is None:
                    goal = self.target if self.share is None else self.share * distance
                    target = torch.as_tensor(goal, device=distance.device).detach()
                open_ = distance.detach() > target
                if not open_.any():
                    break
                self._step(encoded, distance, open_, prompt.mask, optimizer)
        return encoded.detach()

    def _step(
        self,
        encoded: Tensor,
        distance: Tensor,
        open_: Tensor,
        mask: Tensor,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        """One step of Adam, of the samples [b] that are over their target."""
        (gradient,) = torch.autograd.grad(distance.sum(), encoded)
        if not torch.isfinite(gradient).all():
            raise GuardError(
                "the gradient of ||eps_c - eps_u|| over the prompt is not finite; run the model "
                "in a wider number format (fp32 or bf16)"
            )
        moving = open_[:, None, None] & mask[:, :, None]
        before = encoded.detach().clone()
        encoded.grad = gradient * moving
        optimizer.step()
        with torch.no_grad():  # Adam's momentum would move on what has arrived
            encoded.copy_(torch.where(moving, encoded, before))
