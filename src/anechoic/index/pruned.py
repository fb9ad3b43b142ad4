"""An exact search that reads a sixteenth of the vectors.

In an orthonormal basis of r directions a unit vector v has a head h(v), [r], and a tail of norm
t(v) = sqrt(1 - |h(v)|^2), and by Cauchy and Schwarz

    <q, v>  <=  <h(q), h(v)> + t(q) t(v).

The rows with the highest bounds are scored in full, a few and then some more. Once the k-th best
score is above the next row's bound, no other row can be nearer, so the answer is exact.
"""

from __future__ import annotations

import torch
from torch import Tensor

SAMPLE = 512  # rows that give the principal directions
SHARE = 16  # one direction for this many dimensions
SCORED = (16, 64)  # rows that are scored in full: enough for 9 and 19 of 20 queries of a guard
ROUNDING = 1e-5  # rounding error of a bound in float32


class Pruned:
    """Finds the nearest rows by the heads and tails of all rows.

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
        self._reach = _with_tail(
            vectors @ self._basis
        ).T.contiguous()  # each query reads it by rows

    def candidates(self, query: Tensor, k: int) -> Tensor | None:
        """Some rows [b, n], n >= k, that include the k nearest of each query, and all that are as
        near as the k-th; None if the bounds cannot show that.

        Args:
            query: unit norm, [b, d].
            k: below the number of rows.
        """
        counts = [count for count in SCORED if k <= count < len(self._vectors)]
        if not counts:
            return None
        bounds = _with_tail(query @ self._basis) @ self._reach
        highest, rows = bounds.topk(counts[-1] + 1, dim=1)
        for count in counts:
            some = rows[:, :count]
            scores = (self._vectors[some] @ query[:, :, None])[..., 0]
            worst = scores.topk(k, dim=1).values[:, -1]
            if bool((worst > highest[:, count] + ROUNDING).all()):
                return some
        return None


def _with_tail(heads: Tensor) -> Tensor:
    """Heads [n, r] and the norms of their tails, [n, r + 1]: products of these are the bounds."""
    tails = (1 - torch.linalg.vector_norm(heads, dim=1, keepdim=True).square()).clamp_min(0).sqrt()
    return torch.cat([heads, tails], dim=1)
