"""Two methods on the same prompts."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from anechoic.errors import BadSetting
from anechoic.metrics import paired


def test_shares_are_tested_as_mcnemar_does():
    ours, theirs = [0] * 12 + [1] * 8, [1] * 9 + [0] * 3 + [1] * 6 + [0] * 2
    found = paired(ours, theirs)
    assert found.difference == pytest.approx(-7 / 20)
    assert found.p == binomtest(2, 11).pvalue
    assert found.low < -7 / 20 < found.high


def test_the_interval_covers_the_true_difference():
    rng = np.random.default_rng(0)
    true = 0.3 - (0.3 * 0.8 + 0.7 * 0.2)
    covered = 0
    for _ in range(400):
        draws = rng.random((60, 2))
        first = (draws[:, 0] < 0.3).astype(float)
        second = np.where(draws[:, 1] < 0.2, 1 - first, first)
        found = paired(first, second)
        covered += found.low <= true <= found.high
    assert 0.92 <= covered / 400 <= 0.98


def test_the_power_is_how_often_the_effect_is_found():
    rng = np.random.default_rng(0)
    n, found, power = 150, 0, []
    for _ in range(200):
        draws = rng.random(n)  # better in .2 of the pairs, worse in .1
        ours, theirs = draws < 0.2, (draws >= 0.2) & (draws < 0.3)
        one = paired(ours.astype(float), theirs.astype(float))
        found += one.p < 0.05
        power.append(one.power)
    assert found / 200 == pytest.approx(np.mean(power), abs=0.12)  # the exact test is cautious


def test_seeds_of_a_prompt_count_as_one():
    ours, theirs = [0.0, 0.0, 0.0, 0.0] * 3, [1.0, 1.0, 1.0, 1.0] * 3
    prompts = [name for name in "abc" for _ in range(4)]
    found = paired(ours, theirs, prompts)
    assert found.n == 3
    assert found.p == 0.25


def test_graded_figures_are_permuted_and_no_difference_is_no_certainty():
    rng = np.random.default_rng(0)
    x = rng.random(40)
    assert paired(0.8 * x, x).p < 0.01
    assert paired(x, x[rng.permutation(40)]).p > 0.05
    same = paired(x, x)
    assert (same.difference, same.p) == (0.0, 1.0)
    assert same.low < 0 < same.high


def test_figures_outside_zero_and_one_are_refused():
    with pytest.raises(BadSetting, match="between 0 and 1"):
        paired([0.0, 2.0], [0.0, 1.0])
