"""The manifest of a training set without its duplicates, as trainers read it."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from support.commands import Run
from support.sounds import RATE, save_clips, tune

from anechoic import TrainingIndex, audio, embedder
from anechoic.errors import BadSetting, OutputExists
from anechoic.index.duplicates import duplicates
from anechoic.training import CleanedSet

LONGER = torch.cat([tune(1), 0.01 * tune(7)], 1)


def load(file: Path) -> Any:
    """A module, as stable-audio-tools loads one of custom metadata."""
    spec = importlib.util.spec_from_file_location("metadata_module", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four clips in "clips", two of which are the same but for their level, and a manifest."""
    monkeypatch.chdir(tmp_path)
    sounds = [tune(0), tune(1), 0.5 * tune(1), tune(2)]
    save_clips(tmp_path, sounds, caption=["a tune", "one", "the first", "a tune"])
    index = TrainingIndex.build("clips", embedder("magmel"), captions="captions.csv")
    CleanedSet.of(index, duplicates(index, 0.99)).write(tmp_path / "cleaned")
    return tmp_path


def test_one_of_each_cluster_is_kept_and_nothing_is_deleted(here: Path) -> None:
    with (here / "cleaned/clips.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["file_name"]: row for row in csv.DictReader(file)}
    assert [(name, row["keep"], row["copies"], row["weight"]) for name, row in rows.items()] == [
        ("0.wav", "yes", "1", "1.0"), ("1.wav", "yes", "2", "0.5"),
        ("2.wav", "no", "2", "0.5"), ("3.wav", "yes", "1", "1.0"),
    ]  # fmt: skip
    assert rows["2.wav"]["duplicate_of"] == "1.wav"
    assert json.loads(rows["1.wav"]["captions"]) == ["one", "the first"]
    assert rows["1.wav"]["suggestion"] == "train it under each of its captions in turn"
    assert rows["0.wav"]["suggestion"] == ""
    assert sorted(path.name for path in (here / "clips").iterdir()) == [
        "0.wav", "1.wav", "2.wav", "3.wav"
    ]  # fmt: skip


def test_the_audiofolder_is_of_the_kept_clips(here: Path) -> None:
    with (here / "cleaned/metadata.csv").open(encoding="utf-8", newline="") as file:
        assert [(row["file_name"], row["caption"]) for row in csv.DictReader(file)] == [
            ("0.wav", "a tune"), ("1.wav", "one"), ("3.wav", "a tune")
        ]  # fmt: skip


def test_the_audiofolder_of_hugging_face_is_of_the_kept_clips(here: Path) -> None:
    datasets = pytest.importorskip("datasets")
    shutil.copy("cleaned/metadata.csv", "clips")
    builder = datasets.load_dataset_builder("audiofolder", data_dir="clips", cache_dir="cache")
    downloads = datasets.DownloadManager(dataset_name="clips", data_dir="clips")
    (split,) = builder._split_generators(downloads)
    # as it is before torchcodec decodes it, which needs FFmpeg
    found = [(Path(one["audio"]).name, one["caption"])
             for _, one in builder._generate_examples(**split.gen_kwargs)]  # fmt: skip
    assert found == [("0.wav", "a tune"), ("1.wav", "one"), ("3.wav", "a tune")]


def test_the_module_rejects_duplicates_and_draws_among_the_captions_of_a_cluster(
    here: Path,
) -> None:
    config = json.loads((here / "cleaned/dataset_config.json").read_text("utf-8"))
    (source,) = config["datasets"]
    assert (config["dataset_type"], source["path"]) == ("audio_dir", str(here / "clips"))
    metadata = load(Path(source["custom_metadata_module"])).get_custom_metadata
    assert metadata({"relpath": "2.wav"}, None) == {"__reject__": True}
    assert metadata({"relpath": "0.wav"}, None) == {"prompt": "a tune"}
    drawn = {metadata({"relpath": "1.wav"}, None)["prompt"] for _ in range(40)}
    assert drawn == {"one", "the first"}
    with pytest.raises(BadSetting, match=r"got 'new\.wav'"):
        metadata({"relpath": "new.wav"}, None)


def test_samples_of_webdataset_are_filtered_by_their_tar_and_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    samples = {"a": {"x": tune(0), "y": tune(1)}, "b": {"x": 0.5 * LONGER}}
    for tar, sounds in samples.items():
        with tarfile.open(f"{tar}.tar", "w") as file:
            for key, wav in sounds.items():
                audio.write(Path("one.wav"), wav, RATE, overwrite=True)
                file.add("one.wav", f"{key}.wav")
                text = tarfile.TarInfo(f"{key}.txt")
                text.size = 6
                file.addfile(text, io.BytesIO(b"a tune"))
    build = ("--embedder", "magmel", "--window", "0.5", "-o", "i")
    assert command("index", "build", "{a,b}.tar", *build)[0] == 0
    index = TrainingIndex.load("i")
    found = duplicates(index, 0.99)
    assert [{clip.id for clip in one.clips} for one in found] == [{"a/y", "b/x"}]
    assert CleanedSet.of(index, found).write(Path("cleaned")) == [
        "clips.csv", "anechoic_metadata.py"
    ]  # fmt: skip
    keep = load(Path("cleaned/anechoic_metadata.py")).keep
    assert keep({"__url__": "s3://bucket/a.tar", "__key__": "x"})
    assert not keep({"__url__": "s3://bucket/a.tar", "__key__": "y"})  # the shorter one
    assert keep({"__url__": "b.tar", "__key__": "x"})
    with pytest.raises(BadSetting, match="got 'c/x'"):
        keep({"__url__": "c.tar", "__key__": "x"})
    webdataset = pytest.importorskip("webdataset")
    chosen = webdataset.WebDataset(["a.tar", "b.tar"], shardshuffle=False).select(keep)
    assert [sample["__key__"] for sample in chosen] == ["x", "x"]


def test_a_table_that_was_edited_is_read_and_a_broken_one_is_refused(here: Path) -> None:
    table = here / "cleaned/clips.csv"
    whole = table.read_text("utf-8")
    table.write_text(whole.replace("2.wav,no", "2.wav,yes"), "utf-8")
    assert CleanedSet.read(here / "cleaned").metadata({"relpath": "2.wav"})["prompt"]
    table.write_text(whole.replace("2.wav,no", "2.wav,perhaps"), "utf-8")
    with pytest.raises(BadSetting, match="line 3 of the data: expected yes or no"):
        CleanedSet.read(here / "cleaned")
    table.write_text(whole.replace("0.5", "half"), "utf-8")
    with pytest.raises(BadSetting, match="line 2 of the data: cannot be read"):
        CleanedSet.read(here / "cleaned")
    with pytest.raises(OutputExists):
        CleanedSet((), None).write(here / "cleaned")
