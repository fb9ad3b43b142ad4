"""How an image is judged: by its grey levels and its structure, which no guard here optimises.

Both are blind to colour, and the first to level and contrast too: a training image in other
colours is a copy.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

COPY = 0.9  # grey correlation above which an image may be a training image
WINDOW = 7  # of the structural similarity, in pixels
LUMA = (0.299, 0.587, 0.114)


def pixel_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Correlation of all levels of each image with each other one.

    Args:
        a: images [n, c, h, w].
        b: images [m, c, h, w].

    Returns:
        In [-1, 1], [n, m].
    """
    flat = [F.normalize((x - x.mean((1, 2, 3), keepdim=True)).flatten(1), dim=1) for x in (a, b)]
    return flat[0] @ flat[1].T


def grey_correlation(a: Tensor, b: Tensor) -> Tensor:
    """As `pixel_correlation`, of the luma alone: an image in other colours is the same image."""
    return pixel_correlation(luma(a)[:, None], luma(b)[:, None])


def luma(images: Tensor) -> Tensor:
    """Grey levels [n, h, w] of images [n, 3, h, w], by ITU-R BT.601."""
    return torch.einsum("nchw,c->nhw", images, torch.tensor(LUMA).to(images))


def structural_similarity(a: Tensor, b: Tensor) -> Tensor:
    """Mean structural similarity of each image with each other one, of their luma.

        ssim = (2*m_a*m_b + c1) * (2*s_ab + c2) / ((m_a^2 + m_b^2 + c1) * (s_a^2 + s_b^2 + c2))

    over windows of 7 x 7 pixels: means m, unbiased (co)variances s, c1 = 0.01^2, c2 = 0.03^2.

    Args:
        a: images [n, 3, h, w] in [0, 1].
        b: images [m, 3, h, w] in [0, 1].

    Returns:
        In [-1, 1], [n, m].

    Source: Wang, Bovik, Sheikh and Simoncelli, 2004 (doi:10.1109/TIP.2003.819861).
    """
    grey = [luma(a), luma(b)]
    mean = [_windows(x) for x in grey]
    unbiased = WINDOW**2 / (WINDOW**2 - 1)
    var = [unbiased * (_windows(x * x) - m * m) for x, m in zip(grey, mean, strict=True)]
    rows = []
    for i in range(len(a)):
        shared = unbiased * (_windows(grey[0][i] * grey[1]) - mean[0][i] * mean[1])
        level = (2 * mean[0][i] * mean[1] + 1e-4) / (mean[0][i] ** 2 + mean[1] ** 2 + 1e-4)
        shape = (2 * shared + 9e-4) / (var[0][i] + var[1] + 9e-4)
        rows.append((level * shape).mean((1, 2)))
    return torch.stack(rows)


def _windows(x: Tensor) -> Tensor:
    """The mean of each window of images [n, h, w]: columns first, then rows, as products with a
    band matrix, which takes a quarter of what pooling does."""
    return _band(x, x.shape[1]) @ (x @ _band(x, x.shape[2]).T)


def _band(like: Tensor, side: int) -> Tensor:
    """The mean of every `WINDOW` neighbours of `side` numbers, [side - WINDOW + 1, side]."""
    first = torch.zeros(side).to(like)
    first[:WINDOW] = 1 / WINDOW
    return torch.stack([first.roll(i) for i in range(side - WINDOW + 1)])
