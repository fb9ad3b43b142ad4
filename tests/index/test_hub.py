"""Hugging Face datasets as a source of clips, without torchcodec and without the network."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from support.index_clips import SOUNDS, clips_of, identity, read_unit

from anechoic import audio
from anechoic.errors import BadAudio, BadCaptions, BadSetting
from anechoic.index.sources import rows
from anechoic.index.sources import saved as saved_sets
from anechoic.index.sources.hub import Stream, StreamSource
from anechoic.index.sources.opening import open_source
from anechoic.index.sources.protocol import Columns
from anechoic.index.sources.saved import SavedSource

datasets = pytest.importorskip("datasets")


def rows_of(source: Any) -> list[tuple]:
    return [row for unit in source.units() for row in read_unit(unit)]


def in_memory(**columns: Any) -> Any:
    """A dataset of six sounds that is declared to be decoded by torchcodec."""
    made = {"audio": SOUNDS, "caption": [f"take {i}" for i in range(6)], **columns}
    return datasets.Dataset.from_dict(made).cast_column("audio", datasets.Audio())


@pytest.fixture(autouse=True)
def quiet(monkeypatch: Any, tmp_path: Path) -> None:
    datasets.disable_progress_bars()
    monkeypatch.setattr(saved_sets, "ROWS", 4)
    monkeypatch.setattr(saved_sets, "BATCH", 2)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    in_memory(bpm=range(6)).save_to_disk(tmp_path / "saved", num_shards=2)
    return tmp_path / "saved"


@pytest.fixture
def parquets(tmp_path: Path) -> Path:
    for part in range(2):
        path = tmp_path / f"parquet/{part}.parquet"
        path.parent.mkdir(exist_ok=True)
        in_memory(bpm=range(6)).shard(2, part, contiguous=True).to_parquet(path)
    return tmp_path / "parquet"


EXPECTED = [(f"take {i}", {"bpm": str(i)}, audio.read_bytes(SOUNDS[i], "")[0]) for i in range(6)]


@pytest.mark.parametrize("kind", ["saved", "parquets"])
def test_a_dataset_gives_its_sounds_undecoded_by_torchcodec(
    request: pytest.FixtureRequest, kind: str
) -> None:
    source = open_source(request.getfixturevalue(kind))
    items = [item for unit in source.units() for item in unit.items()]
    told = [(item.caption, item.info, item.read()[0]) for item in items]
    assert [about[:2] for about in told] == [about[:2] for about in EXPECTED]
    assert all(torch.equal(a[2], b[2]) for a, b in zip(told, EXPECTED, strict=True))
    assert len({item.id for item in items}) == 6
    assert source.total == 6


@pytest.mark.parametrize("kind", ["saved", "parquets"])
def test_units_of_a_dataset_start_anywhere_and_in_another_process(
    request: pytest.FixtureRequest, kind: str
) -> None:
    where = request.getfixturevalue(kind)
    units = open_source(where).units()
    assert len(units) == 2
    assert len({unit.key for unit in units}) == 2
    for unit in units:
        whole = read_unit(unit)
        again = pickle.loads(pickle.dumps(unit))
        for start in range(len(whole) + 2):
            assert read_unit(again, start) == whole[start:]
    assert identity(open_source(where)) == identity(open_source(where))


def test_an_audiofolder_is_streamed_undecoded(tmp_path: Path) -> None:
    clips = clips_of(tmp_path)
    source = StreamSource(Stream(str(clips)))
    items = [item for unit in source.units() for item in unit.items()]
    assert [item.id for item in items] == [f"id{i}" for i in range(6)]
    assert items[5].path == str(clips / "deep/5.wav")
    assert items[5].info == {"licence": "MIT"}
    assert items[5].read()[0].shape == (2, 1600)


def test_other_names_of_columns_may_be_given(tmp_path: Path) -> None:
    names = {"audio": "sound", "caption": "words"}
    made = in_memory(key=list("abcdef")).rename_columns(names)
    made.save_to_disk(tmp_path / "saved")
    with pytest.raises(BadCaptions, match="expected one called 'audio' or 'file_name'"):
        open_source(tmp_path / "saved")
    columns = Columns(audio="sound", caption="words", id="key")
    told = [about[:2] for about, _ in rows_of(open_source(tmp_path / "saved", columns=columns))]
    assert told == [(k, f"take {i}") for i, k in enumerate("abcdef")]


def test_ids_that_are_not_one_for_each_clip_are_refused(tmp_path: Path) -> None:
    in_memory(id=[1, 2, 3, 4, 5, 5]).save_to_disk(tmp_path / "saved")
    with pytest.raises(BadCaptions, match="5 different values of 'id' in 6 rows"):
        open_source(tmp_path / "saved")


def test_rows_without_sound_or_caption_are_refused(tmp_path: Path) -> None:
    in_memory(text=["a", "b", None, "d", "e", "f"]).save_to_disk(tmp_path / "a")
    with pytest.raises(BadCaptions, match="row 2 has no 'text'"):
        rows_of(open_source(tmp_path / "a", columns=Columns(caption="text")))
    made = {"audio": [SOUNDS[0], None], "caption": ["a", "b"]}
    no_sound = datasets.Dataset.from_dict(made).cast_column("audio", datasets.Audio())
    no_sound.save_to_disk(tmp_path / "b")
    with pytest.raises(BadAudio, match="row 1 has no sound in 'audio'"):
        rows_of(open_source(tmp_path / "b"))


def test_sounds_that_lie_beside_a_dataset_are_found_or_missed(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(SOUNDS[0])
    made = {"audio": ["a.wav", "none.wav"], "caption": ["a", "b"]}
    table = datasets.Dataset.from_dict(made)
    table.to_parquet(tmp_path / "t.parquet")
    (unit,) = open_source(tmp_path / "t.parquet").units()
    items = list(unit.items())
    assert items[0].path == str(tmp_path / "a.wav")
    assert items[0].read()[0].shape == (2, 1600)
    with pytest.raises(BadAudio, match="does not exist"):
        items[1].read()


def test_a_saved_dataset_that_is_cut_off_is_refused(saved: Path) -> None:
    path = max(saved.glob("*.arrow"))
    path.write_bytes(path.read_bytes()[:-8])  # Arrow reads this without a word
    assert len(datasets.load_from_disk(saved)) == 6
    with pytest.raises(BadSetting, match="the mark of its end is missing"):
        open_source(saved)
    path.unlink()
    saved_sets._opened.cache_clear()
    with pytest.raises(BadSetting, match="cannot be read"):
        open_source(saved)


def test_a_streamed_file_that_is_cut_off_is_refused(parquets: Path) -> None:
    path = parquets / "1.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BadSetting, match="cannot be read"):
        rows_of(open_source(parquets))


def test_a_dataset_of_several_splits_wants_one_named(tmp_path: Path) -> None:
    splits = {"train": in_memory(), "test": in_memory()}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    with pytest.raises(BadSetting, match="has the splits test, train; name the folder of one"):
        open_source(tmp_path / "saved")
    assert open_source(tmp_path / "saved/test").total == 6
    (tmp_path / "hub").mkdir()
    for split, made in splits.items():
        made.to_parquet(tmp_path / f"hub/{split}.parquet")
    with pytest.raises(BadSetting, match=r"has the splits train, test; name one \('hf:.*:train'\)"):
        StreamSource(Stream(str(tmp_path / "hub")))
    assert len(rows_of(open_source(f"hf:{tmp_path}/hub:test"))) == 6
    with pytest.raises(BadSetting, match=r"Bad split: dev.*check its name"):
        open_source(f"hf:{tmp_path}/hub:dev")


def test_a_dataset_of_the_hub_that_cannot_be_reached_is_one_sentence(monkeypatch: Any) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(
        BadSetting, match=r"'nobody/none:train' cannot be reached.*\n?.*unset HF_HUB"
    ):
        open_source("hf:nobody/none:train")


def test_what_datasets_says_of_a_gated_dataset_is_told_with_its_mend() -> None:
    gated = datasets.exceptions.DatasetNotFoundError(
        "Dataset 'a/b' is a gated dataset on the Hub. Visit the dataset page to ask for access."
    )
    complaint = r"'a/b' cannot be read .*gated.* accept its terms"
    with pytest.raises(BadSetting, match=complaint), rows.explained("a/b"):
        raise gated


def test_the_saved_source_is_the_one_told_by_its_folder(saved: Path, parquets: Path) -> None:
    assert type(open_source(saved)) is SavedSource
    assert type(open_source(parquets)) is StreamSource
    assert pq.read_schema(parquets / "0.parquet").names == ["audio", "caption", "bpm"]
