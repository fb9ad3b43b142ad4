"""An index that is built on disk: stopped, gone on with, added to, withdrawn from."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from support.index_builds import ABOUT, DIM, Bands, Noise, Source, files, work
from support.index_clips import embeddings, fixed, table

from anechoic import audio
from anechoic.errors import BadSetting, CannotWrite, IndexMismatch, OutputExists
from anechoic.index import TrainingIndex, edit, manifest
from anechoic.index.build import Work, build
from anechoic.index.clips import Clip
from anechoic.index.sources.vectors import VectorSource
from anechoic.storage import Storage


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index whose build was never stopped; nobody writes to it."""
    folder = tmp_path_factory.mktemp("built") / "index"
    build(Source(), work(folder), ABOUT)
    return folder


def test_an_index_on_disk_is_that_in_memory(built: Path) -> None:
    index = TrainingIndex.load(built)
    wavs = [item.read()[0] for unit in Source().units() for item in unit.items()]
    alone = torch.cat([Bands()(audio.mono(wav[None], 8000)[None], 8000) for wav in wavs])
    assert torch.allclose(index.embeddings, alone, atol=1e-6)
    again = TrainingIndex.from_embeddings(alone, centre=True)
    query = torch.randn(4, DIM, generator=torch.Generator().manual_seed(1))
    found = index.search(index.project(query), 3)
    assert torch.equal(found.rows, again.search(again.project(query), 3).rows)
    assert index.clips[8] == Clip("n8", "noise 8", None, 0.0, 0.1, {"licence": "CC0-1.0"})
    told = manifest.read(Storage(built))
    assert [shard.name for shard in told.shards] == [
        "u0-00000", "u0-00001", "u1-00000", "u1-00001", "u1-00002", "u2-00000"
    ]  # fmt: skip
    assert (told.rows, told.clips) == (23, 23)


def test_a_shard_as_large_as_its_unit_ends_it(tmp_path: Path) -> None:
    build(Source((5, 10)), work(tmp_path / "i"), ABOUT)
    assert manifest.read(Storage(tmp_path / "i")).rows == 15


@pytest.mark.parametrize("after", [0, 1, 6, 12, 22])
def test_a_build_that_fails_goes_on_where_it_was(built: Path, tmp_path: Path, after: int) -> None:
    folder = tmp_path / "index"
    with pytest.raises(IndexMismatch, match="the drive is gone"):
        build(Source(bad=after), work(folder), ABOUT)
    finished = {name: (folder / name).stat().st_mtime_ns for name in files(folder)
                if name.endswith(".parquet")}  # fmt: skip
    with pytest.raises(IndexMismatch, match=r"not finished.*continues it"):
        TrainingIndex.load(folder)
    seen: list[int] = []
    build(Source(), work(folder), ABOUT, progress=lambda done, total: seen.append(done))
    assert files(folder) == files(built)
    assert seen[0] == 5 * len(finished) - 3 * (after >= 7) - 3 * (after >= 19)
    assert seen[-1] == 23
    for name, when in finished.items():
        assert (folder / name).stat().st_mtime_ns == when, "a finished shard was made again"


def test_killed_at_random_moments_it_ends_as_if_it_had_not_been(
    built: Path, tmp_path: Path
) -> None:
    """SIGKILL, up to 40 times; each run goes on where the last one was."""
    folder, drawn, kills = tmp_path / "index", np.random.default_rng(0), 0
    slow = work(folder, embedder=partial(Bands, pause_s=0.005))
    for _ in range(40):
        child = get_context("fork").Process(target=_build_alone, args=(slow,))
        child.start()
        child.join(float(drawn.uniform(0, 0.05)))
        child.kill()
        child.join()
        kills += child.exitcode == -signal.SIGKILL
        if (folder / manifest.NAME).exists() and not (folder / "building").exists():
            break
    assert kills > 3
    if not (folder / manifest.NAME).exists() or (folder / "building").exists():
        build(Source(), work(folder), ABOUT)
    assert files(folder) == files(built)


def _build_alone(slow: Work) -> None:
    torch.set_num_threads(1)  # those of the parent are not here
    build(Source(), slow, ABOUT)


def test_a_build_with_other_settings_does_not_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    with pytest.raises(IndexMismatch):
        build(Source(bad=9), work(folder), ABOUT)
    with pytest.raises(BadSetting, match="begun with dtype float32; finish it with these settings"):
        build(Source(), work(folder, dtype="float16"), ABOUT)


def test_what_was_mended_is_done_again_and_the_rest_is_not(built: Path, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    with pytest.raises(IndexMismatch):  # after u0 and a part of what is u1 here
        build(Source((7, 13, 4), bad=13), work(folder), ABOUT)
    seen: list[int] = []
    build(Source(), work(folder), ABOUT, progress=lambda done, total: seen.append(done))
    assert seen[0] == 7
    assert files(folder) == files(built)


def test_two_builds_into_one_folder_at_once_are_refused(tmp_path: Path) -> None:
    place = Storage(tmp_path / "index")
    with place.alone(), pytest.raises(CannotWrite, match="another process is writing"):
        build(Source(), work(place.name), ABOUT)


def test_two_clips_of_one_id_are_found_in_different_shards(tmp_path: Path) -> None:
    class Twice(Source):
        def units(self) -> Sequence[Noise]:
            return [Noise("a", 0, 6), Noise("b", 4, 6)]

    with pytest.raises(BadSetting, match="two clips have the id 'n4'"):
        build(Twice(), work(tmp_path / "index"), ABOUT)


def test_nothing_is_no_index(tmp_path: Path) -> None:
    with pytest.raises(IndexMismatch, match="at least one clip"):
        build(Source((0,)), work(tmp_path / "index"), ABOUT)


@pytest.mark.parametrize("limit", [300, 1200])
def test_a_full_disk_is_told_and_leaves_nothing_half_written(tmp_path: Path, limit: int) -> None:
    """A limit on the size of a file stands for a disk without room."""
    import resource

    folder = tmp_path / "index"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        with pytest.raises(CannotWrite, match=r"free some space .* finished work is not lost"):
            build(Source(), work(folder), ABOUT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not any(name.endswith((".part", ".parquet")) for name in files(folder))
    build(Source(), work(folder), ABOUT)


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotWrite, match="cannot be written to"):
        build(Source(), work(tmp_path / "file" / "index"), ABOUT)


# ---------------------------------------------------------------------------------- overwriting


def test_an_index_is_replaced_only_when_the_new_one_is_whole(built: Path, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    build(Source((3,)), work(folder), ABOUT)
    with pytest.raises(OutputExists):
        build(Source(), work(folder), ABOUT)
    with pytest.raises(IndexMismatch, match="the drive is gone"):
        build(Source(bad=9), work(folder), ABOUT, overwrite=True)
    assert len(TrainingIndex.load(folder)) == 3
    build(Source(), work(folder), ABOUT, overwrite=True)
    assert files(folder) == files(built)
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


@pytest.mark.parametrize("moved", [False, True])
def test_a_replacement_stopped_before_its_end_is_finished(
    built: Path, tmp_path: Path, moved: bool
) -> None:
    folder = tmp_path / "index"
    build(Source((3,)), work(folder), ABOUT)
    build(Source(), work(f"{folder}.new"), ABOUT)
    if moved:
        folder.rename(f"{folder}.old")
    made = build(Source(), work(folder), ABOUT, overwrite=True, run=_never)
    assert made.rows == len(TrainingIndex.load(folder)) == 23
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


@pytest.mark.parametrize("replaced", [False, True])
def test_a_build_stopped_when_its_manifest_was_written_is_finished(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replaced: bool
) -> None:
    folder = tmp_path / "index"
    if replaced:
        build(Source((3,)), work(folder), ABOUT)
    with monkeypatch.context() as stopped:
        stopped.setattr(Storage, "remove", _never)
        with pytest.raises(AssertionError):
            build(Source(), work(folder), ABOUT, overwrite=replaced)
    build(Source(), work(folder), ABOUT, overwrite=replaced, run=_never)
    assert files(folder) == files(built)


def test_a_build_with_a_manifest_is_not_replaced_by_another(built: Path, tmp_path: Path) -> None:
    folder = copy(built, tmp_path)
    (folder / "building").mkdir()
    with pytest.raises(OutputExists):
        build(Source((3,)), work(folder), ABOUT)
    assert files(folder) == files(built)


def _never(*_: object) -> None:
    raise AssertionError("something was computed again")


# --------------------------------------------------------------------------- adding, withdrawing


def copy(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "index"))


def test_withdrawn_clips_are_gone_and_the_others_compare_as_before(
    built: Path, tmp_path: Path
) -> None:
    folder, before = copy(built, tmp_path), TrainingIndex.load(built)
    gone = {"n0", "n5", "n6", "n11"}  # n5 and n6 are a whole shard
    made, ids = edit.remove(folder, lambda clip: clip.id in gone)
    assert (set(ids), made.rows, made.clips) == (gone, 19, 19)
    after = TrainingIndex.load(folder)
    keep = [i for i, clip in enumerate(before.clips) if clip.id not in gone]
    assert [clip.id for clip in after.clips] == [before.clips[i].id for i in keep]
    rows = torch.tensor(keep)
    assert torch.equal(after.vectors(torch.arange(19)), before.vectors(rows))
    stored = b"".join(files(folder).values())
    assert not any(
        before.embeddings[i].numpy().tobytes() in stored for i in range(23) if i not in keep
    )
    assert edit.remove(folder, lambda clip: clip.id in gone)[1] == []


def test_withdrawing_everything_is_refused(built: Path, tmp_path: Path) -> None:
    folder = copy(built, tmp_path)
    with pytest.raises(IndexMismatch, match="expected clips to remain"):
        edit.remove(folder, lambda clip: True)
    assert len(TrainingIndex.load(folder)) == 23


def test_added_clips_are_found_and_the_mean_stays(built: Path, tmp_path: Path) -> None:
    folder, before = copy(built, tmp_path), TrainingIndex.load(built)
    made = edit.add(folder, Source((6,), offset=100), work)
    assert (made.rows, made.clips) == (29, 29)
    after = TrainingIndex.load(folder)
    assert torch.equal(after.mean, before.mean)
    assert after.clips[25].id == "n102"
    wav = next(iter(Noise("x", 102, 1).items())).read()[0]
    found = after.search(after.project(Bands()(wav[None], 8000)))
    assert found.rows.item() == 25
    assert torch.equal(after.vectors(torch.arange(23)), before.vectors(torch.arange(23)))
    with pytest.raises(BadSetting, match="the id 'n100'"):
        edit.add(folder, Source((2,), offset=100), work)
    assert len(TrainingIndex.load(folder)) == 29


def test_adding_that_is_stopped_leaves_the_index_and_goes_on(built: Path, tmp_path: Path) -> None:
    folder = copy(built, tmp_path)
    more = Source((9,), offset=100)

    def stop(done: int, total: int | None) -> None:
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        edit.add(folder, more, work, progress=stop)
    assert len(TrainingIndex.load(folder)) == 23
    seen: list[int] = []
    edit.add(folder, more, work, progress=lambda done, _: seen.append(done))
    assert seen[0] == 5
    assert len(TrainingIndex.load(folder)) == 32
    assert not (folder / "added").exists()


def test_adding_that_is_refused_leaves_nothing_behind(built: Path, tmp_path: Path) -> None:
    folder = copy(built, tmp_path)
    with pytest.raises(IndexMismatch, match="the drive is gone"):
        edit.add(folder, Source((9,), offset=100, bad=107), work)
    with pytest.raises(BadSetting, match="the id 'n3'"):
        edit.add(folder, Source((9,), offset=3), work)
    assert files(folder) == files(built)


def test_other_clips_can_be_added_after_a_stop(built: Path, tmp_path: Path) -> None:
    folder = copy(built, tmp_path)

    def stop(done: int, total: int | None) -> None:
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        edit.add(folder, Source((9,), offset=100), work, progress=stop)
    edit.add(folder, Source((2,), offset=200, name="others"), work)
    assert len(TrainingIndex.load(folder)) == 25
    assert b"n100" not in b"".join(files(folder).values())


# ------------------------------------------------------------------------------- other machines


def test_an_index_is_built_wherever_fsspec_reaches(built: Path) -> None:
    url = "memory://built/index"
    build(Source(), work(url), ABOUT)
    index = TrainingIndex.load(url)
    assert torch.equal(index.embeddings, TrainingIndex.load(built).embeddings)
    assert manifest.read(Storage(url)).content == manifest.read(Storage(built)).content


def test_an_index_is_fetched_and_a_stopped_copy_goes_on(tmp_path: Path) -> None:
    url, copy = "memory://fetched/index", tmp_path / "copy"
    build(Source(), work(url), ABOUT)
    with pytest.raises(KeyboardInterrupt):
        edit.fetch(url, copy, _stop_at_three)
    with pytest.raises(IndexMismatch):
        TrainingIndex.load(copy)
    edit.fetch(url, copy)
    assert torch.equal(TrainingIndex.load(copy).embeddings, TrainingIndex.load(url).embeddings)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/one.txt").touch()
    with pytest.raises(OutputExists):
        edit.fetch(url, tmp_path / "thesis")


def _stop_at_three(done: int, total: int) -> None:
    if done == 3:
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("starts", "captions", "refused"),
    [
        ([0.0, 0.0, 0.0], "aba", True),
        ([0.0, 0.0, 1.0], "aab", True),
        ([0.0, 1.0, 2.0], "abb", True),
        ([0.0, 0.5, 1.0], "aaa", False),
    ],
)
def test_neighbours_of_one_id_are_windows_of_one_clip(
    tmp_path: Path, starts: list[float], captions: str, refused: bool
) -> None:
    cells = {"caption": list(captions), "id": ["x"] * 3, "start_s": starts}
    path = table(tmp_path / "e.parquet", {"embedding": fixed(embeddings(3)), **cells})
    clips = VectorSource(path)
    with pytest.raises(BadSetting, match="two clips have the id 'x'") if refused else nullcontext():
        assert build(clips, work(tmp_path / "index"), ABOUT).rows == 3
