from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from anechoic.errors import BadAudio, BadSetting, IndexMismatch
from anechoic.index import TrainingIndex
from anechoic.index.pruned import Pruned
from anechoic.types import VectorIndex


def points(count: int, dim: int, seed: int = 0) -> Tensor:
    """Unit vectors with a common mean, as embeddings of sound have one."""
    drawn = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))
    return F.normalize(drawn + 2.0, dim=1)


def index_of(emb: Tensor, centre: bool = True) -> TrainingIndex:
    return TrainingIndex.from_embeddings(emb, centre=centre)


@pytest.mark.parametrize(
    "emb",
    [torch.eye(3).bfloat16(), torch.eye(3).half(), torch.eye(3).long(),
     torch.eye(3, requires_grad=True)],
    ids=["bf16", "fp16", "integers", "with a gradient"],
)  # fmt: skip
def test_embeddings_of_any_format_are_kept_as_float32(emb: Tensor, tmp_path: Path) -> None:
    index_of(emb, centre=False).save(tmp_path / "i")
    found = TrainingIndex.load(tmp_path / "i").search(torch.eye(3))
    assert torch.equal(found.scores, torch.ones(3, 1))
    assert found.rows.flatten().tolist() == [0, 1, 2]


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(2, 60),
    dim=st.integers(2, 40),
    k=st.integers(1, 8),
    seed=st.integers(0, 99),
    centre=st.booleans(),
)
def test_search_is_the_sorted_matrix_product(
    count: int, dim: int, k: int, seed: int, centre: bool
) -> None:
    train = points(count, dim, seed)
    mean = train.mean(0) if centre else torch.zeros(dim)
    index = index_of(train, centre)
    query = points(3, dim, seed + 1000)
    expected = F.normalize(query - mean, dim=1) @ F.normalize(train - mean, dim=1).T
    expected = expected.sort(dim=1, descending=True).values[:, :k]
    found = index.search(index.project(query), k)
    assert torch.allclose(found.scores, expected, atol=1e-5)  # float32, other order of sums


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), k=st.integers(1, 5))
def test_a_batch_of_queries_equals_single_queries(seed: int, k: int) -> None:
    index = index_of(points(50, 16, seed))
    query = index.project(points(7, 16, seed + 1))
    batch = index.search(query, k)
    for i in range(7):
        single = index.search(query[i : i + 1], k)
        assert torch.equal(single.rows[0], batch.rows[i])
        assert torch.equal(single.scores[0], batch.scores[i])


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 999), k=st.integers(1, 5), near=st.floats(0.0, 1.0), spread=st.floats(0, 2)
)
def test_what_is_pruned_is_exact_or_not_answered(
    seed: int, k: int, near: float, spread: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.arange(1.0, 65.0) ** -spread  # some directions matter more
    train = F.normalize(torch.randn(400, 64, generator=generator) * scale, dim=1)
    train[[7, 300]] = train[3].clone()
    other = F.normalize(torch.randn(1, 64, generator=generator) * scale, dim=1)
    query = F.normalize(near * train[3:4] + (1 - near) * other, dim=1)
    rows = Pruned(train).candidates(query, k)
    if rows is None:
        return
    scores = (train @ query[0]).double()
    wanted = set((scores >= scores.topk(k).values[-1] - 1e-7).nonzero()[:, 0].tolist())
    assert wanted <= set(rows[0].tolist())


def test_single_queries_are_pruned_after_a_while_and_answered_the_same() -> None:
    drawn = torch.randn(2000, 640, generator=torch.Generator().manual_seed(0))
    train = F.normalize(drawn / torch.arange(1.0, 641.0).sqrt(), dim=1)
    index, again = index_of(train), index_of(train)
    query = index.project(F.normalize(train[:40] + 0.3 * train[40:80], dim=1))
    expected = again.search(query, 3)  # as a batch, by the matrix product
    found = [index.search(one[None], 3) for one in query]
    assert index.rows._pruned is not None  # type: ignore[attr-defined]
    assert torch.equal(torch.cat([one.rows for one in found]), expected.rows)
    scores = torch.cat([one.scores for one in found])
    assert torch.allclose(scores, expected.scores, atol=1e-6)
    pruned = Pruned(index.vectors(torch.arange(2000)))
    answered = [pruned.candidates(one[None], 1) for one in query]
    assert sum(rows is not None for rows in answered) > 20


def test_equal_scores_stand_in_the_order_of_the_rows() -> None:
    train = points(40, 8)
    train[[7, 19, 31]] = train[3].clone()
    index = index_of(train)
    assert index.search(index.project(train[19:20]), 4).rows.tolist() == [[3, 7, 19, 31]]


def test_every_clip_is_its_own_nearest_with_score_one() -> None:
    train = points(100, 32)
    index = index_of(train)
    found = index.search(index.project(train))
    assert torch.equal(found.rows[:, 0], torch.arange(100))
    assert torch.allclose(found.scores, torch.ones(100, 1), atol=1e-6)


def test_centring_takes_off_what_all_clips_share() -> None:
    train = points(200, 64)
    raw, centred = (index_of(train, centre) for centre in (False, True))
    background = [float(i.search(i.project(train), 200).scores.mean()) for i in (raw, centred)]
    assert background[0] > 0.7
    assert abs(background[1]) < 0.01


def test_an_uncentred_index_projects_to_the_embedding_itself() -> None:
    emb = points(5, 8)
    assert torch.equal(index_of(emb, centre=False).project(emb), emb)


def test_vectors_are_projected_embeddings_gathered_by_row() -> None:
    index = index_of(points(10, 8))
    rows = torch.tensor([[1, 2], [9, 1]])
    assert torch.equal(index.vectors(rows), index.project(index.embeddings)[rows])


def test_scores_carry_the_gradient_of_the_query() -> None:
    index = index_of(points(30, 8))
    emb = points(2, 8, seed=1).requires_grad_()
    found = index.search(index.project(emb))
    found.scores.sum().backward()
    expected = points(2, 8, seed=1).requires_grad_()
    (index.project(expected) * index.vectors(found.rows[:, 0])).sum().backward()
    assert emb.grad is not None
    assert torch.allclose(emb.grad, expected.grad)
    assert emb.grad.norm() > 0


def test_float64_stays_float64_in_memory() -> None:
    index = index_of(points(5, 8).double())
    assert index.search(index.project(points(1, 8))).scores.dtype == torch.float64


def test_more_neighbours_than_clips_gives_all_clips() -> None:
    index = index_of(points(3, 8))
    assert index.search(index.project(points(2, 8)), 10).rows.shape == (2, 3)


def test_an_index_is_a_store() -> None:
    store: VectorIndex = index_of(points(3, 8))
    assert len(store) == len(store.captions) == 3


@pytest.mark.parametrize(
    ("query", "k", "error"),
    [
        (torch.ones(1, 8), 0, BadSetting),
        (torch.ones(1, 9), 1, IndexMismatch),
        (torch.ones(8), 1, IndexMismatch),
        (torch.full((1, 8), torch.nan), 1, BadAudio),
    ],
)
def test_a_query_that_cannot_be_compared_is_refused(
    query: Tensor, k: int, error: type[Exception]
) -> None:
    with pytest.raises(error):
        index_of(points(3, 8)).search(query, k)


@pytest.mark.parametrize("bad", [torch.nan, 0.0])
def test_an_embedding_without_direction_is_refused(bad: float) -> None:
    emb = points(4, 8)
    emb[2] = bad
    with pytest.raises(IndexMismatch, match="clip '2' is NaN or has no direction"):
        index_of(emb)


def test_an_empty_index_is_refused() -> None:
    with pytest.raises(IndexMismatch, match="empty"):
        index_of(torch.zeros(0, 8))


def test_a_single_clip_can_only_be_indexed_uncentred() -> None:
    with pytest.raises(IndexMismatch, match="only be indexed uncentred"):
        index_of(points(1, 8))
    assert len(index_of(points(1, 8), centre=False)) == 1


def test_as_many_captions_as_embeddings_are_needed() -> None:
    with pytest.raises(IndexMismatch, match=r"expected embeddings \[2, d\]"):
        TrainingIndex.from_embeddings(points(3, 8), ["a", "b"])
