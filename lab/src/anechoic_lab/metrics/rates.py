"""How good a detector is: how often it finds copies, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from anechoic.detectors import Calibration
from anechoic.errors import BadSetting


class ConfidenceInterval(NamedTuple):
    """A figure and its confidence interval."""

    value: float
    low: float
    high: float


def auc(
    positive: Sequence[float], null: Sequence[float], confidence: float = 0.95
) -> ConfidenceInterval:
    """The chance that a copy scores above held-out sound, ties counting half (Mann-Whitney).

    The interval inverts the score test with Hanley and McNeil's variance: unlike DeLong's or a
    bootstrap's it does not shrink to a point where the two sets are apart.

    Raises:
        BadSetting: an empty set, or a score that is NaN.

    Source: Newcombe, Confidence intervals for an effect size measure based on the Mann-Whitney
    statistic, part 2, method 5, 2006.

    >>> auc([2.0, 3.0, 4.0], [0.0, 1.0, 2.0]).value
    0.9444444444444444
    """
    from scipy.optimize import brentq
    from scipy.stats import norm, rankdata

    m, n = len(positive), len(null)
    if not m or not n or any(map(math.isnan, [*positive, *null])):
        raise BadSetting(f"scores were expected on both sides, none NaN; got {m} and {n}")
    ranks = rankdata([*positive, *null])[:m].sum()
    value = float((ranks - m * (m + 1) / 2) / (m * n))
    z, weight = float(norm.ppf((1 + confidence) / 2)), (m + n) / 2 - 1

    def excess(theta: float) -> float:
        spread = 1 + weight * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return abs(theta - value) - z * math.sqrt(theta * (1 - theta) * spread / (m * n))

    aside = 1e-12  # at 0 and 1 the spread is 0, which is a root, but not the one
    low = brentq(excess, 0.0, value - aside) if value > 0 else 0.0
    high = brentq(excess, value + aside, 1.0) if value < 1 else 1.0
    return ConfidenceInterval(value, float(low), float(high))


def true_positive_rate(positive: Sequence[float], calibration: Calibration) -> ConfidenceInterval:
    """The share of copies that score above the threshold, with its Clopper-Pearson interval.

    The interval takes the threshold as given; `calibration.false_positive_interval` says what its
    rate of false positives is.

    Raises:
        BadSetting: no copies.
    """
    from scipy.stats import binomtest

    if not positive:
        raise BadSetting("expected the scores of one copy or more, got none")
    share = binomtest(sum(map(calibration.exceeds, positive)), len(positive))
    low, high = share.proportion_ci(calibration.confidence)
    return ConfidenceInterval(float(share.statistic), float(low), float(high))
