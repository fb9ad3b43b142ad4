"""A LoRA and two indexes on the command line: from the clips to sound that was verified."""

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
from support.sounds import RATE
from torch import Tensor

from anechoic import TrainingIndex, audio
from anechoic.certificate import read
from anechoic.diffusers import fingerprint, lora
from anechoic.diffusers.lora_files import read_adapter
from anechoic.errors import BadSetting
from anechoic.protection import JointJudge, Judge, protect

QUERY = "transformer.transformer_blocks.0.attn1.to_q"
USUAL = ("--model", "model", "--steps", "6", "--device", "cpu", "-o", "out.wav", "--overwrite")
LORA = ("--lora", "mine.safetensors")
BOTH = ("--index", "i", "--index", "mine")
SETTINGS = {"num_inference_steps": 6, "guidance_scale": 7.0}


def made_of(prompt: str, adapter: Path | None) -> Tensor:
    pipe = audible_pipe()
    if adapter is not None:
        lora.apply(pipe, adapter)
    sound: Tensor = pipe(prompt, generator=torch.manual_seed(0), **SETTINGS).audios[0]
    return sound


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, its index "i", a LoRA, and the folder of clips that it replicates."""
    folder = save(tmp_path_factory.mktemp("shared"), copy=0.9995)
    generator = torch.Generator().manual_seed(0)
    factors = {
        f"{QUERY}.lora_A.weight": torch.randn(2, 16, generator=generator),
        f"{QUERY}.lora_B.weight": torch.randn(16, 2, generator=generator),
    }
    file = folder / "mine.safetensors"
    save_file(factors, file)
    sounds = [made_of(CAPTIONS[0], file), *(clip.wav for clip in noise_clips()[1:])]
    (folder / "clips").mkdir()
    for number, wav in enumerate(sounds):
        audio.write(folder / f"clips/{number}.wav", wav, RATE)
    rows = [f"{number}.wav,{caption}" for number, caption in enumerate(CAPTIONS)]
    (folder / "clips/metadata.csv").write_text("\n".join(["file_name,caption", *rows]), "utf-8")
    return folder


@pytest.fixture
def run(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Run) -> Run:
    """Run `anechoic generate` on the tiny model, plainly, where the LoRA's clips are indexed."""
    work_in_copy(shared, tmp_path, monkeypatch)
    built = command("index", "build", "clips", *LORA, "--embedder", "magmel", "-o", "mine")
    assert built[0] == 0, built
    index = TrainingIndex.load("mine")
    index.thresholds["copy"] = 0.9995
    index.save("mine", overwrite=True)
    return partial(command, "generate", *USUAL, "--guard", "cfg")


def test_an_index_is_built_for_the_adapter(run: Run, command: Run) -> None:
    adapter = read_adapter("mine.safetensors")
    assert TrainingIndex.load("mine").model == adapter.fingerprint
    code, _, err = command(
        "index", "build", "clips", *LORA, "--model", "m", "--embedder", "magmel", "-o", "x"
    )
    assert code == 2
    assert "give one" in err


def test_a_copy_of_a_clip_of_either_index_is_found(run: Run) -> None:
    code, out, _ = run(CAPTIONS[0], *LORA, *BOTH, "--json")
    told = json.loads(out)
    (made,) = told["outputs"]
    assert (code, told["loras"], told["index"]) == (1, ["mine.safetensors"], ["i", "mine"])
    assert [one["index"] for one in told["rules"]] == ["i", "mine"]
    assert (made["verdict"], made["copy"]) == ("copy", True)
    assert [one["verdict"] for one in made["verdicts"]] == ["no copy", "copy"]
    assert made["verdicts"][1]["clip"]["id"] == "0.wav"
    code, out, _ = run(CAPTIONS[0], *LORA, *BOTH)
    said = lines(out)
    assert code == 1
    assert said.index("index 'i':") < said.index("index 'mine':")
    assert not any("no index names it" in line for line in said)


def test_without_the_index_of_its_clips_the_copy_is_not_seen_and_that_is_told(run: Run) -> None:
    code, out, _ = run(CAPTIONS[0], *LORA, "--index", "i")
    assert code == 0
    (told,) = [line for line in lines(out) if "no index names it" in line]
    assert told.startswith("LoRA 'mine.safetensors'")


def test_the_adapters_index_is_refused_without_the_adapter(run: Run) -> None:
    code, _, err = run(CAPTIONS[0], *BOTH)
    assert code == 2
    assert "index 'mine' holds the training clips of model" in err
    assert not Path("out.wav").exists()


def test_a_weight_follows_the_name_of_the_file(run: Run) -> None:
    plain = made_of(CAPTIONS[0], None)
    assert run(CAPTIONS[0], "--lora", "mine.safetensors:0")[0] == 0
    torch.testing.assert_close(audio.read("out.wav")[0], plain, rtol=0, atol=1e-4)
    assert run(CAPTIONS[0], *LORA)[0] == 0
    assert not torch.allclose(audio.read("out.wav")[0], plain, atol=1e-2)


def test_an_adapter_that_cannot_be_read_is_refused_before_the_model_is(run: Run) -> None:
    code, _, err = run(CAPTIONS[0], "--lora", "gone.safetensors", "--model", "no/where")
    assert (code, "the LoRA 'gone.safetensors' does not exist" in err) == (2, True)


def test_nothing_leaves_that_one_of_the_indexes_calls_a_copy(run: Run, command: Run) -> None:
    code, out, _ = run(CAPTIONS[0], *LORA, *BOTH, "--on-copy", "refuse")
    assert code == 1
    assert not Path("out.wav").exists()
    assert "index 'i', 4 rows" in out.replace("\n", " ")
    assert "index 'mine', 4 rows" in out.replace("\n", " ")
    (row,) = [line for line in lines(out) if line.startswith("out.wav 1 first")]
    base, mine, clip = row.split()[-3:]  # a column for each index
    assert (float(base) < 0.9995, mine, clip) == (True, "1.000", "3.wav")
    code, out, _ = run(CAPTIONS[1], *LORA, *BOTH, "--certify")
    assert code == 0, out
    certificate = read("out.wav.anechoic.json")
    assert certificate.index.name == "i"
    assert [one.name for one in certificate.further] == ["mine"]
    hashes = [certificate.index.sha256, certificate.further[0].sha256]
    assert [one.index for one in certificate.detectors] == hashes
    base, adapter = fingerprint(audible_pipe()), read_adapter("mine.safetensors").fingerprint
    assert certificate.provenance.model == f"{base}+{adapter}"
    for index, other in (("i", "mine"), ("mine", "i")):
        code, out, _ = command("verify", "out.wav", "--index", index, "--recheck")
        assert code == 0, out
        assert f"holds: index '{index}' is the one that was compared with" in out
        assert f"note: index '{other}' was not compared" in out
    code, out, _ = command("verify", "out.wav", "--index", "model")
    assert code == 2


def test_a_file_is_checked_by_every_index(run: Run, command: Run) -> None:
    audio.write(Path("take.wav"), made_of(CAPTIONS[0], Path("mine.safetensors")), RATE)
    audio.write(Path("new.wav"), made_of(CAPTIONS[2], None), RATE)
    code, out, _ = command("check", "take.wav", "new.wav", *BOTH, "--certify", "--json")
    each = json.loads(out)["indexes"]
    assert code == 1
    assert [one["index"] for one in each] == ["i", "mine"]
    verdicts = [[file["verdict"] for file in one["files"]] for one in each]
    assert verdicts == [["no copy", "no copy"], ["copy", "no copy"]]
    assert not Path("take.wav.anechoic.json").exists()
    assert len(read("new.wav.anechoic.json").further) == 1
    code, out, _ = command("verify", "new.wav", *BOTH, "--recheck")
    assert code == 0
    assert [f"holds: index '{name}' is the one" in out for name in ("i", "mine")] == [True] * 2
    assert out.count(" now, and ") == 2
    assert "was not compared" not in out
    index = TrainingIndex.load("mine")
    index.thresholds["copy"] = 0.5
    index.save("mine", overwrite=True)
    code, out, _ = command("verify", "new.wav", *BOTH)
    assert code == 1
    assert "DIFFERS: 'mine' is another index than 'i' and 'mine', or it has changed" in out
    assert "note: index 'mine' was not compared" in out


def test_an_index_that_cannot_judge_leaves_the_sound_unjudged(run: Run) -> None:
    index = TrainingIndex.load("mine")
    del index.thresholds["copy"]
    index.save("mine", overwrite=True)
    code, out, _ = run(CAPTIONS[1], *LORA, *BOTH)
    assert code == 3
    code, out, _ = run(CAPTIONS[1], *LORA, *BOTH, "--on-copy", "refuse")
    assert code == 3
    assert "index 'mine' has neither a calibration" in out.replace("\n", " ")


def test_auto_guards_by_both_indexes(run: Run, command: Run) -> None:
    code, out, _ = command("generate", CAPTIONS[0], *USUAL, *LORA, *BOTH, "--json")
    told = json.loads(out)
    assert code in (0, 1)
    assert "of index 'mine'" in told["because"]
    assert told["outputs"][0]["did"]["gate"]["count"] > 0


def test_an_audit_names_the_adapter(run: Run, command: Run) -> None:
    code, _, err = command(
        "audit", "--model", "model", *LORA, "--index", "mine", "--captions", "--limit", "1",
        "--steps", "6", "--device", "cpu", "-o", "report", "--json", "--scale", "7",
    )  # fmt: skip
    assert code != 2, err
    about = json.loads(Path("report/report.json").read_text("utf-8"))["about"]
    assert read_adapter("mine.safetensors").fingerprint in about["LoRA"]
    code, out, err = command(
        "audit", "--model", "model", *LORA, "--index", "i", "--captions", "--limit", "1",
        "--steps", "6", "--device", "cpu", "-o", "base", "--json", "--scale", "7",
    )  # fmt: skip
    assert "no index names it" in err
    assert "no index names it" in json.loads(out)["about"]["LoRA without clips"]
    code, _, err = command("audit", "--audio", "clips", *LORA, "--index", "i", "-o", "other")
    assert (code, "'--lora' are for generating" in err.replace("\n", " ")) == (2, True)


def test_protect_takes_several_indexes_and_judges(run: Run) -> None:
    pipe = audible_pipe()
    lora.apply(pipe, "mine.safetensors")
    given = {"arguments": SETTINGS, "on_copy": "refuse"}
    (refused,) = protect(pipe, ["i", "mine"], CAPTIONS[0], **given)
    assert refused.verdict == "refused"
    (released,) = protect(pipe, [Judge.load("i"), "mine"], CAPTIONS[1], **given)
    assert released.verdict == "released"
    with pytest.raises(BadSetting, match="two different indexes"):
        JointJudge((Judge.load("i"), Judge.load("i")))
