"""Fitted detectors beside an index: the same as when they were fitted, or fitted again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.sounds import RATE, tune

from anechoic.detectors import Correlation, Landmarks, stored
from anechoic.detectors.sound import fit
from anechoic.errors import IndexMismatch
from anechoic.index import Sound

SILENT = torch.zeros(1, RATE)
CLIPS = [Sound(str(i), "", wav, RATE) for i, wav in enumerate([tune(0), SILENT, tune(1), tune(2)])]


@pytest.mark.parametrize("clips", [CLIPS, CLIPS[2:]], ids=["some", "all"])
def test_it_is_the_same_and_counts_the_clips_it_leaves_out(tmp_path: Path, clips) -> None:
    made = fit(Landmarks, clips)
    place = stored.write(tmp_path, "landmarks", made, "content")
    assert place == tmp_path / "detectors/landmarks"
    kept = stored.read(tmp_path, "landmarks", Landmarks, "content")
    assert kept is not None
    wav = torch.stack([tune(1), tune(60)])
    assert kept(wav, RATE) == made(wav, RATE)
    assert kept(wav, RATE)[0].row == len(clips) - 2
    assert kept.name == made.name


def test_of_an_index_that_has_changed_or_was_never_kept_there_is_none(tmp_path: Path) -> None:
    stored.write(tmp_path, "landmarks", fit(Landmarks, CLIPS), "content")
    assert stored.read(tmp_path, "landmarks", Landmarks, "another content") is None
    assert stored.read(tmp_path, "correlation", Correlation, "content") is None
    assert stored.write(tmp_path, "nearest", lambda wav, sample_rate: [], "content") is None


def test_what_is_damaged_is_refused(tmp_path: Path) -> None:
    stored.write(tmp_path, "landmarks", fit(Landmarks, CLIPS), "content")
    about = tmp_path / "detectors/landmarks/about.json"
    whole = json.loads(about.read_text())
    about.write_text(json.dumps(whole | {"left_out": [0]}))
    with pytest.raises(IndexMismatch, match=r"--detector landmarks --overwrite'$"):
        stored.read(tmp_path, "landmarks", Landmarks, "content")
    about.write_text(json.dumps(whole))
    fitted = about.with_name("fitted.safetensors")
    content = bytearray(fitted.read_bytes())
    content[-3] ^= 1
    fitted.write_bytes(content)
    with pytest.raises(IndexMismatch, match="damaged"):
        stored.read(tmp_path, "landmarks", Landmarks, "content")
