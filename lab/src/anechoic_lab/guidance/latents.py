"""The latents of a training set, and a Gaussian kernel around them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from anechoic.errors import BadSetting, GuardError


@dataclass(frozen=True, eq=False)
class LatentBank:
    """The latents of training clips, computed when they are first used.

    Args:
        load: returns them, [n, *latent], of one length and as the model's own codec encodes them.

    >>> LatentBank.of(torch.zeros(3, 2, 4)).values.shape
    torch.Size([3, 2, 4])
    """

    load: Callable[[], Tensor]

    @staticmethod
    def of(latents: Tensor | LatentBank) -> LatentBank:
        """A bank of these latents, [n, *latent].

        Raises:
            BadSetting: they are neither a tensor nor a bank, or a tensor of no clips or of values
                that are not finite.
        """
        if isinstance(latents, LatentBank):
            return latents
        if not isinstance(latents, Tensor):
            raise BadSetting(
                f"expected the latents of training clips, a tensor [n, *latent], got "
                f"{type(latents).__name__}; encode the clips with the model's codec"
            )
        bank = LatentBank(lambda: latents)
        _ = bank.values
        return bank

    @cached_property
    def values(self) -> Tensor:
        """The latents themselves, [n, *latent]."""
        values = self.load().detach()
        if values.dim() < 2 or not len(values) or not torch.isfinite(values).all():
            raise BadSetting(
                f"expected finite latents [n, *latent] of one clip or more, got a tensor "
                f"{tuple(values.shape)}; encode the clips with the model's codec"
            )
        return values

    def like(self, points: Tensor) -> Tensor:
        """The latents on the device and in the format of `points` [b, *latent].

        Raises:
            GuardError: the latents of the generation have another shape.
        """
        if self.values.shape[1:] != points.shape[1:]:
            raise GuardError(
                f"expected latents of training clips of shape {tuple(points.shape[1:])}, as this "
                f"generation has them, got {tuple(self.values.shape[1:])}; encode the clips with "
                "this model's codec, at the length that is generated"
            )
        return self.values.to(points)

    def squared_distances(self, points: Tensor) -> Tensor:
        """The squared distance of points [b, *latent] to each clip, [b, n]."""
        one, other = points.flatten(1), self.like(points).flatten(1)
        norms = one.square().sum(1)[:, None] + other.square().sum(1)
        return (norms - 2 * one @ other.T).clamp_min(0)

    def mean(self, weights: Tensor, points: Tensor) -> Tensor:
        """The sum of the clips under weights [b, n], with the shape of `points` [b, *latent]."""
        return (weights.to(points) @ self.like(points).flatten(1)).reshape(points.shape)
