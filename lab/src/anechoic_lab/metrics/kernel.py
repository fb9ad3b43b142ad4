"""KAD: the kernel distance between two sets of embeddings, unbiased for any number of clips."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from anechoic.errors import BadSetting
from anechoic.metrics.inputs import Array, Floats
from anechoic_lab.metrics.inputs import blocks, rows, same_width

SCALE = 100.0  # the published figures are so many times the squared discrepancy
MEDIAN_ROWS = 4096  # of a larger reference, so many rows give the median
ROUNDING = 1e-7  # a distance below this share of the largest norm is that of copies


@dataclass(frozen=True, eq=False)
class KernelReference:
    """All that KAD needs of the reference set, to be computed once."""

    rows: Floats  # centred, [m, d]
    centre: Floats  # [d]; taken off first, as distances of far-off points lose digits
    bandwidth: float
    within: float  # mean kernel of two different clips of the set

    @classmethod
    def of(cls, embeddings: Array, bandwidth: float | None = None) -> KernelReference:
        """Measure a reference set [m, d].

        Args:
            embeddings: of real sound.
            bandwidth: of the Gaussian kernel; by default the median distance of two clips of
                the set (of 4096 rows, evenly spread, where it has more).

        Raises:
            BadSetting: fewer than two rows, NaN, another shape, or a bandwidth that is not over 0.
        """
        x = rows(embeddings, "reference embeddings", least=2)
        centre = x.mean(0)
        x = x - centre
        chosen = _median_distance(x) if bandwidth is None else float(bandwidth)
        if not (math.isfinite(chosen) and chosen > 0):
            raise BadSetting(
                f"expected a kernel bandwidth over 0, got {chosen:g}"
                + ("" if bandwidth is not None else ", the median distance of the reference set: "
                   "half of its pairs are copies; merge them, or give a bandwidth")
            )  # fmt: skip
        return cls(x, centre, chosen, _within(x, chosen))


def kernel_distance(
    reference: Array | KernelReference, generated: Array, *, scale: float = SCALE
) -> float:
    """Kernel audio distance, KAD: the unbiased squared maximum mean discrepancy, times 100.

        100 * ( mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j) )
        k(x, y) = exp(-|x - y|^2 / (2 * bandwidth^2))

    The bandwidth is the median distance of two clips of the reference set, whatever is compared
    with it, so two methods are measured with the same kernel; hence the two sets cannot be
    swapped. (The paper's toolkit took it from the generated set before its pull request 10.)

    Unbiased means that it falls below 0 about half the time where the two sets are drawn from
    one distribution; this is correct, and it is not clipped.

    Args:
        reference: embeddings of real sound [m, d], or their `KernelReference`.
        generated: embeddings [n, d].
        scale: 1 gives the squared discrepancy itself.

    Raises:
        BadSetting: fewer than two rows, NaN, different dimensions, or a reference of copies.

    Source: Chung et al., 2025 (arXiv:2502.15602); Gretton et al., 2012, lemma 6.

    Reference {0, 1}, bandwidth 1, against {0, 2}: e^-0.5 + e^-2 - 2 * (1 + 2 e^-0.5 + e^-2) / 4.

    >>> x, y = np.array([[0.0], [1.0]]), np.array([[0.0], [2.0]])
    >>> round(kernel_distance(x, y), 6)
    -43.233236
    """
    known = reference if isinstance(reference, KernelReference) else KernelReference.of(reference)
    y = rows(generated, "generated embeddings", least=2)
    same_width(known.rows, y, "reference", "generated clips")
    y = y - known.centre
    between = _kernel_sum(known.rows, y, known.bandwidth) / (len(known.rows) * len(y))
    return scale * (known.within + _within(y, known.bandwidth) - 2 * between)


def _within(x: Floats, bandwidth: float) -> float:
    """Mean kernel of two different rows."""
    return (_kernel_sum(x, x, bandwidth) - len(x)) / (len(x) * (len(x) - 1))


def _kernel_sum(x: Floats, y: Floats, bandwidth: float) -> float:
    exponent = -0.5 / bandwidth**2
    return sum(
        float(np.exp(exponent * _squared_distances(x[block], y)).sum())
        for block in blocks(x, len(y))
    )


def _squared_distances(x: Floats, y: Floats) -> Floats:
    """[n, m], by the product, which is many times faster than differences."""
    squares = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T
    distances: Floats = np.maximum(squares, 0.0)
    return distances


def _median_distance(x: Floats) -> float:
    some = x[np.linspace(0, len(x) - 1, min(len(x), MEDIAN_ROWS)).astype(int)]
    pairs = ~np.tri(len(some), dtype=bool)
    median = float(np.median(np.sqrt(_squared_distances(some, some)[pairs])))
    return median if median > ROUNDING * np.linalg.norm(some, axis=1).max() else 0.0
