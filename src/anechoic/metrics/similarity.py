"""Summarises the similarity of clips to the training set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from anechoic.metrics.inputs import (
    Array,
    values,
)


@dataclass(frozen=True)
class Similarity:
    """The distribution of top-1 similarities."""

    mean: float
    p75: float  # percentiles, linear between two figures
    p90: float
    p95: float
    maximum: float
    over: Mapping[float, float]  # threshold: share of the clips that are strictly over it
    n: int


def top1_summary(top1: Array | Sequence[float], thresholds: Sequence[float] = ()) -> Similarity:
    """Summarise top-1 similarities: mean, percentiles, maximum and shares over thresholds.

    Args:
        top1: the similarity of each clip to its nearest training clip, [n].
        thresholds: report the share of clips above each.

    Raises:
        BadSetting: no figures, NaN, or another shape.

    Source: Somepalli et al., 2023 (arXiv:2212.03860, arXiv:2305.20086).

    >>> s = top1_summary([0.1, 0.2, 0.3, 0.4, 0.9], thresholds=(0.4, 0.5))
    >>> s.p75, s.maximum, s.over
    (0.4, 0.9, {0.4: 0.2, 0.5: 0.2})
    """
    scores = values(top1, "top-1 similarities")
    p75, p90, p95 = np.percentile(scores, (75, 90, 95)).tolist()
    over = {float(limit): float((scores > limit).mean()) for limit in thresholds}
    return Similarity(float(scores.mean()), p75, p90, p95, float(scores.max()), over, len(scores))
