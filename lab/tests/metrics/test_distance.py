"""FAD and KAD: closed forms, independent references, invariances, and what few clips do to them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from anechoic_lab.metrics import (
    Gaussian,
    KernelReference,
    frechet_distance,
    frechet_distance_extrapolated,
    inputs,
    kernel_distance,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist, pdist
from scipy.stats import ortho_group

from anechoic.errors import BadSetting

SEEDS = st.integers(0, 2**32 - 1)


def draw(seed: int, n: int, d: int, shift: float = 0.0, spread: float = 1.0) -> np.ndarray:
    """Clips whose directions are neither alike nor independent."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((d, d)) / np.sqrt(d) + np.eye(d)
    return shift + spread * rng.standard_normal((n, d)) @ mix


def by_matrix_roots(a: np.ndarray, b: np.ndarray) -> float:
    """The formula as it stands in the paper."""
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = sqrtm(first @ second).real
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first + second - 2 * root))


def by_symmetric_roots(a: np.ndarray, b: np.ndarray) -> float:
    """With eigenvalues, which stand for singular covariances too, to half the digits."""
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(first)
    half = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(half @ second @ half).clip(0)).sum()
    traces = np.trace(first) + np.trace(second)
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + traces - 2 * shared)


def by_pairs(x: np.ndarray, y: np.ndarray, bandwidth: float) -> float:
    """The unbiased squared discrepancy, times 100, kernel by kernel."""

    def k(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.exp(-cdist(a, b, "sqeuclidean") / (2 * bandwidth**2))

    m, n = len(x), len(y)
    xx = sum(k(x, x)[i, j] for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    yy = sum(k(y, y)[i, j] for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return 100 * float(xx + yy - 2 * k(x, y).mean())


# ------------------------------------------------------------------------------------ FAD


@given(seed=SEEDS, n=st.integers(2, 30), d=st.integers(1, 20))
def test_fad_of_a_set_with_itself_is_zero(seed: int, n: int, d: int) -> None:
    x = draw(seed, n, d)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-12 * n * d)


@settings(max_examples=30)
@given(seed=SEEDS, d=st.integers(2, 8))
def test_fad_equals_the_papers_formula_with_matrix_roots(seed: int, d: int) -> None:
    a, b = draw(seed, 60, d), draw(seed + 1, 80, d, shift=0.7, spread=1.5)
    assert frechet_distance(a, b) == pytest.approx(by_matrix_roots(a, b), rel=1e-6)


@settings(max_examples=30)
@given(seed=SEEDS, n=st.integers(2, 12), m=st.integers(2, 40))
def test_fad_of_fewer_clips_than_dimensions_equals_that_by_eigenvalues(
    seed: int, n: int, m: int
) -> None:
    a, b = draw(seed, n, 16), draw(seed + 1, m, 16, shift=0.3)
    # eigenvalues of 1e-15 have roots of 3e-8, and there are up to 16 of them
    assert frechet_distance(a, b) == pytest.approx(by_symmetric_roots(a, b), abs=1e-5)


def test_fad_of_gaussians_whose_axes_agree_has_its_closed_form() -> None:
    first = Gaussian(np.array([0.0, 1.0, 2.0]), np.diag([1.0, 2.0, 3.0]))
    second = Gaussian(np.array([1.0, 1.0, 0.0]), np.diag([3.0, 2.0, 0.5]))
    expected = (1 + 0 + 4) + (2**2 + 0 + 2.5**2)  # means, then standard deviations
    assert frechet_distance(first, second) == pytest.approx(expected, abs=1e-12)


def test_fad_of_two_lines_at_an_angle_has_its_closed_form() -> None:
    line = np.array([[-1.0], [1.0]]) / np.sqrt(2)  # variance 1, along one direction
    angle = 0.3
    a, b = line * [1.0, 0.0], line * [np.cos(angle), np.sin(angle)]
    assert frechet_distance(a, b) == pytest.approx(2 - 2 * np.cos(angle), abs=1e-12)


@given(seed=SEEDS, scale=st.floats(0.01, 100), far=st.floats(-100, 100))
def test_fad_is_unmoved_by_rotation_translation_and_order_and_grows_as_the_square_of_scale(
    seed: int, scale: float, far: float
) -> None:
    a, b = draw(seed, 9, 5), draw(seed + 1, 7, 5, shift=1.0)
    plain = frechet_distance(a, b)
    turn = ortho_group.rvs(5, random_state=seed)
    rng = np.random.default_rng(seed)
    assert frechet_distance(b, a) == pytest.approx(plain)
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(plain)
    assert frechet_distance(a + far, b + far) == pytest.approx(plain, abs=1e-9)
    assert frechet_distance(rng.permutation(a), rng.permutation(b)) == pytest.approx(plain)
    assert frechet_distance(scale * a, scale * b) == pytest.approx(scale**2 * plain)
    wider = [np.pad(x, ((0, 0), (0, 40))) for x in (a, b)]
    assert frechet_distance(*wider) == pytest.approx(plain)


def test_fad_needs_a_reference_measured_only_once() -> None:
    a, b = draw(0, 50, 6), draw(1, 4, 6)
    assert frechet_distance(Gaussian.of(a), b) == frechet_distance(a, b)


def test_fad_of_one_distribution_is_about_the_stated_share_of_the_variance_above_zero() -> None:
    d, n = 32, 160
    true = Gaussian(np.zeros(d), np.eye(d))
    rng = np.random.default_rng(0)
    found = [frechet_distance(true, rng.standard_normal((n, d))) / d for _ in range(20)]
    assert np.mean(found) == pytest.approx((d + 5) / (4 * n), rel=0.06)  # first order in d / n


def test_extrapolated_fad_comes_to_the_true_distance_and_with_replacement_does_not() -> None:
    d, n = 8, 300
    true = Gaussian(np.zeros(d), np.eye(d))
    plain, without, replaced = [], [], []
    for seed in range(30):
        x = np.random.default_rng(seed).standard_normal((n, d)) + np.eye(d)[0] / 2
        plain.append(frechet_distance(true, x))
        for found, replace in ((without, False), (replaced, True)):
            line = frechet_distance_extrapolated(
                true, x, least=60, steps=12, replace=replace, seed=seed
            )
            found.append(line.value)
    error = 3 * np.std(without) / np.sqrt(30)
    assert abs(np.mean(without) - 0.25) < error
    assert np.mean(plain) - 0.25 > 2 * error
    assert np.mean(replaced) - 0.25 > 2 * error


def test_extrapolated_fad_is_a_straight_line_through_its_points_and_the_same_each_time() -> None:
    reference, x = draw(0, 200, 4), draw(1, 120, 4, shift=0.5)
    line = frechet_distance_extrapolated(reference, x, least=20, steps=11)
    assert line == frechet_distance_extrapolated(reference, x, least=20, steps=11)
    assert line.sizes == (*range(20, 120, 10), 120)
    assert line.distances[-1] == pytest.approx(frechet_distance(reference, x))
    inverse, y = 1 / np.array(line.sizes), np.array(line.distances)
    assert line.r2 == pytest.approx(np.corrcoef(inverse, y)[0, 1] ** 2)
    assert (y - line.value - line.slope * inverse).sum() == pytest.approx(0, abs=1e-9)


# ------------------------------------------------------------------------------------ KAD


@settings(max_examples=25)
@given(seed=SEEDS, m=st.integers(2, 12), n=st.integers(2, 12), d=st.integers(1, 6))
def test_kad_equals_the_sum_over_all_pairs(seed: int, m: int, n: int, d: int) -> None:
    x, y = draw(seed, m, d), draw(seed + 1, n, d, shift=0.5)
    expected = by_pairs(x, y, float(np.median(pdist(x))))
    assert kernel_distance(x, y) == pytest.approx(expected, abs=1e-9)


def test_kad_is_the_same_whatever_fits_into_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = draw(0, 23, 3), draw(1, 17, 3)
    whole = kernel_distance(x, y)
    monkeypatch.setattr(inputs, "CELLS", 40)
    assert kernel_distance(x, y) == pytest.approx(whole, abs=1e-10)


def test_kad_of_single_points_far_apart_has_its_closed_form() -> None:
    x, y = np.array([[0.0], [1.0]]), np.array([[1e6], [1e6 + 3]])
    # no kernel reaches across; bandwidth 1
    assert kernel_distance(x, y) == pytest.approx(100 * (np.exp(-0.5) + np.exp(-4.5)))


@pytest.mark.slow
def test_kad_is_unbiased_for_any_number_of_clips() -> None:
    d, bandwidth, shift = 3, 1.5, 0.8
    rng = np.random.default_rng(0)
    found = [
        kernel_distance(
            KernelReference.of(rng.standard_normal((3, d)), bandwidth),
            rng.standard_normal((4, d)) + np.eye(d)[0] * shift,
        )
        for _ in range(6000)
    ]
    wide = bandwidth**2 + 2  # the kernel of two normal points, in closed form
    expected = 100 * 2 * (bandwidth**2 / wide) ** (d / 2) * (1 - np.exp(-(shift**2) / (2 * wide)))
    assert abs(np.mean(found) - expected) < 3 * np.std(found) / np.sqrt(len(found))


def test_kad_of_one_distribution_is_around_zero_where_fad_is_far_above() -> None:
    rng = np.random.default_rng(0)
    reference = rng.standard_normal((300, 64))
    gaussian, kernel = Gaussian.of(reference), KernelReference.of(reference)
    draws = [rng.standard_normal((24, 64)) for _ in range(60)]
    kad = [kernel_distance(kernel, x) for x in draws]
    assert min(kad) < 0 < max(kad)
    assert abs(np.mean(kad)) < 3 * np.std(kad) / np.sqrt(60)
    assert min(frechet_distance(gaussian, x) for x in draws) > 0.5 * 64  # half the variance


@given(seed=SEEDS, scale=st.floats(0.01, 100), far=st.floats(-1000, 1000))
def test_kad_is_unmoved_by_rotation_translation_order_and_scale(
    seed: int, scale: float, far: float
) -> None:
    x, y = draw(seed, 9, 5), draw(seed + 1, 7, 5, shift=1.0)
    rng, turn = np.random.default_rng(seed), ortho_group.rvs(5, random_state=seed)
    plain = kernel_distance(x, y)
    assert kernel_distance(x @ turn, y @ turn) == pytest.approx(plain, abs=1e-9)
    assert kernel_distance(x + far, y + far) == pytest.approx(plain, abs=1e-6)
    assert kernel_distance(rng.permutation(x), rng.permutation(y)) == pytest.approx(plain, abs=1e-9)
    assert kernel_distance(scale * x, scale * y) == pytest.approx(plain, abs=1e-9)


def test_the_kernel_is_that_of_the_reference_whatever_is_compared() -> None:
    x, near, far = draw(0, 9, 4), draw(1, 8, 4), draw(2, 8, 4, spread=9.0)
    reference = KernelReference.of(x)
    assert reference.bandwidth == pytest.approx(float(np.median(pdist(x))))
    for y in (near, far):
        assert kernel_distance(reference, y) == kernel_distance(x, y)
    assert kernel_distance(x, near) != pytest.approx(kernel_distance(near, x))


def test_a_reference_of_copies_has_no_bandwidth_of_its_own() -> None:
    copies = np.concatenate([np.tile(draw(0, 1, 6), (20, 1)), draw(1, 3, 6)])
    with pytest.raises(BadSetting, match="copies; merge them, or give a bandwidth"):
        KernelReference.of(copies)
    assert KernelReference.of(copies, bandwidth=2.0).bandwidth == 2.0
    with pytest.raises(BadSetting, match="expected a kernel bandwidth over 0, got 0"):
        KernelReference.of(copies, bandwidth=0.0)


# ----------------------------------------------------------------------------------- both


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_tensors_and_arrays_give_the_same_distance(distance) -> None:
    a, b = torch.randn(9, 4, generator=torch.Generator().manual_seed(0)), torch.eye(4)
    assert distance(a, b) == distance(a.numpy(), b.double().numpy())
    assert distance(a.bfloat16().requires_grad_(), b) == pytest.approx(distance(a, b), abs=0.1)


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((0, 4)), "2 or more .*, got 0"),
        (np.zeros((1, 4)), "2 or more .*, got 1"),
        (np.zeros(4), r"as \[n, d\], got shape \[4\]"),
        (np.zeros((3, 0)), r"got shape \[3, 0\]"),
        (np.array([[0.0, 1, 2, 3], [0, 1, np.nan, 3]]), "NaN or infinity in 1 of 2, first in .* 1"),
        (np.eye(5), "4 and 5 dimensions"),
    ],
)
def test_what_has_no_distance_is_refused_in_one_sentence(distance, bad, message: str) -> None:
    with pytest.raises(BadSetting, match=message):
        distance(draw(0, 9, 4), bad)


def test_too_few_clips_to_extrapolate_from_are_refused() -> None:
    x = draw(0, 50, 3)
    with pytest.raises(BadSetting, match=r"524 or more clips .* got 50; generate more, or lower"):
        frechet_distance_extrapolated(x, x)
    with pytest.raises(BadSetting, match="3 or more draws"):
        frechet_distance_extrapolated(x, x, least=5, steps=2)
