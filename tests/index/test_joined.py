"""Several indexes as one: each in its own space, on one scale."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.sounds import sounds
from torch import Tensor

from anechoic import Auto, TrainingIndex, embedder
from anechoic.detectors import calibration
from anechoic.detectors.calibration import Calibration
from anechoic.detectors.nearest import NearestStretch
from anechoic.engine.model import names_any, require_own_index
from anechoic.errors import BadSetting, IndexMismatch
from anechoic.guidance import CaptionSubstitution, GramVolume
from anechoic.index import JoinedIndex

MAGMEL = "magmel:seconds=1.024"
WIDTH = 12


def index(rows: int, seed: int, centre: bool = True, name: str = "given") -> TrainingIndex:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(rows, WIDTH, generator=generator) + seed
    captions = [f"{seed}-{i}" for i in range(rows)]
    return TrainingIndex.from_embeddings(points, captions, embedder_name=name, centre=centre)


@pytest.fixture
def parts() -> tuple[TrainingIndex, TrainingIndex]:
    return index(30, 1), index(7, 2)


@pytest.fixture
def queries() -> Tensor:
    generator = torch.Generator().manual_seed(9)
    return torch.nn.functional.normalize(torch.randn(5, WIDTH, generator=generator) + 1, dim=1)


def test_the_nearest_of_all_are_those_of_each_in_its_own_space(
    parts: tuple[TrainingIndex, TrainingIndex], queries: Tensor
) -> None:
    joined = JoinedIndex(parts)
    found = joined.search(joined.project(queries), 4)
    one, two = (part.search(part.project(queries), 4) for part in parts)
    scores = torch.cat([one.scores, two.scores], 1)
    rows = torch.cat([one.rows, two.rows + 30], 1)
    order = scores.argsort(dim=1, descending=True, stable=True)[:, :4]
    assert torch.equal(found.scores, scores.gather(1, order))
    assert torch.equal(found.rows, rows.gather(1, order))
    assert (found.rows >= 30).any()
    assert (found.rows < 30).any()
    assert [joined.captions[row] for row in (0, 29, 30, 36)] == ["1-0", "1-29", "2-0", "2-6"]
    assert list(joined.captions) == [*parts[0].captions, *parts[1].captions]


def test_a_projected_embedding_times_a_row_is_the_cosine_in_the_rows_own_index(
    parts: tuple[TrainingIndex, TrainingIndex], queries: Tensor
) -> None:
    joined = JoinedIndex(parts)
    projected, rows = joined.project(queries), torch.tensor([[3, 36], [30, 29]])
    vectors = joined.vectors(rows)
    assert vectors.shape == (2, 2, 2 * WIDTH)
    cosine = projected[0] @ vectors[0, 1]
    own = parts[1].project(queries)[0] @ parts[1].vectors(torch.tensor(6))
    torch.testing.assert_close(cosine, own)
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(2, 2))


def test_limits_put_the_indexes_on_one_scale(
    parts: tuple[TrainingIndex, TrainingIndex], queries: Tensor
) -> None:
    joined = JoinedIndex(parts, (0.8, 0.3))
    found = joined.search(joined.project(queries), 37)
    for query, scores, rows in zip(queries, found.scores, found.rows, strict=True):
        of_two = rows >= 30
        own = parts[1].search(parts[1].project(query[None]), 7).scores[0]
        torch.testing.assert_close(scores[of_two], 1 - (1 - own) * 0.2 / 0.7)
        assert torch.equal(scores[of_two] > 0.8, own > 0.3 + 1e-7)
    copy = joined.search(joined.project(parts[1].embeddings[2:3]), 1)
    assert copy.rows.item() == 32
    assert copy.scores.item() == pytest.approx(1, abs=1e-5)


def test_the_vector_of_a_row_finds_its_own_index_alone(
    parts: tuple[TrainingIndex, TrainingIndex],
) -> None:
    joined = JoinedIndex(parts, (0.8, 0.3))
    near = joined.search(joined.vectors(torch.tensor([32])), 37)
    assert near.rows[0, 0].item() == 32
    assert (near.scores[near.rows < 30] == -1).all()
    assert (near.rows[0, :7] >= 30).all()


def test_a_search_carries_the_gradient_of_the_query(
    parts: tuple[TrainingIndex, TrainingIndex], queries: Tensor
) -> None:
    joined = JoinedIndex(parts)
    variable = queries.clone().requires_grad_(True)
    joined.search(joined.project(variable), 1).scores.sum().backward()  # type: ignore[no-untyped-call]
    assert variable.grad is not None
    assert (variable.grad.norm(dim=1) > 0).all()


def test_what_cannot_be_joined_is_refused_in_a_sentence(
    parts: tuple[TrainingIndex, TrainingIndex],
) -> None:
    one, two = parts
    with pytest.raises(BadSetting, match="two different indexes"):
        JoinedIndex((one,))
    with pytest.raises(BadSetting, match="give each once"):
        JoinedIndex((one, one))
    with pytest.raises(IndexMismatch, match="built by one embedder"):
        JoinedIndex((one, index(4, 3, name="other")))
    with pytest.raises(BadSetting, match="a cosine of -1 to below 1 for each"):
        JoinedIndex(parts, (0.5, 1.0))
    joined = JoinedIndex(parts)
    with pytest.raises(IndexMismatch, match="project them first"):
        joined.search(two.project(two.embeddings[:1]))


def test_each_index_has_to_fit_the_model(parts: tuple[TrainingIndex, TrainingIndex]) -> None:
    one, two = parts
    one.about, two.about = replace(one.about, model="b"), replace(two.about, model="a")
    joined = JoinedIndex(parts)
    require_own_index(joined, lambda: "b+a")
    with pytest.raises(IndexMismatch, match="of model 'a', but this model is 'b'"):
        require_own_index(joined, lambda: "b")
    assert names_any("a", [joined])
    assert not names_any("c", [joined])


# ------------------------------------------------------------------------------- the guard's limits


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two indexes of sound; each is calibrated, at levels of its own."""
    made = []
    for name, clips, low in (("base", sounds(12)[:8], 0.2), ("mine", sounds(12)[8:], -0.5)):
        folder = tmp_path_factory.mktemp(name) / name
        held = TrainingIndex.build(clips, embedder(MAGMEL))
        held.save(folder)
        detector = NearestStretch(held, embedder(MAGMEL)).name
        null = tuple(np.linspace(low, low + 0.6, 99).tolist())
        calibration.write(folder, [Calibration(detector, null)])
        made.append(folder)
    return made[0], made[1]


def test_auto_reads_a_limit_off_each_index(folders: tuple[Path, Path]) -> None:
    chosen = Auto.of(folders)
    alone = [Auto.of(folder).opens for folder in folders]
    assert isinstance(chosen.index, JoinedIndex)
    assert chosen.index.limits == tuple(alone)
    assert chosen.opens == alone[0]
    assert f"over {alone[1]:.3f} of index 'mine'" in chosen.because
    lower = chosen.with_threshold(0.1)
    assert isinstance(lower.index, JoinedIndex)
    assert (lower.opens, lower.index.limits) == (0.1, chosen.index.limits)


def test_indexes_of_one_name_are_called_by_their_folders(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    there = shutil.copytree(folders[1], tmp_path / "there" / folders[0].name)
    chosen = Auto.of([folders[0], there])
    assert f"of index '{folders[0]}'" in chosen.because
    assert f"of index '{there}'" in chosen.because


def test_without_a_calibration_an_index_gives_its_own_limit(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    bare = TrainingIndex.load(folders[1]).save(tmp_path / "bare")
    chosen = Auto.of([folders[0], bare])
    alone = CaptionSubstitution(TrainingIndex.load(bare), embedder(MAGMEL)).opens
    assert isinstance(chosen.index, JoinedIndex)
    assert chosen.index.limits is not None
    assert chosen.index.limits[1] == alone
    assert "it is not calibrated" in chosen.because


def test_a_method_of_one_space_refuses_joined_indexes(folders: tuple[Path, Path]) -> None:
    joined = JoinedIndex(tuple(map(TrainingIndex.load, folders)))
    with pytest.raises(BadSetting, match="give one index"):
        GramVolume(joined, embedder(MAGMEL))
