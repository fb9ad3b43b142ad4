"""`anechoic sweep`, from the command to the page."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.commands import Run, lines, work_in_copy
from support.model_folder import audible_pipe, noise_clips, save
from support.pipelines import CAPTIONS

from anechoic import TrainingIndex, audio, embedder
from anechoic.diffusers import lora
from anechoic.diffusers.lora_files import read_adapter
from anechoic.index import Sound

RATE = 400  # the tiny pipeline's 64 samples then last 0.16 s
QUERY = "transformer.transformer_blocks.0.attn1.to_q"
ASKED = {"num_inference_steps": 4, "guidance_scale": 3.0}
SWEPT = (
    "--model", "model", "--lora", "mine.safetensors", "--index", "mine", "--limit", "2",
    "--scale", "3", "--steps", "4", "--device", "cpu", "-o", "s.html",
)  # fmt: skip


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a LoRA, and the index "mine" of what it makes at weight 1 of the first caption."""
    folder = save(tmp_path_factory.mktemp("shared"), RATE, copy=0.9999)
    generator = torch.Generator().manual_seed(0)
    file = folder / "mine.safetensors"
    factors = {
        f"{QUERY}.lora_A.weight": torch.randn(2, 16, generator=generator),
        f"{QUERY}.lora_B.weight": torch.randn(16, 2, generator=generator),
    }
    save_file(factors, file)
    pipe = audible_pipe(RATE)
    lora.apply(pipe, file)
    made = pipe(CAPTIONS[0], generator=torch.manual_seed(0), **ASKED).audios[0]
    clips = [Sound("0.wav", CAPTIONS[0], made, RATE), *noise_clips(RATE)[1:]]
    TrainingIndex.build(clips, embedder("magmel"), thresholds={"copy": 0.9999}).save(
        folder / "mine"
    )
    return folder


@pytest.fixture
def run(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Run) -> Run:
    """Run `anechoic sweep` where the model and its LoRA are."""
    work_in_copy(shared, tmp_path, monkeypatch)
    return partial(command, "sweep", *SWEPT)


def test_the_weight_without_copies_is_recommended_and_no_sound_is_made_twice(run: Run) -> None:
    code, out, err = run("--weight", "0", "--weight", "1", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert [(one["weight"], one["copies"], one["sounds"]) for one in told["cells"]] == [
        (0.0, 0, 2), (1.0, 2, 2)
    ]  # fmt: skip
    assert told["recommended"] == 0
    assert told["adherence"] is None
    assert told["sentence"] == (
        "model + mine.safetensors at weight 0, scale 3, 4 steps: 0 copies of 2 (0% to 84%)"
    )
    page = Path("s.html").read_text("utf-8")
    assert told["sentence"] in page
    assert "Adherence was not measured" in page
    assert page.count("<audio") == 2
    sounds = {path: path.stat().st_mtime_ns for path in Path("audit-work/sounds").iterdir()}
    assert len(sounds) == 4
    # the sounds at weight 0 are those of the model without a LoRA, which an audit finds
    plain = audible_pipe(RATE)(CAPTIONS[0], generator=torch.manual_seed(0), **ASKED).audios[0]
    audio.write("plain.flac", plain, RATE)
    assert Path("plain.flac").read_bytes() in {path.read_bytes() for path in sounds}
    again = run("--weight", "0", "--weight", "1", "--overwrite")
    assert again[0] == 0
    assert lines(again[1])[0] == told["sentence"]
    assert {p: p.stat().st_mtime_ns for p in Path("audit-work/sounds").iterdir()} == sounds


def test_where_every_setting_copies_that_is_said_and_the_code_is_1(run: Run) -> None:
    code, out, _ = run("--weight", "1", "--guard", "none", "--guard", "cfg")
    assert code == 1
    assert lines(out)[0].startswith("Every setting copies; the least model + mine.safetensors at")
    assert sum(line.startswith("2 of 2") for line in lines(out)) == 2


def test_an_index_of_other_clips_is_refused(run: Run) -> None:
    code, _, err = run("--index", "i")
    assert code == 2
    name = read_adapter("mine.safetensors").fingerprint
    assert f"'anechoic index cover i {name}'" in err
    assert not Path("audit-work").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "s"], "expected a page that ends in .html after '-o', got 's'"),
        (["--lora", "no.safetensors"], "there is no file 'no.safetensors'"),
        (["--weight", "nan"], "the weight of a LoRA is a finite number, got nan"),
        (["--weight", "1", "--weight", "1"], "expected settings to compare, each once"),
        (["--adherence", "magmel"], "and 'magmel' embeds sound alone"),
        (["--scale", "1"], "guidance scale 1 is not a valid guidance scale"),
    ],
)
def test_bad_input_ends_with_one_sentence(run: Run, arguments: list[str], message: str) -> None:
    code, out, err = run(*arguments)
    last = err.splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
    assert (code, out) == (2, "")
