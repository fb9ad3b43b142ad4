"""`anechoic basin`, from the command to the figure, on a tiny, real pipeline and on the demo."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from anechoic_lab.basin.sweep import open_scene
from anechoic_lab.bench import BenchPrompt
from anechoic_lab.demo import assets
from support.commands import Run
from support.model_folder import audible_pipe, noise_clips, save
from support.pipelines import CAPTIONS
from support.sounds import RATE

from anechoic import TrainingIndex, audio, embedder
from anechoic.diffusers import fingerprint
from anechoic.errors import IndexMismatch
from anechoic.guidance import ClassifierFree

PROMPTS = [BenchPrompt(CAPTIONS[0], CAPTIONS[0], "memorized")]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline, "model", the index of its training set, "i", and that of "other" models."""
    folder = save(tmp_path_factory.mktemp("shared"), copy=0.9)
    other = fingerprint(audible_pipe())[::-1]
    TrainingIndex.build(noise_clips(), embedder("magmel"), model=other).save(folder / "other")
    return folder


@pytest.fixture
def run(tmp_path: Path, command: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `anechoic basin` in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return partial(command, "basin")


@pytest.fixture
def usual(shared: Path) -> list[str]:
    return [
        "--model", str(shared / "model"), "--index", str(shared / "i"), "--device", "cpu",
        "--memorized", CAPTIONS[0], "--ordinary", CAPTIONS[1], "--ordinary", CAPTIONS[2],
        "--steps", "4", "--points", "3", "--seeds", "2",
    ]  # fmt: skip


def test_a_pipeline_is_swept_from_the_command_line(run: Run, usual: list[str]) -> None:
    code, out, err = run(*usual, "-o", "basin.svg", "--page", "basin.md")
    assert (code, "30/30" in err) == (0, True)  # 3 prompts, 2 seeds, 5 runs
    for part in ("log-SNR", "zero CFG", "opposite", "copy threshold of 0.9", "basin.svg, basin.md"):
        assert part in out
    assert Path("basin.svg").read_text().lstrip().startswith("<?xml")
    page = Path("basin.md").read_text()
    for part in (
        "](basin.svg)",
        f"- memorized prompts: {CAPTIONS[0]}",
        "- clips: 30, 1 at a time",
        "| step | log-SNR | zero CFG, memorized |",
        "Too few prompts to tell.",
        "- torch: ",
    ):
        assert part in page


def test_json_holds_everything(run: Run, usual: list[str]) -> None:
    code, out, _ = run(*usual, "--seeds", "1", "--opposite", "-2", "--json", "-o", "basin.png")
    told = json.loads(out)
    assert (code, told["scale"], told["befores"]) == (0, 7.0, [0.0, -2.0])
    assert (told["steps"], len(told["log_snr"]), told["seeds"]) == ([0, 2, 4], 4, [0])
    assert (len(told["takes"]), len(told["courses"])) == (18, 9)
    assert told["judges"][0]["threshold"] == 0.9
    assert len(told["sentences"]) == 2
    assert Path("basin.png").read_bytes().startswith(b"\x89PNG")


def test_the_scores_are_similarities_to_the_nearest_training_clip(shared: Path) -> None:
    scene = open_scene(
        str(shared / "model"), str(shared / "i"), PROMPTS, steps=4, device="cpu"
    )  # fmt: skip
    heard = scene.generate([CAPTIONS[0]], 0, ClassifierFree(7.0))
    pipe = audible_pipe()
    generator = torch.Generator().manual_seed(0)
    sound = pipe(CAPTIONS[0], num_inference_steps=4, guidance_scale=7.0, generator=generator).audios
    index = TrainingIndex.load(shared / "i")
    # all rows are as long as the sound, so the only window is the whole of it; the mix and its
    # channels are searched
    voices = torch.stack(audio.voices(sound, RATE)[0])
    emb = index.project(embedder("magmel")(voices[:, None], RATE))
    wanted = index.search(emb).scores.max().item()
    assert heard.scores[0]["magmel"] == pytest.approx(wanted, abs=1e-6)
    assert scene.judges[0].threshold == 0.9


def test_the_index_of_another_model_is_refused(shared: Path) -> None:
    with pytest.raises(IndexMismatch, match="own index"):
        open_scene(str(shared / "model"), str(shared / "other"), PROMPTS, device="cpu")


@pytest.mark.parametrize("option", ["-o", "--page"])
def test_an_output_that_exists_is_refused_before_any_work(run: Run, option: str) -> None:
    Path("there.svg").write_text("a")
    Path("there.md").write_text("a")
    words = ["-o", "there.svg"] if option == "-o" else ["-o", "new.svg", "--page", "there.md"]
    code, out, err = run("--model", "no such folder", *words)
    assert (code, out) == (2, "")
    assert "exists already" in err
    assert "loading" not in err
    assert not Path("new.svg").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--opposite", "0"], "for opposite guidance, got 0"),
        (["-o", "basin.wav"], "does not end in a known format"),
        (["--model", "folder"], "'--index', '--memorized' and '--ordinary'"),
        (["--seconds", "1"], "leave out '--seconds'"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_sentence(run: Run, words, said: str) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert said in err


@pytest.mark.slow
@pytest.mark.skipif(not assets.SHIPPED.is_dir(), reason="the demo's model is not in this tree")
def test_the_demo_needs_no_prompts_and_is_judged_by_its_own_judge(run: Run) -> None:
    words = ["--prompts", "2", "--seeds", "1", "--steps", "3", "--points", "2", "--json"]
    code, out, _ = run(*words, "-o", "basin.svg")
    told = json.loads(out)
    assert (code, told["scale"]) == (0, 2.0)
    assert [judge["name"] for judge in told["judges"]] == ["mel", "magmel"]
    clips = assets.training_clips()
    duplicated = {clip.caption for clip in clips if clip.copies > 1}
    kinds = {clip.caption: clip.kind for clip in clips}
    chosen = [(p["group"], p["caption"] in duplicated, kinds[p["caption"]])
              for p in told["prompts"]]  # fmt: skip
    assert chosen == [
        ("memorized", True, "note"), ("memorized", True, "recording"),
        ("ordinary", False, "note"), ("ordinary", False, "recording"),
    ]  # fmt: skip
    assert all(-1 <= score <= 1 for take in told["takes"] for score in take["scores"].values())
