"""95 % confidence intervals that resample prompts, not seeds.

Generations of one prompt resemble each other, so resampling single clips makes every interval too
narrow. Whole clusters are resampled instead: all clips of one prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anechoic.errors import BadSetting
from anechoic.metrics.inputs import (
    Array,
    Floats,
    Labels,
    numbered,
    values,
)

TAIL = 0.025  # on either side of a 95 % interval


@dataclass(frozen=True)
class Estimate:
    """A figure, its 95 % interval, and the number of clusters (prompts) behind it."""

    value: float
    low: float
    high: float
    n: int


def share_interval(hits: Array | Sequence[float], clusters: Labels | None = None) -> Estimate:
    """Share of the clips that hit, and its binomial interval, widened for clusters.

    A bootstrap without any hit gives an interval of width 0, as if the share were known to be 0.
    This one is Clopper and Pearson's, with the effective number of clips:

        n_eff = n / deff * (t_{n-1} / t_{clusters-1})^2,   or the number of clusters if p is 0 or 1

    where deff >= 1 is the variance of the share under clusters over that of n single clips.

    In simulations of 8 to 48 clusters it covers 94.7 to 99.7 %, the plain bootstrap 42 to 96 %.

    Args:
        hits: 1 or True for each clip that hits, 0 or False for each that does not, [n].
        clusters: the prompt of each clip, [n]; by default each clip is its own.

    Raises:
        BadSetting: anything but 0 and 1, or fewer than two clusters.

    Source: Korn and Graubard, Survey Methodology 24, 1998; Clopper and Pearson, 1934.

    No copy from 12 prompts: the share may still be up to 1 - 0.025^(1/12).

    >>> e = share_interval([0] * 48, clusters=[i // 4 for i in range(48)])
    >>> e.low, round(e.high, 4), e.n
    (0.0, 0.2646, 12)
    """
    from scipy.special import betaincinv

    x = values(hits, "hits", least=2)
    if not np.isin(x, (0.0, 1.0)).all():
        raise BadSetting(
            f"expected hits of 0 or 1, got figures from {x.min():g} to {x.max():g}; compare "
            "them with a threshold, or use mean_interval"
        )
    group, n = groups_of(clusters, len(x))
    p = float(x.mean())
    worth = _effective_clips(x, group, n)
    low = float(betaincinv(worth * p, worth * (1 - p) + 1, TAIL)) if p > 0 else 0.0
    high = float(betaincinv(worth * p + 1, worth * (1 - p), 1 - TAIL)) if p < 1 else 1.0
    return Estimate(p, low, high, n)


def groups_of(clusters: Labels | None, rows: int) -> tuple[NDArray[np.int64], int]:
    group = np.arange(rows) if clusters is None else numbered(clusters, rows, "clusters")
    n = len(np.unique(group))
    if n < 2:
        raise BadSetting(
            f"expected two or more prompts to resample, got {n} ({rows} clips); one prompt says "
            "nothing about others: generate from more"
        )
    return group, n


def _effective_clips(x: Floats, group: NDArray[Any], n: int) -> float:
    """The number of independent clips with as much information as these in n clusters."""
    from scipy.special import stdtrit

    p = x.mean()
    if p in (0.0, 1.0):
        return float(n)
    off = np.bincount(group, x - p)
    variance = n / (n - 1) * (off @ off) / len(x) ** 2
    deff = max(variance / (p * (1 - p) / (len(x) - 1)), 1.0)
    return float(len(x) / deff * (stdtrit(len(x) - 1, TAIL) / stdtrit(n - 1, TAIL)) ** 2)
