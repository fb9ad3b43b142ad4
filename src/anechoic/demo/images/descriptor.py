"""TinyImage: the descriptor that guides, an image as a thumbnail; it needs no weights."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from anechoic.embed.pixels import prepare

SIDE = 8  # of the thumbnail, in pixels


class TinyImage:
    """The unit vector of an image at 8 x 8 pixels, in colour.

        emb = unit(area mean of the image, 3 x 8 x 8)

    It leaves out what is fine: a guard cannot lower its similarity by faint noise or by sharper
    edges, it has to move what the eye sees first. What judges the guard (`judge`) looks at the
    fine parts, too. An index of it is centred: the mean thumbnail is taken off.

    Source: Torralba, Fergus and Freeman, 80 Million Tiny Images, IEEE TPAMI 30(11), 2008.

    >>> import torch
    >>> TinyImage()(torch.ones(1, 3, 32, 32), 0).norm()
    tensor(1.0000)
    """

    name = "tinyimage"
    dim = 3 * SIDE * SIDE
    sample_rate = 0

    def __call__(self, wav: Tensor, sample_rate: int) -> Tensor:
        """Embed images [b, 3, h, w] in [0, 1]: unit vectors [b, dim]; a black one is grey."""
        small = F.adaptive_avg_pool2d(prepare(wav, sample_rate), SIDE).flatten(1)
        return F.normalize(small + 1e-3, dim=1)
