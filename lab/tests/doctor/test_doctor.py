"""`anechoic doctor` lists its findings, and each problem comes with a sentence and its fix."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from anechoic_lab.demo import assets
from anechoic_lab.doctor import Wanted
from anechoic_lab.doctor.blueprint import read_blueprint
from anechoic_lab.doctor.examine import _embedder
from support.commands import Run
from support.model_folder import noise_clips, save

from anechoic import TrainingIndex, embedder
from anechoic.errors import BadSetting
from anechoic.guidance import ClassifierFree

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("shared"))


@pytest.fixture
def here(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with "model" and "i" of one's own."""
    for name in ("model", "i"):
        shutil.copytree(shared / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(command: Run) -> Run:
    return partial(command, "doctor")


# ------------------------------------------------------------------------------------ the command


def test_a_model_that_is_ready_is_told_with_its_settings_and_its_time(here: Path, run: Run) -> None:
    code, out, err = run(
        "--model", "model", "--index", "i", "--guard", "amg", "--steps", "20", "--set", "c3=5"
    )
    assert (code, err) == (0, "")
    assert "PROBLEM" not in out
    said = " ".join(out.split())
    assert said.endswith("ready")
    for told in (
        "StableAudioPipeline, 31.3 k numbers in model",
        "CosineDPMSolverMultistepScheduler, one that is guarded",
        "sound at 16000 Hz, up to 0.004 s",
        "4 rows by 'magmel', this model's own",
        "weights 122 KiB",
        "the network 209 KiB",
        "of 20 steps: without a guard:",
        "gate shut:",
        "gate open:",
        "would run: guard AntiMemorization, scale 7.0, c1 4.0, c2 3.0, c3 5.0",
    ):
        assert told in said


def test_several_indexes_are_examined_and_guarded_by_together(here: Path, run: Run) -> None:
    index = TrainingIndex.build(noise_clips()[:3], embedder("magmel"))
    index.save("mine")
    code, out, _ = run("--model", "model", "--index", "i", "--index", "mine", "--no-measure")
    said = " ".join(out.split())
    assert code == 0, out
    assert "'i' 4 rows by 'magmel', this model's own; 'mine' 3 rows by 'magmel'; it does" in said
    assert "guard ok Auto" in said
    code, out, _ = run("--model", "model", "--index", "i", "--index", "i", "--no-measure", "--json")
    told = json.loads(out)
    assert (code, told["index"]) == (2, ["i", "i"])
    assert any("give each once" in finding["told"] for finding in told["findings"])


def test_json_tells_all_of_it(here: Path, run: Run) -> None:
    code, out, _ = run("--model", "model", "--dtype", "bfloat16", "--steps", "7", "--json")
    told = json.loads(out)
    assert (code, told["ready"], told["guard"], told["index"]) == (0, True, "static", None)
    assert [f["name"] for f in told["findings"]] == [
        "model", "weights", "scheduler", "makes", "guard", "memory", "time",
    ]  # fmt: skip
    assert told["run"]["at"] == "Timestep(t=500)"
    assert told["run"] | {"steps": 7, "seconds": 0.004, "dtype": "bfloat16"} == told["run"]
    memory = told["memory"]
    peak = max(memory["footprint"].values())
    assert memory["needed"] == memory["weights"] + peak
    assert memory["weights"] == 2 * read_blueprint("model").parameters
    assert set(told["time"]) == {"without a guard", ""}
    assert told["time"][""]["evaluations"] == 7


def edit(file: str, **values: object) -> None:
    path = Path("model", file)
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def of_another_model() -> None:
    index = TrainingIndex.load("i")
    index.about = replace(index.about, model="0" * 16)
    index.save("i", overwrite=True)


def unknown_scheduler() -> None:
    edit("model_index.json", scheduler=["diffusers", "DEISMultistepScheduler"])


INDEX = ("--index", "i")
PROBLEMS: dict[str, tuple[Callable[[], object], tuple[str, ...], str]] = {
    "no folder": (
        lambda: shutil.rmtree("model"), (),
        "model: 'model' is not a folder; give the folder of a saved diffusers pipeline",
    ),
    "offline": (
        lambda: None, ("--model", "nobody/nothing"),
        "model: there is no folder 'nobody/nothing' here, and no whole copy of a model "
        "'nobody/nothing' in the hub's cache, and HF_HUB_OFFLINE is set; unset it",
    ),
    "another class": (
        lambda: edit("model_index.json", _class_name="FluxPipeline"), (),
        "model: one of the pipelines StableAudioPipeline",
    ),
    "scheduler": (
        unknown_scheduler, (),
        "scheduler: one of the schedulers CosineDPMSolverMultistepScheduler",
    ),
    "no weights": (
        lambda: Path("model/transformer", WEIGHTS).unlink(), (),
        "weights: the weights of transformer are not in 'model'; fetch or save the whole pipeline "
        "again, with its weights as safetensors",
    ),
    "weights cut off": (
        lambda: Path("model/vae", WEIGHTS).write_bytes(b"cut"), (),
        f"model: 'model/vae/{WEIGHTS}' is damaged or cut off",
    ),
    "a part that is no such part": (
        lambda: edit("transformer/config.json", num_attention_heads="two"), (),
        "model: 'model/transformer' is not a StableAudioDiTModel that diffusers can build",
    ),
    "too long": (
        lambda: None, ("--seconds", "9"),
        "makes: this model makes up to 0.004 s of sound, and 9 were asked for; change '--seconds'",
    ),
    "no index": (
        lambda: shutil.rmtree("i"), INDEX,
        "index: index 'i' does not exist (no manifest.json); build one with 'anechoic index build'",
    ),
    "an index of another model": (
        of_another_model, INDEX,
        "index: index 'i' holds the training clips of model '0000000000000000', but this model",
    ),
    "another embedder": (
        lambda: None, (*INDEX, "--embedder", "magmel:seconds=2.0"),
        "embedder: index 'i' was built with 'magmel'",
    ),
    "weights of an embedder": (
        lambda: None, ("--embedder", "clap:nobody/nothing", "--guard", "cfg"),
        "embedder: expected the weights of 'nobody/nothing', got no whole copy of them in the "
        "hub's cache, and HF_HUB_OFFLINE is set",
    ),
    "a guard without its index": (
        lambda: None, ("--guard", "amg"),
        "guard: guard 'amg' keeps away from the training set and needs its index",
    ),
    "a setting": (
        lambda: None, (*INDEX, "--guard", "amg", "--set", "c3=-1"),
        "guard: expected c3 of 0 or more, got -1.0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", PROBLEMS)
def test_a_problem_is_one_line_with_its_mend_and_exit_2(here: Path, run: Run, kind: str) -> None:
    spoil, arguments, sentence = PROBLEMS[kind]
    spoil()
    code, out, _ = run("--model", "model", "--no-measure", *arguments)
    assert code == 2
    (line,) = [line for line in out.splitlines() if line.startswith(sentence)]
    assert out.endswith(f"{line}\nnot ready: 1 to fix\n")


def test_all_problems_are_told_at_once(here: Path, run: Run) -> None:
    unknown_scheduler()
    Path("model/vae", WEIGHTS).unlink()
    code, out, _ = run("--model", "model", "--seconds", "9", "--index", "nowhere")
    assert (code, out.endswith("not ready: 4 to fix\n")) == (2, True)


def test_too_little_memory_is_told_with_what_would_help(
    here: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anechoic_lab.doctor.memory.free_bytes", lambda device: 2**17)
    code, out, _ = run("--model", "model", "--index", "i", "--guard", "amg", "--no-measure")
    assert code == 2
    for mend in ("'--dtype bfloat16'", "'--set gradient=x0'", "'--seconds'", "'--set c3=0'"):
        assert mend in out
    _, out, _ = run("--model", "model", "--dtype", "bfloat16", "--no-measure")
    assert out.endswith("128 KiB free on cpu; use a machine with more\nnot ready: 1 to fix\n")


def test_a_sound_that_the_embedder_does_not_hear_to_its_end_is_a_problem() -> None:
    if not assets.SHIPPED.is_dir():
        pytest.skip("the demo's model is not in this tree")
    blueprint = read_blueprint(assets.model_folder())
    wanted = Wanted("demo", lambda store, embed: ClassifierFree())
    with pytest.raises(BadSetting, match=r"lasts 1.024 s, but .* embeds only its first 0.5 s"):
        _embedder(embedder("magmel:seconds=0.5"), blueprint, wanted)


def test_an_unknown_device_or_dtype_is_refused(here: Path, run: Run) -> None:
    code, out, err = run("--model", "model", "--dtype", "int8")
    assert (code, out) == (2, "")
    assert err == "error: dtype is one of float32, bfloat16, float16, got 'int8'\n"
