"""Compares two methods on the same prompts and seeds: difference, interval, test, power."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anechoic.errors import BadSetting
from anechoic.metrics.inputs import Array, Labels, same_length, values
from anechoic.metrics.interval import groups_of

DRAWS = 9999  # of the permutation test


@dataclass(frozen=True)
class Paired:
    """A figure of one method minus that of another, over prompts.

    Args:
        difference: the mean over prompts.
        low, high: its 95 % interval.
        p: of the test that the difference is zero, two-sided.
        power: the chance that the test finds a true difference of `effect`.
        effect: that difference.
        n: prompts.
    """

    difference: float
    low: float
    high: float
    p: float
    power: float
    effect: float
    n: int


def paired(
    method: Array | Sequence[float],
    baseline: Array | Sequence[float],
    clusters: Labels | None = None,
    *,
    effect: float = 0.1,
    seed: int = 0,
) -> Paired:
    """Compare figures in [0, 1] of two methods, of the same prompt and seed at each place.

    Seeds of one prompt are averaged first. Where every prompt is then better, worse or the same by
    a whole, the test is McNemar's exact one; otherwise signs are permuted, which is the same test
    of graded figures. The interval is Agresti and Min's for paired shares, which adds half a
    prompt to each way in which a pair can come out, and applies to graded figures as it stands: it
    does not shrink to a point where no pair differs. The power is that of the normal
    approximation with the same standard error.

    Args:
        method, baseline: a figure for each sample, [n].
        clusters: the prompt of each, [n]; by default each is its own.
        effect: the difference that `power` is about.
        seed: of the permutations.

    Raises:
        BadSetting: NaN, another shape, or figures outside [0, 1].

    Source: McNemar, 1947; Agresti and Min, 2005 (Statistics in Medicine 24).

    >>> found = paired([0, 0, 0, 0, 0, 1], [1, 1, 1, 1, 1, 1])
    >>> round(found.difference, 3), found.p
    (-0.833, 0.0625)
    """
    first, second = values(method, "figures"), values(baseline, "baseline figures")
    same_length(first, second, "figures", "baseline figures")
    if min(first.min(), second.min()) < 0 or max(first.max(), second.max()) > 1:
        raise BadSetting("expected figures between 0 and 1 to compare; scale them first")
    group, n = groups_of(clusters, len(first))
    each = np.bincount(group, first - second) / np.bincount(group)
    total, squares = float(each.sum()), float((each**2).sum())
    variance = (squares + 1 - total**2 / (n + 2)) / (n + 2) ** 2
    error, centre = math.sqrt(variance), total / (n + 2)
    return Paired(
        float(each.mean()),
        max(-1.0, centre - 1.96 * error),
        min(1.0, centre + 1.96 * error),
        _p_value(each, seed),
        _power(effect, error),
        effect,
        n,
    )


def _p_value(each: np.ndarray, seed: int) -> float:
    from scipy.stats import binomtest

    changed = each[each != 0]
    if not len(changed):
        return 1.0
    if (np.abs(changed) == 1).all():
        return float(binomtest(int((changed > 0).sum()), len(changed)).pvalue)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (DRAWS, len(changed)))
    as_far = np.abs(signs @ changed) >= abs(changed.sum()) - 1e-9
    return float((1 + as_far.sum()) / (DRAWS + 1))


def _power(effect: float, error: float) -> float:
    from scipy.stats import norm

    return float(norm.cdf(effect / error - 1.96) + norm.cdf(-effect / error - 1.96))
