"""The search of a large index: derived from its shards, mapped from disk, made again at will."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from anechoic.errors import IndexMismatch
from anechoic.index import TrainingIndex, edit, filehash, manifest, search
from anechoic.index.clips import Clip
from anechoic.index.plan import Plan, plan
from anechoic.storage import Storage

ROWS, DIM = 3000, 64
PLAN = replace(plan(ROWS, DIM, kind="ivfpq"), probes=48)  # of so few rows, most lists


def clustered(count: int = ROWS, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(count // 20, DIM, generator=generator) + 0.5
    chosen = torch.randint(len(centres), (count,), generator=generator)
    drawn = torch.randn(count, DIM, generator=generator)
    return F.normalize(centres[chosen] + 0.5 * drawn, dim=1)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of two shards, with its search; nobody writes to it."""
    folder = tmp_path_factory.mktemp("derived") / "index"
    index = TrainingIndex.from_embeddings(clustered(), centre=True)
    index.clips = [
        Clip(f"c{i}", f"caption {i}", f"{i}.wav", 0.0, 1.0, {"licence": "CC0-1.0"})
        for i in range(ROWS)
    ]
    index.save(folder)
    search.derive(folder, manifest.read(Storage(folder)), PLAN)
    return folder


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(saved, tmp_path / "index"))


def test_it_finds_what_the_matrix_product_finds(saved: Path) -> None:
    mapped = TrainingIndex.load(saved)
    resident = TrainingIndex.from_embeddings(mapped.embeddings, centre=True)
    query = clustered(seed=1)[:300]
    expected = resident.search(resident.project(query), 3)
    found = mapped.search(mapped.project(query), 3)
    same = found.rows[:, 0] == expected.rows[:, 0]
    assert same.float().mean() >= 0.97
    assert torch.allclose(found.scores[same, 0], expected.scores[same, 0], atol=1e-5)
    own = mapped.search(mapped.vectors(torch.arange(0, ROWS, 7)))
    assert own.rows[:, 0].tolist() == list(range(0, ROWS, 7))


def test_scores_carry_the_gradient_of_the_query(saved: Path) -> None:
    index = TrainingIndex.load(saved)
    emb = clustered(seed=2)[:2].requires_grad_()
    found = index.search(index.project(emb), 2)
    found.scores[:, 0].sum().backward()
    again = emb.detach().clone().requires_grad_()
    (index.project(again) * index.vectors(found.rows[:, 0])).sum().backward()
    assert again.grad is not None
    assert torch.allclose(emb.grad, again.grad, atol=1e-6)


def test_clips_and_captions_are_read_one_by_one(saved: Path) -> None:
    index = TrainingIndex.load(saved)
    expected = Clip("c17", "caption 17", "17.wav", 0.0, 1.0, {"licence": "CC0-1.0"})
    assert index.clips[17] == index.clips[17 - ROWS] == expected
    assert index.captions[17] == "caption 17"
    assert len(index) == len(index.clips) == len(index.captions) == ROWS
    assert [clip.id for clip in index.clips] == [f"c{i}" for i in range(ROWS)]
    assert list(index.captions)[-2:] == ["caption 2998", "caption 2999"]
    with pytest.raises(IndexError):
        index.clips[ROWS]


def test_withdrawn_clips_are_not_found_in_the_structure_that_was_trained(copied: Path) -> None:
    before = TrainingIndex.load(copied)
    query = before.vectors(torch.tensor([11]))
    trained = (copied / "search/trained.bin").stat().st_mtime_ns
    edit.remove(copied, lambda clip: clip.id == "c11")
    after = TrainingIndex.load(copied)
    assert (copied / "search/trained.bin").stat().st_mtime_ns == trained
    assert after.search(query).scores.item() < 0.999
    assert "c11" not in [clip.id for clip in after.clips]


def test_a_search_of_other_rows_is_refused(copied: Path) -> None:
    built = manifest.read(Storage(copied))
    replace(built, mean=None).write(Storage(copied))
    with pytest.raises(IndexMismatch, match=r"older than its shards.*anechoic index optimise"):
        TrainingIndex.load(copied)


def test_what_was_finished_of_a_stopped_search_is_not_made_again(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = manifest.read(Storage(copied))

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(search.structure, "assemble", stopped)
        with pytest.raises(KeyboardInterrupt):
            search.derive(copied, built, PLAN)
    with pytest.raises(IndexMismatch, match="was not finished"):
        TrainingIndex.load(copied)
    for name in ("train", "encode"):
        monkeypatch.setattr(search.structure, name, stopped)
    search.derive(copied, built, PLAN)
    assert len(TrainingIndex.load(copied)) == ROWS


def test_other_probes_are_not_trained_again(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(search.structure, "train", never)
    search.derive(copied, manifest.read(Storage(copied)), replace(PLAN, probes=1))
    assert search.plan_of(copied) == replace(PLAN, probes=1)


def test_an_exact_search_needs_nothing_on_disk(copied: Path) -> None:
    search.derive(copied, manifest.read(Storage(copied)), Plan("exact"))
    assert not (copied / "search").exists()
    assert len(TrainingIndex.load(copied)) == ROWS


@pytest.mark.parametrize("name", ["vectors.npy", "clips.arrow", "index.faiss"])
@pytest.mark.parametrize("how", ["cut", "gone", "zeros", "NaN"])
def test_a_damaged_search_is_refused_with_the_mend(copied: Path, name: str, how: str) -> None:
    file = copied / "search" / name
    content = file.read_bytes()
    file.unlink()
    if how != "gone":
        filler = np.array([np.nan if how == "NaN" else 0.0], np.float32).tobytes()
        damaged = (filler * (len(content) // 4 + 1))[: len(content)]
        file.write_bytes(content[: len(content) // 2] if how == "cut" else damaged)
    with pytest.raises(IndexMismatch, match="anechoic index optimise"):
        TrainingIndex.load(copied)


@pytest.mark.parametrize("name", ["vectors.npy", "clips.arrow", "index.faiss", "about.json"])
@pytest.mark.parametrize("part", ["first", "last", "inside"])
def test_a_search_in_which_one_byte_was_changed_is_refused(
    copied: Path, name: str, part: str
) -> None:
    file = copied / "search" / name
    content = bytearray(file.read_bytes())
    content[{"first": 0, "last": -1, "inside": len(content) // 2}[part]] ^= 1
    file.write_bytes(content)
    with pytest.raises(IndexMismatch, match="anechoic index optimise"):
        TrainingIndex.load(copied)


def test_a_change_that_the_sample_misses_is_found_by_the_whole_check(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filehash, "BLOCK", 64)  # so that some of so small a file is not sampled
    built = manifest.read(Storage(copied))
    (copied / "search/laid-out.json").unlink()
    search.derive(copied, built, PLAN)
    file = copied / "search/vectors.npy"
    stored = np.load(file, mmap_mode="r+")
    stored[1000] = stored[1001]
    del stored
    TrainingIndex.load(copied)
    with pytest.raises(IndexMismatch, match=r"vectors.npy is not the file that was written"):
        search.open_search(copied, built, whole=True)


@pytest.mark.parametrize("value", [0.0, float("nan"), 3.0])
def test_a_vector_that_was_damaged_after_the_opening_is_not_scored(
    copied: Path, value: float
) -> None:
    index = TrainingIndex.load(copied)
    query = index.vectors(torch.tensor([7]))
    stored = np.load(copied / "search/vectors.npy", mmap_mode="r+")
    stored[7] = value
    stored.flush()
    with pytest.raises(IndexMismatch, match=r"not of unit norm.*anechoic index optimise"):
        index.search(query)


def test_a_score_that_is_not_finite_is_refused() -> None:
    index = TrainingIndex.from_embeddings(torch.eye(3))
    index.rows._vectors[1] = torch.nan
    with pytest.raises(IndexMismatch, match="NaN or infinite"):
        index.search(torch.eye(3)[:1], 3)


@pytest.mark.parametrize("name", ["codes/*.npy", "trained.bin", "vectors.npy", "*.json"])
def test_damaged_parts_of_a_search_are_made_again(copied: Path, name: str) -> None:
    expected = (copied / "search/index.faiss").read_bytes()
    for file in (copied / "search").glob(name):
        file.write_bytes(file.read_bytes()[:-8] + b"\0" * 8)
    search.derive(copied, manifest.read(Storage(copied)), PLAN)
    assert (copied / "search/index.faiss").read_bytes() == expected
    assert len(TrainingIndex.load(copied)) == ROWS


def test_a_shard_that_was_cut_off_is_found_though_the_search_is_whole(copied: Path) -> None:
    file = copied / "shards/00000.parquet"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(IndexMismatch, match="cut off"):
        TrainingIndex.load(copied)


def test_a_large_index_without_a_search_tells_how_to_make_it(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search.derive(copied, manifest.read(Storage(copied)), Plan("exact"))
    monkeypatch.setattr(search, "RESIDENT", 100_000)
    with pytest.raises(IndexMismatch, match=r"has no search yet.*anechoic index optimise"):
        TrainingIndex.load(copied)
