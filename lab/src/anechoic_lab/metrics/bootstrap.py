"""Bootstrap intervals of 95 % that resample prompts, not seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from anechoic.errors import BadSetting
from anechoic.metrics.inputs import Array, Floats, Labels, same_length, values
from anechoic.metrics.interval import TAIL, Estimate, groups_of

CLIPS_PER_DIMENSION = 5


def mean_interval(
    x: Array | Sequence[float],
    clusters: Labels | None = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Mean and its bootstrap interval, resampling clusters.

    The expanded percentile bootstrap: the percentiles are those that give a normal mean its t
    interval, as the plain ones are too narrow for few clusters (in simulations of normal figures
    they cover 89 % with 8 and 91 % with 12, the expanded ones 95 and 94 %).

    Args:
        x: a figure for each clip, [n].
        clusters: the prompt of each clip, [n]; by default each clip is its own.
        resamples: draws of clusters with replacement.
        seed: of the draws.

    Raises:
        BadSetting: NaN, another shape, or fewer than two clusters.

    Source: Hesterberg, 2015 (arXiv:1411.5279).

    >>> e = mean_interval([1.0, 1.0, 0.0, 0.0], clusters=["dog", "dog", "cat", "cat"])
    >>> e.value, e.n
    (0.5, 2)
    """
    figures = values(x, "figures", least=2)
    group, n = groups_of(clusters, len(figures))
    counts, sums = np.bincount(group), np.bincount(group, figures)
    drawn = [sums[d].sum() / counts[d].sum() for d in _draws(n, resamples, seed)]
    return _estimate(float(figures.mean()), np.array(drawn), n)


def difference_interval(
    method: Array | Sequence[float],
    baseline: Array | Sequence[float],
    clusters: Labels | None = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Mean of method minus baseline over the same prompts and seeds, and its bootstrap interval.

    What the prompts have in common falls out, so it is far narrower than two intervals are apart.

    Args:
        method, baseline: a figure for each clip, [n], of the same prompt and seed at each place.
        clusters, resamples, seed: as in `mean_interval`.

    Raises:
        BadSetting: as `mean_interval`, or not as many of both.

    >>> difference_interval([0.25, 0.5, 0.0], [0.75, 1.0, 0.5])
    Estimate(value=-0.5, low=-0.5, high=-0.5, n=3)
    """
    first, second = values(method, "figures", least=2), values(baseline, "baseline figures")
    same_length(first, second, "figures", "baseline figures")
    return mean_interval(first - second, clusters, resamples=resamples, seed=seed)


def statistic_interval(
    statistic: Callable[..., float],
    *sets: Array,
    clusters: Labels | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Any statistic of whole sets, as FAD or KAD, and its bootstrap interval.

    The draws are moved so that their mean is the value. Without that the interval is wrong: a
    resample holds clips twice, which raises FAD and KAD by as much as they vary (in simulations
    of 12 to 60 clips in 16 dimensions the plain percentiles cover 0 to 89 %, these 93 to 100 %).

    It says how the figure would move with other prompts. The bias of FAD for few clips is in the
    value as well, and is not in the interval (`warning`).

    Args:
        statistic: from the sets to a number. What it closes over is not resampled: the
            reference set, best as `Gaussian` or `KernelReference`.
        sets: rows [n, ...] each, of the same prompt and seed at each place. Two sets and a
            difference of their distances give the paired difference of two methods.
        clusters: the prompt of each row, [n]; by default each row is its own.
        resamples: draws of clusters with replacement.
        seed: of the draws.

    Raises:
        BadSetting: sets of different length, fewer than two clusters, or a statistic that is NaN.

    >>> e = statistic_interval(np.std, np.arange(4.0), resamples=50)
    >>> e.low <= e.value <= e.high
    True
    """
    if not sets:
        raise BadSetting("expected one set or more, got none; pass the embeddings")
    for other in sets[1:]:
        same_length(sets[0], other, "rows of one set", "of another")
    group, n = groups_of(clusters, len(sets[0]))
    order = np.argsort(group, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(group))[:-1])
    value = float(statistic(*sets))
    drawn = np.array([
        float(statistic(*(x[rows] for x in sets)))
        for rows in (np.concatenate([members[g] for g in d]) for d in _draws(n, resamples, seed))
    ])  # fmt: skip
    return _estimate(value, drawn + (value - drawn.mean()), n)


def warning(n: int, d: int) -> str | None:
    """A sentence for the report where so few clips make FAD too large, else None.

    Between n clips and endlessly many of the same Gaussian, FAD should be 0, and is about
    (d + 5) / (4 n) of the variance where all directions vary alike, and less where not: 5 % at
    five clips a dimension.

    Args:
        n: clips in the smaller set.
        d: dimensions of the embedding.

    >>> print(warning(24, 512))
    FAD in 512-d from 24 clips is biased upward, as they span 23 dimensions at most: use KAD
    >>> warning(5000, 512) is None
    True
    """
    if n <= d:
        return (
            f"FAD in {d}-d from {n} clips is biased upward, as they span {n - 1} dimensions at "
            "most: use KAD"
        )
    if n < CLIPS_PER_DIMENSION * d:
        return (
            f"FAD in {d}-d from {n} clips is biased upward, by up to {(d + 5) / (4 * n):.0%} of "
            "the variance: use KAD, or extrapolate FAD"
        )
    return None


def _draws(n: int, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    if resamples < 1:
        raise BadSetting(f"expected one resample or more, got {resamples}; 1000 is usual")
    rng = np.random.default_rng(seed)
    return (rng.integers(0, n, n) for _ in range(resamples))


def _estimate(value: float, drawn: Floats, n: int) -> Estimate:
    from scipy.special import ndtr, stdtrit

    if not (np.isfinite(value) and np.isfinite(drawn).all()):
        raise BadSetting(
            "expected a statistic that is finite for every resample, got NaN or infinity; a "
            "resample holds clips twice: it has to be defined for that"
        )
    tail = ndtr(np.sqrt(n / (n - 1)) * stdtrit(n - 1, TAIL))
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Estimate(value, min(float(low), value), max(float(high), value), n)
