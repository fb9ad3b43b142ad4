"""`anechoic convert`, there and back, and what takes a checkpoint in the place of a pipeline."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support import original_model as tiny
from support.commands import Run

CHECKPOINT = "mine/model.safetensors"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_checkpoint(tmp_path_factory.mktemp("original") / "mine")


@pytest.fixture
def mine(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint, "mine" in the working directory."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(shared, "mine"))


@pytest.mark.usefixtures("mine")
def test_there_and_back(command: Run) -> None:
    assert command("convert", CHECKPOINT, "-o", "out") == (0, "wrote 'out'\n", "")
    back = "back/model.safetensors"
    assert command("convert", "out", "-o", back) == (0, f"wrote '{back}'\n", "")
    one, other = load_file(CHECKPOINT), load_file(back)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert command("convert", "mine", "-o", "out", "--overwrite")[0] == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("nowhere", "-o", "out"), "there is no checkpoint or folder 'nowhere'; check the path"),
        (("mine", "-o", "out.safetensors"),
         "'mine' is a checkpoint, which becomes a folder, got 'out.safetensors'; name one"),
        (("mine", "-o", "t5"),
         "'t5' exists already; replace it with '--overwrite' (overwrite=True in Python), or name "
         "another output"),
        (("mine", "-o", "t5", "--overwrite"),
         "'t5' is not the folder of a diffusers pipeline, so it is not replaced; name another "
         "output"),
        (("t5", "-o", "out"),
         "'t5' is no checkpoint of stable-audio-tools (.safetensors or .ckpt, with its "
         "model_config.json), nor the folder of a diffusers pipeline; name one"),
        (("mine", "-o", "out", "--config", "nowhere.json"),
         "there is no file 'nowhere.json'; check the path"),
        (("mine", "-o", "out", "--text-encoder", "mine"),
         "'mine' is no T5 encoder that can be read (config.json is missing); fetch it again, "
         "with its weights as safetensors"),
    ],
)  # fmt: skip
def test_what_cannot_be_converted_is_one_sentence(
    mine: Path, command: Run, words: tuple[str, ...], sentence: str
) -> None:
    tiny.save_text_encoder(mine.with_name("t5"))
    code, out, err = command("convert", *words)
    assert (code, out) == (2, "")
    assert err == f"error: {sentence}\n"
    assert not Path("out").exists()


def test_generate_takes_a_checkpoint(mine: Path, command: Run) -> None:
    words = ("generate", tiny.CAPTION, "--guard", "cfg", "--steps", "3", "--device", "cpu")
    for number, model in enumerate((mine, CHECKPOINT)):
        assert command(*words, "--model", model, "-o", f"{number}.wav")[0] == 0
    assert Path("0.wav").read_bytes() == Path("1.wav").read_bytes()


def test_a_damaged_checkpoint_is_one_sentence(mine: Path, command: Run) -> None:
    (mine / "model.safetensors").write_bytes(b"")
    code, _, err = command(
        "generate", "a dog", "--guard", "cfg", "--model", CHECKPOINT, "-o", "a.wav"
    )
    assert code == 2
    assert err.startswith("error: 'mine/model.safetensors' is no safetensors file, or damaged (")
    assert not Path("a.wav").exists()
