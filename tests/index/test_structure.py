from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anechoic.errors import BadSetting, CannotWrite, IndexMismatch
from anechoic.index import structure
from anechoic.index.plan import CODE_BYTES, EXACT_ROWS, ID_BYTES, MEMORY_BYTES, SHORTEST_CODE
from anechoic.index.structure import Plan, Searcher

ROWS, DIM = 4_000, 32
PLAN = Plan("ivfpq", 32, 32, 8, probes=8, candidates=64, sample=ROWS)


def clustered(count: int, seed: int) -> np.ndarray:
    """Unit vectors around 200 centres, as embeddings of recordings' windows are."""
    centres = np.random.default_rng(7).standard_normal((200, DIM))
    rng = np.random.default_rng(seed)
    drawn = centres[rng.integers(0, 200, count)] + 0.4 * rng.standard_normal((count, DIM))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return clustered(ROWS, 0)


@pytest.fixture(scope="module")
def trained(vectors: np.ndarray) -> bytes:
    return structure.train(vectors, PLAN)


@pytest.fixture(scope="module")
def codes(trained: bytes, vectors: np.ndarray) -> np.ndarray:
    return structure.encode(trained, vectors)


@pytest.fixture(scope="module")
def made(trained: bytes, codes: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("structure") / "index.faiss"
    structure.assemble(trained, [codes[:1_000], codes[1_000:1_001], codes[1_001:]], path)
    return path


@pytest.fixture
def searcher(made: Path) -> Searcher:
    return structure.open_searcher(made, PLAN)


# ----------------------------------------------------------------------------- the rule


def test_a_small_set_is_compared_whole_and_a_large_one_is_not() -> None:
    assert structure.plan(EXACT_ROWS, 512) == Plan("exact")
    assert structure.plan(EXACT_ROWS + 1, 512).kind == "ivfpq"
    assert structure.plan(10**9, 512, kind="exact").kind == "exact"
    assert structure.plan(1_000, 512, kind="ivfpq").kind == "ivfpq"


@given(rows=st.integers(256, 10**10), dim=st.integers(1, 4096))
@settings(deadline=None)
def test_every_plan_fits_its_set(rows: int, dim: int) -> None:
    plan = structure.plan(rows, dim, kind="ivfpq")
    assert plan.reduced_dim <= dim
    assert plan.reduced_dim % plan.code_bytes == 0
    assert plan.probes <= plan.lists
    assert plan.lists <= plan.sample <= rows
    assert plan.candidates <= rows
    assert plan.lists.bit_count() == 1
    fits = rows * (plan.code_bytes + ID_BYTES) <= MEMORY_BYTES
    assert fits or plan.code_bytes == min(SHORTEST_CODE, max(1, dim // 2))


@given(rows=st.integers(EXACT_ROWS + 1, 10**9), memory_mib=st.integers(16, 2**16))
@settings(deadline=None)
def test_codes_fit_the_memory_they_are_given_or_are_refused(rows: int, memory_mib: int) -> None:
    memory = memory_mib * 2**20
    if memory // rows - ID_BYTES < SHORTEST_CODE:
        with pytest.raises(BadSetting, match="bytes, got"):
            structure.plan(rows, 512, memory)
    else:
        plan = structure.plan(rows, 512, memory)
        assert rows * (plan.code_bytes + ID_BYTES) <= memory
        assert SHORTEST_CODE <= plan.code_bytes <= CODE_BYTES


@pytest.mark.parametrize(
    ("rows", "dim", "kind", "sentence"),
    [
        (0, 512, "auto", "expected vectors to search"),
        (10, 0, "auto", "expected vectors to search"),
        (100, 512, "ivfpq", "needs 256; use 'exact'"),
        (100, 512, "hnsw", "expected search 'auto', 'exact' or 'ivfpq', got 'hnsw'"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(rows: int, dim: int, kind: str, sentence: str) -> None:
    with pytest.raises(BadSetting, match=sentence):
        structure.plan(rows, dim, kind=kind)


# ------------------------------------------------------------------------ making a structure


def test_training_twice_gives_the_same_bytes(vectors: np.ndarray, trained: bytes) -> None:
    assert structure.train(vectors, PLAN) == trained


def test_codes_do_not_depend_on_how_the_vectors_are_cut(
    trained: bytes, vectors: np.ndarray, codes: np.ndarray
) -> None:
    parts = [structure.encode(trained, part) for part in np.array_split(vectors, 7)]
    assert np.array_equal(np.concatenate(parts), codes)
    assert codes.dtype == np.uint8
    assert codes.shape == (ROWS, 1 + PLAN.code_bytes)  # one byte tells 32 lists


def test_assembled_codes_answer_as_vectors_added_to_faiss_do(
    trained: bytes, vectors: np.ndarray, searcher: Searcher
) -> None:
    import faiss

    index = faiss.deserialize_index(np.frombuffer(trained, np.uint8))
    index.add(vectors)
    lists = faiss.extract_index_ivf(index)
    lists.nprobe = PLAN.probes
    query = clustered(50, 1)
    assert np.array_equal(searcher.candidates(query, 20), index.search(query, 20)[1])


def test_lists_that_are_read_answer_as_mapped_ones_do(
    made: Path, searcher: Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(structure, "MAPS", False)
    read, queries = structure.open_searcher(made, PLAN), clustered(20, 4)
    assert np.array_equal(read.candidates(queries, 64), searcher.candidates(queries, 64))


def test_a_stored_vector_finds_its_own_row(vectors: np.ndarray, searcher: Searcher) -> None:
    asked = np.arange(0, ROWS, 37)
    rows = searcher.candidates(vectors[asked], PLAN.candidates)
    _, best = structure.rerank(vectors, vectors[asked], rows, 1)
    assert np.array_equal(best[:, 0], asked)


def test_reranked_candidates_are_the_exact_neighbours(
    vectors: np.ndarray, searcher: Searcher
) -> None:
    query = clustered(500, 2)
    rows = searcher.candidates(query, PLAN.candidates)
    _, best = structure.rerank(vectors, query, rows, 1)
    exact = (query @ vectors.T).argmax(1)
    assert (best[:, 0] == exact).mean() > 0.98


@pytest.mark.parametrize("dim", [1, 3, 20])
def test_a_narrow_set_can_be_searched_too(dim: int, tmp_path: Path) -> None:
    narrow = np.random.default_rng(0).standard_normal((500, dim)).astype(np.float32)
    plan = replace(structure.plan(500, dim, kind="ivfpq"), probes=4)
    trained = structure.train(narrow, plan)
    structure.assemble(trained, [structure.encode(trained, narrow)], tmp_path / "index.faiss")
    rows = structure.open_searcher(tmp_path / "index.faiss", plan).candidates(narrow[:9], 500)
    assert np.array_equal(np.sort(rows, axis=1), np.tile(np.arange(500), (9, 1)))


# ----------------------------------------------------------------------------- asking it


def test_one_query_gets_what_it_gets_in_a_batch(searcher: Searcher) -> None:
    query = clustered(40, 3)
    alone = [searcher.candidates(query[i : i + 1], 30) for i in range(40)]
    assert np.array_equal(np.concatenate(alone), searcher.candidates(query, 30))


def test_candidates_past_the_probed_lists_come_from_further_lists(made: Path) -> None:
    narrow = structure.open_searcher(made, replace(PLAN, probes=1))
    rows = narrow.candidates(clustered(5, 4), ROWS)
    assert np.array_equal(np.sort(rows, axis=1), np.tile(np.arange(ROWS), (5, 1)))


def test_more_candidates_than_rows_are_refused(searcher: Searcher) -> None:
    with pytest.raises(BadSetting, match=f"{ROWS + 1} candidates of {ROWS} rows"):
        searcher.candidates(clustered(1, 0), ROWS + 1)
    with pytest.raises(IndexMismatch, match=r"expected queries \[b, 32\] .* got \[1, 31\]"):
        searcher.candidates(clustered(1, 0)[:, :31], 5)


def test_rerank_is_the_sorted_matrix_product(vectors: np.ndarray) -> None:
    query, stored = clustered(9, 5), vectors.astype(np.float16)
    rows = np.random.default_rng(0).permuted(np.tile(np.arange(300), (9, 1)), axis=1)
    scores, best = structure.rerank(stored, query, rows, 12)
    every = query @ stored[:300].astype(np.float32).T
    assert np.array_equal(best, np.argsort(-every, axis=1, kind="stable")[:, :12])
    assert scores == pytest.approx(-np.sort(-every, axis=1)[:, :12], abs=1e-6)
    assert scores.dtype == np.float32


def test_equal_scores_stand_in_the_order_of_the_rows() -> None:
    copies = np.tile(clustered(1, 6), (50, 1))
    rows = np.random.default_rng(1).permutation(50)[None]
    _, best = structure.rerank(copies, copies[:1], rows, 50)
    assert np.array_equal(best[0], np.arange(50))


def test_rerank_in_parts_gives_what_it_gives_at_once(
    vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = clustered(64, 8)
    rows = np.tile(np.arange(100, 200), (64, 1))
    at_once = structure.rerank(vectors, query, rows, 5)
    monkeypatch.setattr(structure, "GATHER_BYTES", 5 * 100 * DIM * 4)
    in_parts = structure.rerank(vectors, query, rows, 5)
    assert all(np.array_equal(a, b) for a, b in zip(at_once, in_parts, strict=True))


def resident_file_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssFile"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="counts pages as Linux does")
def test_reranking_from_a_mapped_file_keeps_none_of_it_in_memory(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).standard_normal((40_000, 256)).astype(np.float32)  # 41 MB
    stored /= np.linalg.norm(stored, axis=1, keepdims=True)
    np.save(tmp_path / "vectors.npy", stored)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    before = resident_file_bytes()
    rows = np.random.default_rng(1).permuted(np.tile(np.arange(40_000), (1, 1)), axis=1)
    for part in np.split(rows, 10, axis=1):
        scores, _ = structure.rerank(mapped, stored[:1], part, 1)
        assert scores[0, 0] == pytest.approx((stored[part[0]] @ stored[0]).max(), rel=1e-5)
    assert resident_file_bytes() - before < 8e6


def test_a_copy_on_write_mapping_keeps_what_was_written(tmp_path: Path) -> None:
    np.save(tmp_path / "vectors.npy", np.eye(4, dtype=np.float32))
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="c")
    mapped[0] = 0.5
    for _ in range(2):
        scores, _ = structure.rerank(mapped, np.ones((1, 4)), np.array([[0, 1]]), 1)
        assert scores[0, 0] == 2


# ------------------------------------------------------------------------------ bad input


def damaged(content: bytes) -> Iterator[tuple[str, bytes]]:
    for length in (0, 3, 40, 100, len(content) // 2, len(content) - 49, len(content) - 1):
        yield f"cut to {length} bytes", content[:length]
    yield "one more byte", content + b"x"
    for place in (5, 200, 5_000, len(content) - 20):
        yield f"byte {place} changed", content[:place] + b"\xa5\x5a" + content[place + 2 :]
    yield "a page lost", content[: len(content) - 8_192] + content[len(content) - 4_096 :]
    yield "something else", bytes(range(256)) * 40


def test_a_damaged_file_is_refused_in_one_sentence(made: Path, tmp_path: Path) -> None:
    bad = tmp_path / "index.faiss"
    for what, content in damaged(made.read_bytes()):
        bad.write_bytes(content)
        with pytest.raises(IndexMismatch, match="make it again with") as caught:
            structure.open_searcher(bad, PLAN)
        assert str(bad) in str(caught.value), what
    with pytest.raises(IndexMismatch, match="does not exist"):
        structure.open_searcher(tmp_path / "none.faiss", PLAN)


def test_row_numbers_that_were_changed_are_refused(made: Path, tmp_path: Path) -> None:
    content = bytearray(made.read_bytes())
    end = len(content) - structure.END.size
    content[end - 8 : end] = (ROWS + 5).to_bytes(8, "little")  # the last row's number
    (tmp_path / "index.faiss").write_bytes(content)
    with pytest.raises(IndexMismatch, match="rows that do not exist"):
        structure.open_searcher(tmp_path / "index.faiss", PLAN).candidates(clustered(1, 0), ROWS)


def test_a_structure_of_another_plan_is_refused(made: Path) -> None:
    with pytest.raises(IndexMismatch, match="but the plan has"):
        structure.open_searcher(made, replace(PLAN, lists=64))
    with pytest.raises(BadSetting, match="opens no structure"):
        structure.open_searcher(made, Plan("exact"))


def test_training_refuses_what_it_cannot_use(vectors: np.ndarray) -> None:
    with pytest.raises(BadSetting, match="too few to train with; give 256"):
        structure.train(vectors[:255], PLAN)
    with pytest.raises(BadSetting, match="code bytes that divide"):
        structure.train(vectors, replace(PLAN, code_bytes=5))
    with pytest.raises(BadSetting, match=r"expected vectors .* for 64 directions, got"):
        structure.train(vectors, replace(PLAN, reduced_dim=64))
    with pytest.raises(BadSetting, match="no structure to train"):
        structure.train(vectors, Plan("exact"))
    bad = vectors.copy()
    bad[3, 3] = np.nan
    with pytest.raises(IndexMismatch, match="NaN"):
        structure.train(bad, PLAN)


def test_encoding_and_assembling_refuse_what_does_not_fit(
    trained: bytes, vectors: np.ndarray, codes: np.ndarray, tmp_path: Path
) -> None:
    with pytest.raises(IndexMismatch, match=r"expected vectors .*, 32\] for this trained search"):
        structure.encode(trained, vectors[:, :31])
    with pytest.raises(IndexMismatch, match="NaN"):
        structure.encode(trained, np.full((1, DIM), np.inf, np.float32))
    with pytest.raises(IndexMismatch, match="is damaged; train it anew"):
        structure.encode(trained[:-5], vectors)
    path = tmp_path / "index.faiss"
    with pytest.raises(IndexMismatch, match="for this search structure, got"):
        structure.assemble(trained, [codes[:, 1:]], path)
    with pytest.raises(IndexMismatch, match="codes are damaged"):
        structure.assemble(trained, [np.full_like(codes, 255)], path)
    with pytest.raises(IndexMismatch, match="got none; encode vectors"):
        structure.assemble(trained, [], path)
    with pytest.raises(CannotWrite, match="cannot be written"):
        structure.assemble(trained, [codes], tmp_path / "missing" / "index.faiss")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full disk to write to")
def test_a_full_disk_leaves_no_structure(trained: bytes, codes: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / ".index.faiss.part").symlink_to("/dev/full")
    with pytest.raises(CannotWrite, match="cannot be written"):
        structure.assemble(trained, [codes], tmp_path / "index.faiss")
    assert list(tmp_path.iterdir()) == []
