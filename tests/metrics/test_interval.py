"""Intervals hold what they should as often as they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from anechoic_lab.metrics import (
    Gaussian,
    KernelReference,
    difference_interval,
    frechet_distance,
    kernel_distance,
    mean_interval,
    statistic_interval,
    warning,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, t

from anechoic.errors import BadSetting
from anechoic.metrics import Estimate, share_interval

PROMPTS = st.lists(st.sampled_from("abcdef"), min_size=2, max_size=30).filter(
    lambda labels: len(set(labels)) > 1
)


@settings(max_examples=30)
@given(labels=PROMPTS, seed=st.integers(0, 99))
def test_an_interval_holds_its_value_and_stays_among_the_figures(labels, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal(len(labels))
    found = mean_interval(x, labels, resamples=50, seed=seed)
    assert found == mean_interval(x, labels, resamples=50, seed=seed)
    assert x.min() - 1e-12 <= found.low <= found.value <= found.high <= x.max() + 1e-12
    assert found.value == pytest.approx(x.mean())
    assert found.n == len(set(labels))


@settings(max_examples=30)
@given(scale=st.floats(0.01, 100), shift=st.floats(-100, 100))
def test_an_interval_moves_and_stretches_with_its_figures(scale: float, shift: float) -> None:
    x, labels = np.random.default_rng(0).standard_normal(12), list("aabbccddeeff")
    plain = mean_interval(x, labels, resamples=50)
    moved = mean_interval(shift + scale * x, labels, resamples=50)
    for end in ("value", "low", "high"):
        assert getattr(moved, end) == pytest.approx(shift + scale * getattr(plain, end), abs=1e-9)


def test_the_mean_of_many_clips_has_nearly_the_t_interval() -> None:
    x = np.random.default_rng(0).standard_normal(400)
    found = mean_interval(x, resamples=4000)
    half = t.ppf(0.975, 399) * x.std(ddof=1) / 20
    assert found.low == pytest.approx(x.mean() - half, abs=0.01)
    assert found.high == pytest.approx(x.mean() + half, abs=0.01)


def test_resampling_prompts_covers_95_percent_where_resampling_seeds_does_not() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(12), 4)
    by_prompt, by_seed = [], []
    for _ in range(200):
        x = np.repeat(rng.standard_normal(12), 4) + 0.3 * rng.standard_normal(48)  # true mean 0
        for hits, clusters in ((by_prompt, labels), (by_seed, None)):
            found = mean_interval(x, clusters, resamples=200)
            hits.append(found.low <= 0 <= found.high)
    assert 0.9 <= np.mean(by_prompt) <= 1  # three errors of 200 trials
    assert np.mean(by_seed) < 0.8


def test_labels_of_any_kind_name_the_same_clusters() -> None:
    x = np.arange(6.0)
    found = mean_interval(x, ["dog", "dog", "cat", "cat", "owl", "owl"], resamples=50)
    for labels in (torch.tensor([7, 7, 3, 3, 5, 5]), np.array([1, 1, 0, 0, 9, 9]), "ddccoo"):
        assert mean_interval(x, labels, resamples=50) == found


# --------------------------------------------------------------------------------- shares


@given(hits=st.lists(st.booleans(), min_size=2, max_size=40))
def test_a_share_of_single_clips_has_clopper_and_pearsons_interval(hits: list[bool]) -> None:
    found = share_interval(hits)
    exact = binomtest(sum(hits), len(hits)).proportion_ci(0.95, "exact")
    assert found.value == pytest.approx(np.mean(hits))
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high))


@given(hits=st.lists(st.booleans(), min_size=2, max_size=12), seeds=st.integers(1, 6))
def test_seeds_that_always_agree_are_worth_one_clip_a_prompt(hits: list[bool], seeds: int) -> None:
    labels = np.repeat(np.arange(len(hits)), seeds)
    found, single = share_interval(np.repeat(hits, seeds), labels), share_interval(hits)
    assert found.value == single.value
    if single.value in (0.0, 1.0):
        assert found == single
    else:  # wider by the fewer degrees of freedom, and by (n - 1) / n
        assert found.low <= single.low + 0.02
        assert found.high >= single.high - 0.02


def test_no_copy_among_few_prompts_is_not_reported_as_certainty() -> None:
    clusters = np.repeat(np.arange(12), 5)
    none, some = share_interval(np.zeros(60), clusters), share_interval(np.ones(60), clusters)
    assert (none.value, none.low) == (0.0, 0.0)
    assert none.high == pytest.approx(1 - 0.025 ** (1 / 12))
    assert (some.value, some.high) == (1.0, 1.0)
    assert some.low == pytest.approx(0.025 ** (1 / 12))


@pytest.mark.parametrize(("share", "agreement"), [(0.02, 0.1), (0.1, 0.25), (0.8, 0.5)])
def test_a_share_is_covered_where_the_bootstrap_fails(share: float, agreement: float) -> None:
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(12), 4)
    strength = 1 / agreement - 1  # of the beta distribution that gives seeds this correlation
    exact, bootstrap = [], []
    for _ in range(300):
        chance = rng.beta(share * strength, (1 - share) * strength, 12)
        hits = (rng.random(48) < np.repeat(chance, 4)).astype(float)
        found, drawn = share_interval(hits, labels), mean_interval(hits, labels, resamples=100)
        exact.append(found.low <= share <= found.high)
        bootstrap.append(drawn.low <= share <= drawn.high)
    assert np.mean(exact) > 0.93
    assert np.mean(bootstrap) < np.mean(exact)


def test_only_hits_have_a_share() -> None:
    with pytest.raises(BadSetting, match=r"hits of 0 or 1, got figures from 0 to 0\.5"):
        share_interval([0.0, 0.5])


# ---------------------------------------------------------------------------- differences


def test_a_difference_that_is_the_same_everywhere_is_known_exactly() -> None:
    baseline = np.random.default_rng(0).integers(0, 64, 20) / 64
    assert difference_interval(baseline - 0.25, baseline) == Estimate(-0.25, -0.25, -0.25, 20)


def test_a_paired_difference_is_narrower_than_what_is_compared() -> None:
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(15), 3)
    baseline = np.repeat(rng.standard_normal(15), 3) + 0.1 * rng.standard_normal(45)
    method = baseline - 0.2 + 0.1 * rng.standard_normal(45)
    paired, alone = difference_interval(method, baseline, labels), mean_interval(method, labels)
    assert paired.high < 0  # the method lowers it
    assert paired.high - paired.low < (alone.high - alone.low) / 4
    swapped = difference_interval(baseline, method, labels)
    assert swapped.value == pytest.approx(-paired.value)


# ------------------------------------------------------------------------- whole sets


def test_the_mean_as_a_statistic_has_the_interval_of_the_mean() -> None:
    x, labels = np.random.default_rng(0).standard_normal(24), np.repeat(np.arange(8), 3)
    found = statistic_interval(np.mean, x, clusters=labels, resamples=4000)
    expected = mean_interval(x, labels, resamples=4000)
    assert found.value == pytest.approx(expected.value)
    assert found.low == pytest.approx(expected.low, abs=0.02)  # moved by the error of 4000 draws
    assert found.high == pytest.approx(expected.high, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fad", "kad"])
def test_fad_and_kad_are_covered_though_resamples_hold_clips_twice(name: str) -> None:
    rng, d, n = np.random.default_rng(0), 8, 20
    reference = rng.standard_normal((200, d))
    gaussian, kernel = Gaussian.of(reference), KernelReference.of(reference)

    def distance(x: np.ndarray) -> float:
        return frechet_distance(gaussian, x) if name == "fad" else kernel_distance(kernel, x)

    draws = [rng.standard_normal((n, d)) + 0.4 for _ in range(1000)]
    true = np.mean([distance(x) for x in draws])
    moved, plain = [], []
    for x in draws[:50]:
        found = statistic_interval(distance, x, resamples=60)
        moved.append(found.low <= true <= found.high)
        again = np.random.default_rng(0)
        drawn = [distance(x[again.integers(0, n, n)]) for _ in range(60)]
        low, high = np.quantile(drawn, [0.025, 0.975])
        plain.append(low <= true <= high)
    assert np.mean(moved) > 0.9
    assert np.mean(plain) < np.mean(moved) - 0.1


def test_two_sets_are_resampled_by_the_same_prompts() -> None:
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(6), 2)
    baseline = rng.standard_normal((12, 4))
    kernel = KernelReference.of(rng.standard_normal((50, 4)))

    def better(a: np.ndarray, b: np.ndarray) -> float:
        return kernel_distance(kernel, a) - kernel_distance(kernel, b)

    same = statistic_interval(better, baseline, baseline.copy(), clusters=labels, resamples=30)
    assert same == Estimate(0.0, 0.0, 0.0, 6)
    worse = statistic_interval(better, baseline + 3, baseline, clusters=labels, resamples=100)
    assert worse.low > 0


def test_clips_of_a_prompt_are_drawn_together() -> None:
    seen = []

    def whole(x: np.ndarray) -> float:
        seen.append(sorted(x.tolist()))
        return 0.0

    statistic_interval(whole, np.array([0, 10, 1, 11, 2]), clusters=list("abacb"), resamples=40)
    members = ([0, 1], [10, 2], [11])
    for drawn in seen[1:]:
        counts = [[drawn.count(x) for x in clips] for clips in members]
        assert all(len(set(c)) == 1 for c in counts)
        assert sum(c[0] for c in counts) == 3


def test_what_has_no_interval_is_refused() -> None:
    with pytest.raises(BadSetting, match=r"two or more prompts to resample, got 1 \(3 clips\)"):
        mean_interval([1.0, 2.0, 3.0], clusters=["dog"] * 3)
    with pytest.raises(BadSetting, match="2 or more figures, got 1"):
        mean_interval([1.0])
    with pytest.raises(BadSetting, match="as many clusters as rows, got 2 and 3"):
        mean_interval([1.0, 2.0, 3.0], clusters=["dog", "cat"])
    with pytest.raises(BadSetting, match="NaN or infinity in 1 of 2"):
        mean_interval([1.0, float("nan")])
    with pytest.raises(BadSetting, match="as many figures as baseline figures, got 2 and 3"):
        difference_interval([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(BadSetting, match="one set or more, got none"):
        statistic_interval(lambda: 0.0)
    with pytest.raises(BadSetting, match="as many rows of one set as of another, got 2 and 3"):
        statistic_interval(lambda a, b: 0.0, np.eye(2), np.eye(3))
    with pytest.raises(BadSetting, match="finite for every resample"):
        statistic_interval(lambda x: float("nan"), np.eye(3), resamples=2)
    with pytest.raises(BadSetting, match="one resample or more, got 0"):
        mean_interval([1.0, 2.0], resamples=0)


def test_a_warning_is_given_for_few_clips_and_none_for_many() -> None:
    assert warning(24, 512) == (
        "FAD in 512-d from 24 clips is biased upward, as they span 23 dimensions at most: use KAD"
    )
    assert warning(1000, 512) == (
        "FAD in 512-d from 1000 clips is biased upward, by up to 13% of the variance: use KAD, or "
        "extrapolate FAD"
    )
    assert warning(2560, 512) is None
