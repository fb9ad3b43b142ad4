"""Similarity, adherence, diversity and KL: closed forms, independent references, invariances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from anechoic_lab.metrics import (
    background,
    by_prompt,
    clap_score,
    cosine_distance,
    cosine_per_pair,
    inputs,
    kl_of_means,
    kl_paired,
    kl_per_pair,
    label_accuracy,
    label_hits,
    leave_one_out,
    vendi_score,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist, pdist
from scipy.stats import entropy, ortho_group

import anechoic.metrics
from anechoic.errors import BadSetting
from anechoic.metrics import top1_summary

SEEDS = st.integers(0, 2**32 - 1)


def draw(seed: int, n: int, d: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d))


def probabilities(seed: int, n: int, classes: int) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(classes), n)


@pytest.mark.parametrize("name", anechoic.metrics.__all__)
def test_a_metric_says_what_it_is(name: str) -> None:
    text = getattr(anechoic.metrics, name).__doc__ or ""
    assert len(text.splitlines()[0]) > 10
    assert not text.startswith(f"{name}("), "a dataclass without one is given its signature"


# ----------------------------------------------------------------------------- similarity


def test_a_summary_of_evenly_spread_similarities_has_its_closed_form() -> None:
    found = top1_summary(np.arange(101) / 100, thresholds=(0.5, 0.9))
    assert (found.mean, found.p75, found.p90, found.p95) == pytest.approx((0.5, 0.75, 0.9, 0.95))
    assert (found.maximum, found.n) == (1.0, 101)
    assert found.over == {0.5: 50 / 101, 0.9: 10 / 101}  # strictly over


def test_leave_one_out_equals_a_search_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    x, groups = draw(0, 40, 6), np.repeat(np.arange(20), 2)
    cosines = 1 - cdist(x, x, "cosine")
    np.fill_diagonal(cosines, -1)
    whole = leave_one_out(x)
    assert whole == pytest.approx(cosines.max(1))
    cosines[groups[:, None] == groups] = -1
    apart = leave_one_out(x, groups=groups)
    assert apart == pytest.approx(cosines.max(1))
    monkeypatch.setattr(inputs, "CELLS", 130)  # blocks of three clips
    assert leave_one_out(x) == pytest.approx(whole, abs=1e-12)
    assert leave_one_out(x, groups=groups) == pytest.approx(apart, abs=1e-12)


def test_exact_duplicates_are_left_out_where_that_is_told() -> None:
    x = draw(0, 10, 5)
    doubled = np.concatenate([x, 3 * x])  # a cosine does not see the level
    assert leave_one_out(doubled) == pytest.approx(np.ones(20))
    assert leave_one_out(doubled, copies_over=0.9999) == pytest.approx(np.tile(leave_one_out(x), 2))


def test_the_background_is_the_summary_of_leave_one_out() -> None:
    x, groups = torch.randn(30, 4, generator=torch.Generator().manual_seed(0)), list("abcde") * 6
    scores = leave_one_out(x, groups=groups)
    assert background(x, (0.5,), groups=groups) == top1_summary(scores, (0.5,))


@settings(max_examples=25)
@given(seed=SEEDS, n=st.integers(2, 20), d=st.integers(1, 6))
def test_leave_one_out_is_unmoved_by_rotation_and_level_and_goes_with_order(
    seed: int, n: int, d: int
) -> None:
    x = draw(seed, n, d)
    plain = leave_one_out(x)
    assert (np.abs(plain) <= 1).all()
    levels = np.random.default_rng(seed).uniform(0.1, 10, (n, 1))
    turn = ortho_group.rvs(d, random_state=seed) if d > 1 else np.eye(1)
    assert leave_one_out(levels * x @ turn) == pytest.approx(plain)
    order = np.random.default_rng(seed).permutation(n)
    assert leave_one_out(x[order]) == pytest.approx(plain[order])


def test_a_clip_with_nothing_to_compare_with_is_refused() -> None:
    x = draw(0, 4, 3)
    near = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    with pytest.raises(BadSetting, match="got none for 1 of 3, first number 1; its group, or what"):
        leave_one_out(near, copies_over=0.5)
    with pytest.raises(BadSetting, match="got none for 4 of 4"):
        background(x, groups=["one file"] * 4)
    with pytest.raises(BadSetting, match="2 or more training embeddings, got 1"):
        background(x[:1])
    with pytest.raises(BadSetting, match="norm 0 in number 1"):
        background(np.array([[1.0, 0.0], [0.0, 0.0]]))


# ------------------------------------------------------------------------------ adherence


def test_the_clap_score_is_the_mean_cosine_of_pairs() -> None:
    text, audio = draw(0, 12, 8), draw(1, 12, 8)
    expected = F.cosine_similarity(torch.tensor(text), torch.tensor(audio))
    assert cosine_per_pair(text, audio) == pytest.approx(expected.numpy())
    assert clap_score(text, audio) == pytest.approx(float(expected.mean()))
    assert clap_score(text, 5 * text) == pytest.approx(1)
    assert clap_score(text, -text) == pytest.approx(-1)
    assert clap_score(audio, text) == pytest.approx(clap_score(text, audio))


def test_what_is_no_pair_has_no_clap_score() -> None:
    with pytest.raises(BadSetting, match="as many text embeddings as audio embeddings, got 3 and"):
        clap_score(draw(0, 3, 4), draw(1, 2, 4))
    with pytest.raises(BadSetting, match="text and audio of one embedder, got 4 and 5 dimensions"):
        clap_score(draw(0, 3, 4), draw(1, 3, 5))


def test_label_accuracy_is_the_share_of_labels_that_agree() -> None:
    assert label_accuracy(["a", "b", "c", "c"], ["a", "b", "b", "c"]) == 0.75
    assert label_hits(torch.tensor([1, 2]), torch.tensor([1, 0])).tolist() == [1.0, 0.0]
    with pytest.raises(BadSetting, match="1 or more labels, got 0"):
        label_accuracy([], [])
    with pytest.raises(BadSetting, match="as many predicted labels as wanted labels, got 1 and 2"):
        label_accuracy(["a"], ["a", "b"])


# ------------------------------------------------------------------------------ diversity


@settings(max_examples=25)
@given(seed=SEEDS, n=st.integers(2, 12), d=st.integers(1, 20))
def test_the_cosine_distance_of_seeds_equals_that_of_all_pairs(seed: int, n: int, d: int) -> None:
    x = draw(seed, n, d)
    assert cosine_distance(x) == pytest.approx(pdist(x, "cosine").mean(), abs=1e-12)


@settings(max_examples=25)
@given(seed=SEEDS, n=st.integers(2, 12), d=st.integers(1, 20))
def test_the_vendi_score_is_the_entropy_of_the_kernels_eigenvalues(
    seed: int, n: int, d: int
) -> None:
    x = draw(seed, n, d)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    eigenvalues = np.linalg.eigvalsh(unit @ unit.T / n).clip(0)
    found = vendi_score(x)
    assert found == pytest.approx(np.exp(entropy(eigenvalues)))
    assert 1 - 1e-12 <= found <= min(n, d) + 1e-12


@settings(max_examples=25)
@given(seed=SEEDS, copies=st.integers(1, 5))
def test_diversity_is_unmoved_by_rotation_order_and_level(seed: int, copies: int) -> None:
    x = draw(seed, 6, 4)
    turn = ortho_group.rvs(4, random_state=seed)
    rng = np.random.default_rng(seed)
    for metric in (cosine_distance, vendi_score):
        moved = rng.permutation(rng.uniform(0.1, 10, (6, 1)) * x @ turn)
        assert metric(moved) == pytest.approx(metric(x))
    assert vendi_score(np.tile(x, (copies, 1))) == pytest.approx(vendi_score(x))


def test_diversity_of_copies_is_none_and_of_orthogonal_clips_full() -> None:
    copies = np.tile(draw(0, 1, 7), (5, 1))
    assert cosine_distance(copies) == pytest.approx(0, abs=1e-12)
    assert vendi_score(copies) == pytest.approx(1)
    assert cosine_distance(np.eye(7)) == pytest.approx(1)
    assert vendi_score(np.eye(7)) == pytest.approx(7)


def test_each_prompt_has_its_own_diversity() -> None:
    x = np.concatenate([np.eye(3), np.tile(np.eye(3)[:1], (2, 1))])[[0, 3, 1, 4, 2]]
    found = by_prompt(vendi_score, x, ["dog", "cat", "dog", "cat", "dog"])
    assert found == pytest.approx({"dog": 3.0, "cat": 1.0})
    with pytest.raises(BadSetting, match="2 or more embeddings of one prompt, got 1"):
        by_prompt(vendi_score, x, ["dog", "cat", "dog", "dog", "dog"])


# ------------------------------------------------------------------------------------- KL


@settings(max_examples=25)
@given(seed=SEEDS, n=st.integers(1, 10), classes=st.integers(2, 30))
def test_kl_equals_scipys_and_the_published_code(seed: int, n: int, classes: int) -> None:
    p, q = probabilities(seed, n, classes), probabilities(seed + 1, n, classes)
    exact = [entropy(a, b) for a, b in zip(p, q, strict=True)]
    assert kl_per_pair(p, q, eps=0) == pytest.approx(np.array(exact))
    # AudioGen's: the generated clip's log probabilities first, the real clip's as the target
    published = F.kl_div((torch.tensor(q) + 1e-6).log(), torch.tensor(p), reduction="sum") / n
    assert kl_paired(p, q) == pytest.approx(float(published))


def test_kl_has_a_direction() -> None:
    certain, torn = np.array([[1.0, 0.0]]), np.array([[0.5, 0.5]])
    assert kl_paired(certain, torn, eps=0) == pytest.approx(np.log(2))  # reference || generated
    assert kl_paired(torn, certain) == pytest.approx(0.5 * np.log(0.25 / 1e-6), abs=1e-5)
    with pytest.raises(BadSetting, match="infinite KL; give an eps"):
        kl_paired(torn, certain, eps=0)


@settings(max_examples=25)
@given(seed=SEEDS, n=st.integers(1, 8))
def test_kl_falls_when_clips_are_averaged_or_classes_merged_and_classes_have_no_order(
    seed: int, n: int
) -> None:
    p, q = probabilities(seed, n, 6), probabilities(seed + 1, n, 6)
    paired = kl_paired(p, q, eps=0)
    assert 0 <= kl_of_means(p, q, eps=0) <= paired + 1e-12
    merged = [x.reshape(n, 3, 2).sum(2) for x in (p, q)]
    assert kl_paired(*merged, eps=0) <= paired + 1e-12
    order = np.random.default_rng(seed).permutation(6)
    assert kl_paired(p[:, order], q[:, order]) == pytest.approx(kl_paired(p, q))
    assert kl_paired(p, p, eps=0) == 0


def test_kl_of_means_needs_no_pairs() -> None:
    p, q = probabilities(0, 7, 4), probabilities(1, 3, 4)
    assert kl_of_means(p, q, eps=0) == pytest.approx(entropy(p.mean(0), q.mean(0)))
    with pytest.raises(BadSetting, match="as many reference clips as generated clips, got 7 and 3"):
        kl_paired(p, q)


@pytest.mark.parametrize(
    ("generated", "message"),
    [
        (np.array([[0.5, 0.6]]), "sum to 1, got rows that sum to 1.1 to 1.1, from 0.5 up"),
        (np.array([[1.5, -0.5]]), "from -0.5 up; give the softmax"),
        (np.array([[0.2, 0.3, 0.5]]), "2 and 3 dimensions"),
        (np.zeros((0, 2)), "1 or more generated class probabilities, got 0"),
    ],
)
def test_what_is_no_probability_has_no_kl(generated: np.ndarray, message: str) -> None:
    with pytest.raises(BadSetting, match=message):
        kl_paired(np.array([[0.5, 0.5]]), generated)
    with pytest.raises(BadSetting, match="eps in 0 to 1"):
        kl_paired(np.array([[0.5, 0.5]]), np.array([[0.5, 0.5]]), eps=-1)
