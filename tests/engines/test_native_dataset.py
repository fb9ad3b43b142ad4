"""The library's own dataset, told by a manifest what it trains on."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from support.native import INSTALLED, MISSING
from support.sounds import RATE, save_clips, tune

from anechoic import TrainingIndex, audio, embedder
from anechoic.index.duplicates import duplicates
from anechoic.training import CleanedSet

pytestmark = [pytest.mark.engines, pytest.mark.skipif(not INSTALLED, reason=MISSING)]


def test_it_draws_no_duplicate_and_each_caption_of_a_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sounds = [tune(0), tune(1), 0.5 * tune(1)]
    save_clips(tmp_path, sounds, caption=["a tune", "one", "the first"])
    index = TrainingIndex.build("clips", embedder("magmel"), captions="captions.csv")
    CleanedSet.of(index, duplicates(index, 0.99)).write(Path("cleaned"))
    if importlib.util.find_spec("webdataset") is None:  # of tars, which are not read here
        monkeypatch.setitem(sys.modules, "webdataset", MagicMock(__spec__=None))
    from stable_audio_tools.data import dataset

    # its own needs torchcodec in new versions of torchaudio
    monkeypatch.setattr(dataset.SampleDataset, "load_file", lambda self, name: audio.read(name)[0])
    config = json.loads(Path("cleaned/dataset_config.json").read_text("utf-8"))
    loader = dataset.create_dataloader_from_config(config, 1, 1024, RATE, num_workers=1)
    infos = [loader.dataset[i % 3][1] for i in range(60)]
    assert {(info["relpath"], info["prompt"]) for info in infos} == {
        ("0.wav", "a tune"), ("1.wav", "one"), ("1.wav", "the first")
    }  # fmt: skip
