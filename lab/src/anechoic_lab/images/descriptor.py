"""TinyImage: the descriptor that guides, an image as a thumbnail; it needs no weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from anechoic.errors import UnknownEmbedder
from anechoic.types import Embedder
from anechoic_lab.embedders.pixels import prepare
from anechoic_lab.images.judge import luma

SIDE = 8  # of the thumbnail, in pixels
FLAT = 0.05  # what an image without any contrast has instead of a direction


class TinyImage(Embedder):
    """The unit vector of an image at 8 x 8 pixels.

        emb = unit([t - mean(t), 0.05]),    t = area mean of the grey image, 8 x 8

    It leaves out what is fine, so that faint noise does not move it, and colour, brightness and
    contrast: guided by a thumbnail in colour ("colour"), dissimilarity gave back the same image in
    other colours (docs/evidence/images.md). What is left is where it is light and where it is dark.

    Args:
        source: "" for the grey thumbnail, or "colour": unit(t) of three channels, which belongs
            into a centred index.

    Raises:
        UnknownEmbedder: another source.

    Source: Torralba, Fergus and Freeman, 80 Million Tiny Images, IEEE TPAMI 30(11), 2008.

    >>> round(TinyImage()(torch.rand(1, 3, 32, 32), 0).norm().item(), 4)
    1.0
    """

    sample_rate = 0

    def __init__(self, source: str = "") -> None:
        if source not in ("", "colour"):
            raise UnknownEmbedder(
                f"expected 'tinyimage' or 'tinyimage:colour', got 'tinyimage:{source}'"
            )
        self.colour = source == "colour"
        self.name = f"tinyimage:{source}" if source else "tinyimage"
        self.dim = 3 * SIDE**2 if self.colour else SIDE**2 + 1

    def __call__(self, wav: Tensor, sample_rate: int) -> Tensor:
        """Embed images [b, 3, h, w] in [0, 1]: unit vectors [b, dim]."""
        small = F.adaptive_avg_pool2d(prepare(wav, sample_rate), SIDE)
        if self.colour:
            return F.normalize(small.flatten(1) + 1e-3, dim=1)
        grey = luma(small).flatten(1)
        grey = grey - grey.mean(1, keepdim=True)
        return F.normalize(torch.cat([grey, torch.full_like(grey[:, :1], FLAT)], 1), dim=1)
