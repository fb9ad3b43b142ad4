"""FAD: the Fréchet distance of two sets of embeddings, and what it tends to with more clips."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anechoic.errors import BadSetting
from anechoic.metrics.inputs import Array, Floats
from anechoic_lab.metrics.inputs import rows, same_width


@dataclass(frozen=True, eq=False)
class Gaussian:
    """All that FAD needs of a set, to be computed once."""

    mean: Floats  # [d]
    root: Floats  # [min(n, d), d]: root.T @ root is the unbiased covariance

    @classmethod
    def of(cls, embeddings: Array, what: str = "embeddings") -> Gaussian:
        """The mean and covariance (divided by n - 1) of embeddings [n, d].

        Raises:
            BadSetting: fewer than two rows, NaN, or another shape.
        """
        x = rows(embeddings, what, least=2)
        mean = x.mean(0)
        centred = (x - mean) / np.sqrt(len(x) - 1)
        if len(x) > x.shape[1]:
            centred = np.linalg.qr(centred, mode="r")
        return cls(mean, centred)


@dataclass(frozen=True)
class Extrapolation:
    """A straight line through distances over 1 / n, and where it ends."""

    value: float  # at 1 / n = 0
    slope: float
    r2: float  # share of the variance that the line explains; the value is worth no more
    sizes: tuple[int, ...]  # clips drawn
    distances: tuple[float, ...]  # FAD of each draw


def frechet_distance(a: Array | Gaussian, b: Array | Gaussian) -> float:
    """Fréchet distance between the Gaussians with the moments of two sets: FAD.

        |m_a - m_b|^2 + tr S_a + tr S_b - 2 tr (S_a S_b)^(1/2)

    The covariances S are unbiased (n - 1). With S = R^T R the last trace is the sum of the
    singular values of R_a R_b^T, so no matrix square root is needed: exact to rounding, and
    stable where there are fewer clips than dimensions.

    The estimate itself is biased upward by an amount that shrinks with 1 / n (`warning`).

    Args:
        a, b: embeddings [n, d] and [m, d] of one embedder, or their `Gaussian`s.

    Returns:
        The squared distance, as it is usual for FAD; 0 or more.

    Raises:
        BadSetting: fewer than two rows, NaN, or different dimensions.

    Source: Kilgour et al., 2019 (arXiv:1812.08466); Dowson and Landau, 1982.

    Means (0, 0) and (3, 4), variances 1 and 4 in both directions: 25 + 2 * (2 - 1)^2.

    >>> square = np.array([[1.0, 1], [1, -1], [-1, 1], [-1, -1]]) * np.sqrt(3 / 4)
    >>> round(frechet_distance(square, 2 * square + [3, 4]), 12)
    27.0
    """
    first, second = (x if isinstance(x, Gaussian) else Gaussian.of(x) for x in (a, b))
    same_width(first.root, second.root, "one set", "the other")
    shift = first.mean - second.mean
    shared = np.linalg.svd(first.root @ second.root.T, compute_uv=False).sum()
    squared = shift @ shift + (first.root**2).sum() + (second.root**2).sum() - 2 * shared
    return max(float(squared), 0.0)


def frechet_distance_extrapolated(
    reference: Array | Gaussian,
    generated: Array,
    *,
    least: int = 500,
    steps: int = 25,
    replace: bool = False,
    seed: int = 0,
) -> Extrapolation:
    """FAD with endlessly many generated clips, by a straight line over 1 / n.

        FAD(n) = value + slope / n,   n from `least` to all, evenly spaced

    The reference set is not resampled, and its own share of the bias remains: use a large one. The
    line holds where n is well over the number of dimensions: look at `r2`, and at the points.

    Each n clips are drawn without replacement. The authors' toolkit draws with replacement, and so
    extrapolates to the distance of these very clips, endlessly repeated: the bias of a set of
    their number stays in. `replace=True` does the same, for comparison with published figures.

    Args:
        reference: embeddings [m, d], or their `Gaussian`.
        generated: embeddings [n, d].
        least: clips in the smallest draw.
        steps: number of draws.
        replace: draw with replacement, as the authors' toolkit does.
        seed: of the draws.

    Raises:
        BadSetting: as `frechet_distance`; under two clips a draw, under three draws, or too few
            clips for draws of different sizes.

    Source: Gui et al., 2023 (arXiv:2311.01616); Chong and Forsyth, 2020 (arXiv:1911.07023).
    """
    x = rows(generated, "generated embeddings", least=2)
    if least < 2 or steps < 3:
        raise BadSetting(
            f"expected 3 or more draws of 2 or more clips, got {steps} of {least}; raise them"
        )
    if len(x) < least + steps - 1:
        raise BadSetting(
            f"expected {least + steps - 1} or more clips for {steps} draws from {least} clips up, "
            f"got {len(x)}; generate more, or lower 'least'"
        )
    whole = reference if isinstance(reference, Gaussian) else Gaussian.of(reference)
    rng = np.random.default_rng(seed)
    sizes = [int(n) for n in np.linspace(least, len(x), steps)]
    draws = [rng.choice(len(x), n, replace=replace) for n in sizes]
    distances = np.array([frechet_distance(whole, x[drawn]) for drawn in draws])
    inverse = 1 / np.array(sizes)
    slope, value = np.polyfit(inverse, distances, 1)
    left = ((distances - value - slope * inverse) ** 2).sum()
    total = ((distances - distances.mean()) ** 2).sum()
    r2 = 1.0 - float(left / total) if total > 0 else 1.0
    return Extrapolation(float(value), float(slope), r2, tuple(sizes), tuple(distances.tolist()))
