"""How good a detector is, against SciPy and simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from anechoic_lab.metrics import auc, true_positive_rate
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, mannwhitneyu, norm

from anechoic.detectors import Calibration
from anechoic.errors import BadSetting


@settings(max_examples=40, deadline=None)
@given(
    positive=st.lists(st.integers(0, 9), min_size=1, max_size=30),
    null=st.lists(st.integers(0, 9), min_size=1, max_size=30),
)
def test_auc_is_the_statistic_of_mann_and_whitney(positive: list[int], null: list[int]) -> None:
    estimate = auc(positive, null)
    expected = mannwhitneyu(positive, null).statistic / (len(positive) * len(null))
    assert estimate.value == pytest.approx(expected)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    mirrored = auc(null, positive)
    assert mirrored.low == pytest.approx(1 - estimate.high, abs=1e-6)


def test_the_interval_of_the_auc_covers_it() -> None:
    """Normals a deviation apart have an AUC of Phi(1 / sqrt 2)."""
    rng, truth, covered = np.random.default_rng(4), norm.cdf(1 / math.sqrt(2)), 0
    for _ in range(400):
        estimate = auc(rng.normal(1, 1, 25).tolist(), rng.normal(0, 1, 60).tolist())
        covered += estimate.low <= truth <= estimate.high
    assert covered / 400 == pytest.approx(0.95, abs=0.035)


def test_sets_that_are_apart_do_not_have_a_certain_auc() -> None:
    few, many = (auc(range(10, 10 + n), range(-n, 0)) for n in (5, 50))
    assert few.value == many.value == few.high == 1.0
    assert few.low < many.low < 1.0


def test_the_true_positive_rate_counts_what_is_above_the_threshold() -> None:
    calibration = Calibration("d", tuple(range(99)), 0.1)  # k = 10: above 89
    assert calibration.threshold == 89
    estimate = true_positive_rate([89, 90, 91, 12], calibration)
    low, high = binomtest(2, 4).proportion_ci(0.95, "exact")
    assert estimate == (0.5, low, high)


def test_rates_of_no_copies_are_refused() -> None:
    calibration = Calibration("d", tuple(range(99)), 0.1)
    with pytest.raises(BadSetting, match="one copy or more"):
        true_positive_rate([], calibration)
    with pytest.raises(BadSetting, match="on both sides"):
        auc([], calibration.null)
