"""One training latent of any shape, at zero: a store that fits every model."""

from __future__ import annotations

import torch
from torch import Tensor

from anechoic.types import NearLatents


class ZeroLatent:
    """See `anechoic.types.LatentStore`."""

    radius, codec, model, captions = 100.0, None, None, ("silence",)

    def __len__(self) -> int:
        return 1

    def reduced(self, latents: Tensor) -> Tensor:
        return latents.flatten(1)

    def spread(self, steps: Tensor, latents: Tensor) -> Tensor:
        return steps.reshape(latents.shape)

    def nearest(self, latents: Tensor, k: int) -> NearLatents:
        points = self.reduced(latents)
        wide = points.to(torch.promote_types(points.dtype, torch.float32))
        rows = torch.zeros(len(wide), 1, dtype=torch.long, device=wide.device)
        return NearLatents(wide.norm(dim=1, keepdim=True), rows, wide, 0 * wide[:, None])
