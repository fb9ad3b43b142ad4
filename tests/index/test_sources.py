"""What every source of clips keeps to, folders, and how a source is told by its name."""

from __future__ import annotations

import pickle
import shutil
import struct
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from support.index_clips import (
    MAKERS,
    RATE,
    SOUNDS,
    clips_of,
    identity,
    pack,
    parquet_of,
    read_unit,
    tars_of,
)

from anechoic import audio
from anechoic.errors import BadAudio, BadCaptions, BadSetting
from anechoic.index.sources import folder as folders
from anechoic.index.sources import vectors as parquet
from anechoic.index.sources.amg import AmgSource
from anechoic.index.sources.folder import FolderSource
from anechoic.index.sources.opening import open_source
from anechoic.index.sources.protocol import Columns
from anechoic.index.sources.vectors import VectorSource
from anechoic.index.sources.webdataset import TarSource


@pytest.fixture(params=MAKERS)
def where(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: Any) -> Path:
    """Some clips of each kind, cut into small units."""
    monkeypatch.setattr(folders, "LINES", 4)
    monkeypatch.setattr(parquet, "ROWS", 3)
    return MAKERS[request.param](tmp_path)


# --------------------------------------------------------------------- what all sources keep


def test_a_unit_started_in_the_middle_gives_the_rest_of_it(where: Path) -> None:
    for unit in open_source(where).units():
        whole = read_unit(unit)
        for start in range(len(whole) + 2):
            assert read_unit(unit, start) == whole[start:]


def test_a_unit_reads_the_same_in_another_process(where: Path) -> None:
    for unit in open_source(where).units():
        again = pickle.loads(pickle.dumps(unit))
        assert again == unit
        assert read_unit(again) == read_unit(unit)


def test_the_keys_of_units_are_file_names_and_stand_from_run_to_run(where: Path) -> None:
    keys = [unit.key for unit in open_source(where).units()]
    assert len(set(keys)) == len(keys) > 0
    assert keys == sorted(keys)
    assert all(Path(key).name == key and not key.startswith(".") for key in keys)
    assert keys == [unit.key for unit in open_source(where).units()]


def test_units_hold_every_clip_once(where: Path) -> None:
    source = open_source(where)
    abouts = [row[0] for unit in source.units() for row in read_unit(unit)]
    ids = [about[0] if isinstance(about, tuple) else about.id for about in abouts]
    assert len(set(ids)) == len(ids)
    assert source.total in (None, len(ids))


def test_the_identity_stands_until_the_content_changes(where: Path) -> None:
    before = identity(open_source(where))
    units = {unit.key: unit.identity for unit in open_source(where).units()}
    assert identity(open_source(where)) == before
    if (captions := where / "metadata.csv").exists():
        captions.write_text(captions.read_text().replace("take 5", "another"))
    elif (tar := where / "clips-1.tar").exists():
        pack(tar, {"a.wav": SOUNDS[0], "a.txt": b"a"})
    elif where.is_dir():
        shutil.copy(where / "0.parquet", where / "1.parquet")
    else:
        where.write_text(where.read_text().replace("take 3", "another"))
    source = open_source(where)
    assert identity(source) != before
    other = [unit.key for unit in source.units() if units.get(unit.key) != unit.identity]
    assert len(other) == 1 if len(units) == 2 else other  # the rest need not be done again


def test_a_tar_of_the_same_size_is_another_if_its_sound_is(tmp_path: Path) -> None:
    tar = tmp_path / "clips.tar"
    pack(tar, {"a.wav": SOUNDS[0], "a.txt": b"a"})
    before = identity(TarSource(str(tar)))
    content = bytearray(tar.read_bytes())
    content[700] ^= 1  # in the samples of the sound
    tar.write_bytes(content)
    assert identity(TarSource(str(tar))) != before


def test_parquet_of_the_same_footer_is_another_if_its_vectors_are(tmp_path: Path) -> None:
    file = tmp_path / "vectors.parquet"
    pq.write_table(
        pa.table({"id": ["a"], "caption": ["b"], "embedding": [[1.0, 0.25]]}),
        file,
        compression="none",
        use_dictionary=False,
        write_statistics=False,
    )
    before = identity(VectorSource(str(file)))
    content = file.read_bytes()
    file.write_bytes(content.replace(struct.pack("<d", 0.25), struct.pack("<d", 0.5)))
    assert identity(VectorSource(str(file))) != before


def test_two_clips_of_one_size_that_were_swapped_change_the_identity(tmp_path: Path) -> None:
    folder = clips_of(tmp_path)
    before = identity(FolderSource(folder))
    first, second = folder / "0.wav", folder / "1.wav"
    assert first.stat().st_size == second.stat().st_size
    content = first.read_bytes(), second.read_bytes()
    for file, other in ((first, content[1]), (second, content[0])):
        file.write_bytes(other)
    assert identity(FolderSource(folder)) != before


# ------------------------------------------------------------------------------- folders


def test_a_folder_gives_its_sounds_with_all_that_the_captions_tell(tmp_path: Path) -> None:
    source = FolderSource(clips_of(tmp_path))
    items = list(source.units()[0].items())
    told = ("id5", "take 5", "deep/5.wav", {"licence": "MIT"})
    assert (items[5].id, items[5].caption, items[5].path, items[5].info) == told
    wav, rate = items[5].read()
    assert rate == RATE
    assert torch.equal(wav, audio.read(Path(source.clips_folder, "deep/5.wav"))[0])


@pytest.mark.parametrize("road", ["./{}", "../clips/{}", "deep/../{}"])
def test_captions_may_name_a_file_by_another_road(tmp_path: Path, road: str) -> None:
    clips = clips_of(tmp_path)
    path = clips / "metadata.csv"
    path.write_text(path.read_text().replace("0.wav", road.format("0.wav")))
    assert FolderSource(clips).total == 6


def test_captions_may_name_a_linked_folder(tmp_path: Path) -> None:
    clips = clips_of(tmp_path)
    (clips / "link").symlink_to(clips / "deep")
    path = clips / "metadata.csv"
    path.write_text(path.read_text().replace("deep/", "link/"))
    assert FolderSource(clips).total == 6


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("id3", "id2", "more than one line with the id 'id2'"),
        ("3.wav", "2.wav", "more than one line for '2.wav'"),
        ("3.wav", "9.wav", "no such file in .*'9.wav'"),
        ("3.wav,take 3,id3,MIT\n", "", "no line for the clips '3.wav'"),
        ("take 3", "caf\udce9", "not UTF-8 .byte 0xe9"),
    ],
)
def test_captions_that_do_not_fit_a_folder_are_refused(
    tmp_path: Path, old: str, new: str, complaint: str
) -> None:
    path = clips_of(tmp_path) / "metadata.csv"
    path.write_bytes(path.read_text().replace(old, new).encode("utf-8", "surrogateescape"))
    with pytest.raises(BadCaptions, match=complaint):
        FolderSource(path.parent)


# ------------------------------------------------------------------------ what is meant


def test_the_kind_of_source_is_told_by_what_is_there(tmp_path: Path) -> None:
    for make in MAKERS.values():
        make(tmp_path)
    captions = shutil.move(tmp_path / "clips/metadata.csv", tmp_path / "captions.csv")
    kinds = {
        tmp_path / "tars": TarSource,
        f"{tmp_path}/tars/clips-{{0..1}}.tar": TarSource,
        tmp_path / "tars/*.tar": TarSource,
        tmp_path / "emb": VectorSource,
        tmp_path / "emb/0.parquet": VectorSource,
        tmp_path / "amg.json": AmgSource,
    }
    assert {where: type(open_source(where)) for where in kinds} == kinds
    assert type(open_source(tmp_path / "clips", captions)) is FolderSource


@pytest.mark.parametrize(
    ("where", "error", "complaint"),
    [
        ("nowhere", BadAudio, "expected a folder of clips"),
        ("empty", BadAudio, "no sound files"),
        ("clips.zip", BadSetting, "not a source of clips; expected a folder"),
        ("s3://bucket/clips", BadSetting, "not a source of clips; expected a folder"),
        ("tars/none-*.tar", BadSetting, ".tar file 'tars/none-.*.tar' does not exist"),
        ("tars/{clips-0,clips-0}.tar", BadSetting, "names a file twice"),
        ("none.parquet", BadSetting, ".parquet file 'none.parquet' does not exist"),
        ("none.json", BadSetting, "file 'none.json' does not exist"),
        ("tars/clips-?.*", BadSetting, "not a source of clips"),
        ("c" + "[" * 5000 + ".tar", BadSetting, "name of a source has 5005 characters"),
        ("hf:", BadSetting, "expected a dataset as 'hf:NAME:SPLIT'"),
        ("hf:a/b:c:d:e", BadSetting, "expected a dataset as 'hf:NAME:SPLIT'"),
        ("mixed", BadSetting, r"holds sounds and \.tar files"),
    ],
)
def test_what_is_no_source_is_refused(
    tmp_path: Path, monkeypatch: Any, where: str, error: type[Exception], complaint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    tars_of(tmp_path)
    (tmp_path / "empty").mkdir()
    shutil.copytree(tmp_path / "tars", tmp_path / "mixed")
    (tmp_path / "mixed/a.wav").write_bytes(SOUNDS[0])
    with pytest.raises(error, match=complaint):
        open_source(where)


def test_captions_and_columns_are_refused_where_there_are_none_to_name(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="captions belong to a folder of sounds"):
        open_source(tars_of(tmp_path) / "clips-0.tar", captions="x.csv")
    with pytest.raises(BadSetting, match="only a dataset or Parquet has columns"):
        open_source(clips_of(tmp_path), columns=Columns(caption="words"))
    with pytest.raises(BadSetting, match="sound or its embeddings, not both"):
        open_source(parquet_of(tmp_path), columns=Columns(audio="audio"))


# ---------------------------------------------------------------- nothing is left out in silence


def test_shards_of_a_folder_are_found_in_any_case_and_depth_without_hidden_ones(
    tmp_path: Path,
) -> None:
    folder = tars_of(tmp_path)
    first, *_ = sorted(folder.glob("*.tar"))
    (folder / "._one.tar").write_bytes(b"left by macOS")
    (folder / ".git").mkdir()
    shutil.copy(first, folder / ".git/old.tar")
    (folder / "more").mkdir()
    shutil.copy(first, folder / "more/deep.tar")
    shutil.copy(first, folder / "ONE.TAR")
    names = [Path(tar).name for tar in TarSource(folder).tars]
    assert set(names) == {path.name for path in folder.glob("*.tar")} - {"._one.tar"} | {
        "ONE.TAR",
        "deep.tar",
    }
    assert len(open_source(folder).units()) == len(names)


def test_upper_case_parquet_counts(tmp_path: Path) -> None:
    folder = parquet_of(tmp_path)
    (folder / "1.parquet").rename(folder / "1.PARQUET")
    assert open_source(folder).total == 10


def test_shards_that_are_not_read_are_refused(tmp_path: Path) -> None:
    folder = tars_of(tmp_path)
    (folder / "b.tar.gz").write_bytes(b"")
    with pytest.raises(BadSetting, match=r"compressed tars \('b.tar.gz'\)"):
        open_source(folder)


def test_sound_that_is_not_read_is_not_left_out(tmp_path: Path) -> None:
    folder = clips_of(tmp_path)
    (folder / "another.m4a").write_bytes(b"")
    with pytest.raises(BadCaptions, match=r"no line for the clips 'another.m4a'"):
        FolderSource(folder)
    (folder / "another.m4a").unlink()
    (folder / "gone.wav").symlink_to(folder / "nowhere.wav")
    with pytest.raises(BadAudio, match=r"gone\.wav' is a broken link"):
        FolderSource(folder)


def test_sounds_behind_a_link_to_a_folder_are_found(tmp_path: Path) -> None:
    folder = clips_of(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/more.wav").write_bytes(SOUNDS[0])
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "round").symlink_to(folder)
    with pytest.raises(BadCaptions, match=r"no line for the clips 'linked/more.wav'"):
        FolderSource(folder)


def test_a_file_named_twice_by_two_spellings_is_refused(tmp_path: Path) -> None:
    folder = clips_of(tmp_path)
    table = folder / "metadata.csv"
    header, line, *others = table.read_text().splitlines()
    table.write_text("\n".join([header, line, f"./{line}", *others]))
    with pytest.raises(BadCaptions, match="more than one line"):
        FolderSource(folder)


def test_braces_of_too_many_names_are_refused_at_once() -> None:
    for pattern in ("c-{0..99999999}.tar", "{0..999}{0..999}.tar", "{0..9}" * 12 + ".tar"):
        with pytest.raises(BadSetting, match="over the limit of 100000"):
            open_source(pattern)


@pytest.mark.parametrize(
    "where", ["http://localhost:9/a.tar", "nosuch://a.tar", "s3://a/b.tar", "3://a/b.tar"]
)
def test_places_that_cannot_be_reached_are_told_in_a_sentence(where: str) -> None:
    with pytest.raises(BadSetting, match=r"cannot be reached|\.tar file .* does not exist"):
        open_source(where)
