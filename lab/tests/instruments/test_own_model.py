"""The path of somebody with a folder of sound and a model that nobody tuned a guard on.

Own folder, own model, no settings: indexed, calibrated, examined, protected, certified.
"""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from anechoic_lab.demo import assets
from support.commands import Run

from anechoic import audio, models
from anechoic.index import TrainingIndex

MEMORIZED = "indian tabla tun 1"  # repeated 32 times in training
ORDINARY = "low piano note C 3"  # the caption of no clip
CLIPS, OTHERS = 40, 40
GENERATE = ("--model", "model", "--index", "clips.index", "--scale", "2", "--steps", "12")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of training clips with their captions, another of other sound, and a model."""
    if not assets.SHIPPED.is_dir():
        pytest.skip("the demo's model is not in this tree")
    own, demo = models.find("flow"), models.find("demo")
    for model in (own, demo):
        assert model.index is not None
        assert model.sound is not None
    known = TrainingIndex.load(own.index).clips
    chosen = [clip for clip in known if clip.caption == MEMORIZED]
    chosen += [clip for clip in known if clip not in chosen][: CLIPS - len(chosen)]
    rows = [("file_name", "caption")]
    for clip in chosen:
        rows.append((f"{clip.id.replace('/', '-')}.wav", clip.caption))
        audio.write(tmp_path / "clips" / rows[-1][0], *own.sound(clip))
    with (tmp_path / "clips/metadata.csv").open("w", newline="") as table:
        csv.writer(table).writerows(rows)
    trained = {clip.id for clip in known}
    others = [clip for clip in TrainingIndex.load(demo.index).clips if clip.id not in trained]
    for number, clip in enumerate(others[:OTHERS]):
        audio.write(tmp_path / "others" / f"{number}.wav", *demo.sound(clip))
    shutil.copytree(own.pipeline, tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_from_a_folder_and_a_model_to_certified_sound_without_settings(
    here: Path, command: Run
) -> None:
    assert command("index", "build", "clips", "-o", "clips.index")[0] == 0
    assert command("calibrate", "others", "--index", "clips.index", "--fpr", "0.05")[0] == 0
    examine = ("doctor", "--model", "model", "--index", "clips.index", "--no-measure")
    code, out, _ = command(*examine)
    assert (code, "guard Auto" in out) == (0, True)

    # unguarded, the memorized prompt gives its clip, which is not written either
    unguarded = (MEMORIZED, *GENERATE, "--guard", "cfg", "--on-copy", "refuse", "-o", "copy.wav")
    code, out, _ = command("generate", *unguarded)
    assert (code, Path("copy.wav").exists()) == (1, False)

    code, out, _ = command("generate", MEMORIZED, ORDINARY, *GENERATE, "--certify", "-o", "own.wav",
                           "--json")  # fmt: skip
    told = json.loads(out)
    assert (code, told["guard"]) == (0, "auto")
    assert "the 95 % point of" in told["because"]
    memorized, ordinary = told["sounds"]
    assert memorized["attempts"][0]["substitute"] != MEMORIZED
    assert "substitute" not in ordinary["attempts"][0]
    for number in (1, 2):
        file = f"own-{number}.wav"
        assert command("verify", file, "--index", "clips.index", "--recheck")[0] == 0
        assert command("check", file, "--index", "clips.index")[0] == 0


def test_sound_that_the_guard_does_not_hear_to_its_end_is_refused_before_it_is_made(
    here: Path, command: Run
) -> None:
    command("index", "build", "clips", "--embedder", "magmel:seconds=0.5", "--window", "0.5",
            "-o", "short.index")  # fmt: skip
    code, _, error = command(
        "generate", ORDINARY, "--model", "model", "--index", "short.index", "-o", "own.wav"
    )
    assert (code, "the sound to be generated lasts 1.024 s" in error) == (2, True)
    assert "'--seconds 0.5'" in error
