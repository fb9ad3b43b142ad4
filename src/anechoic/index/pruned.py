"""An exact search that reads an eighth of the vectors.

In an orthonormal basis of r directions a unit vector v is its head h(v), [r], and a tail of norm
t(v) = sqrt(1 - |h(v)|^2), and by Cauchy and Schwarz

    <q, v>  <=  <h(q), h(v)> + t(q) t(v).

The rows with the highest bounds are scored in full. If the k-th best of their scores is above the
next row's bound, no other row can be nearer: the answer is exact, and it is known to be.
"""

from __future__ import annotations

import torch
from torch import Tensor

SAMPLE = 512  # rows whose principal directions are taken
SHARE = 8  # of the dimensions are directions
SCORED = 48  # rows that are scored in full
ROUNDING = 1e-5  # of a bound, in float32


class Pruned:
    """Heads and tails of all rows.

    Args:
        vectors: unit norm, [n, d] float32.
    """

    def __init__(self, vectors: Tensor):
        self._vectors = vectors
        rows = torch.linspace(0, len(vectors) - 1, min(SAMPLE, len(vectors))).round().long()
        some = vectors[rows]
        # the principal directions of a sample, by its smaller Gram matrix; any basis is exact
        count = min(max(1, vectors.shape[1] // SHARE), len(some))
        values, combined = torch.linalg.eigh((some @ some.T).double())
        kept = values[-count:] > 1e-6 * values[-1]
        directions = some.T.double() @ (
            combined[:, -count:][:, kept] / values[-count:][kept].sqrt()
        )
        self._basis = directions.to(vectors).contiguous()
        self._heads = vectors @ self._basis
        self._tails = _tail(self._heads)

    def candidates(self, query: Tensor, k: int) -> Tensor | None:
        """Rows [b, max(k, 48)] among which the k nearest of each query are, and all that are as
        near as the k-th; None where that cannot be told.

        Args:
            query: unit norm, [b, d].
            k: below the number of rows.
        """
        count = max(k, SCORED)
        if count >= len(self._vectors):
            return None
        heads = query @ self._basis
        bounds = heads @ self._heads.T + _tail(heads)[:, None] * self._tails
        highest, rows = bounds.topk(count + 1, dim=1)
        rows = rows[:, :count]
        scores = torch.einsum("bd,bcd->bc", query, self._vectors[rows])
        worst = scores.topk(k, dim=1).values[:, -1]
        return rows if bool((worst > highest[:, -1] + ROUNDING).all()) else None


def _tail(heads: Tensor) -> Tensor:
    return (1 - (heads * heads).sum(1)).clamp_min(0).sqrt()
