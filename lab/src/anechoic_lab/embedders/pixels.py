"""What image embedders share between the image they are given and the network.

Everything here is differentiable, treats each image of a batch by itself, and computes what
Pillow does to 8-bit images, without its rounding to 256 levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from anechoic.errors import BadSetting

SLACK = 1e-3  # rounding of a decoder's number format may step over [0, 1] by so much


def prepare(images: Tensor, sample_rate: int) -> Tensor:
    """Images as a descriptor wants them: three channels in [0, 1], float32 or float64.

    Args:
        images: [b, 3, h, w] in [0, 1]; half precision is raised to float32.
        sample_rate: 0, for an image has no time.

    Raises:
        BadSetting: not images [b, 3, h, w], empty, NaN, or outside [0, 1].

    >>> prepare(torch.full((1, 3, 2, 2), 0.5), 0).mean()
    tensor(0.5000)
    """
    if sample_rate != 0 or images.ndim != 4 or images.shape[1] != 3 or images.numel() == 0:
        raise BadSetting(
            f"expected images [batch, 3, height, width] with sample rate 0, got shape "
            f"{tuple(images.shape)} with {sample_rate}; give RGB images, and sound to an embedder "
            "of sound"
        )
    if not images.is_floating_point():
        raise BadSetting(
            f"expected images in [0, 1], got whole numbers ({images.dtype}); divide by 255"
        )
    low, high = images.detach().aminmax()
    if not (low >= -SLACK and high <= 1 + SLACK):  # NaN too is neither
        raise BadSetting(
            f"expected images in [0, 1], got values from {low:g} to {high:g}; divide by 255, or "
            "clamp what a decoder gives as its pipeline does: (x / 2 + 0.5).clamp(0, 1)"
        )
    return images if images.dtype in (torch.float32, torch.float64) else images.float()


def resize(images: Tensor, short: int, mode: Literal["bilinear", "bicubic"]) -> Tensor:
    """Images [b, c, h, w] with a shorter edge of `short` pixels, antialiased as by Pillow.

    >>> tuple(resize(torch.zeros(1, 3, 512, 768), 288, "bilinear").shape)
    (1, 3, 288, 432)
    """
    height, width = images.shape[-2:]
    least = min(height, width)
    # Width first, then height. A cubic overshoots at edges: 8 bits cut that off after each pass.
    for size in (
        (height, width * short // least),
        (height * short // least, width * short // least),
    ):
        if size != tuple(images.shape[-2:]):
            images = F.interpolate(images, size, mode=mode, antialias=True).clamp(0, 1)
    return images


def crop(images: Tensor, height: int, width: int) -> Tensor:
    """The middle of images [b, c, h, w]; half pixels up and to the left."""
    top, left = (images.shape[-2] - height) // 2, (images.shape[-1] - width) // 2
    return images[..., top : top + height, left : left + width]


def standardise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(images - mean) / std, by channel."""
    centre, scale = (torch.tensor(v).to(images)[:, None, None] for v in (mean, std))
    return (images - centre) / scale
