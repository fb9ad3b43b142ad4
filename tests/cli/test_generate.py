"""`anechoic generate`, from the command to the files, on a tiny, real pipeline."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
from support.commands import Run, lines, work_in_copy
from support.model_folder import audible_pipe, save
from support.pipelines import CAPTIONS, make_pipe
from torch import Tensor

from anechoic import TrainingIndex, audio, embedder
from anechoic.diffusers import fingerprint, loading
from anechoic.errors import OutputExists
from anechoic.guidance.presets import PRESETS
from anechoic.index.clips import Sound

RATE = 16_000
PROMPT = "low cello note"
OPEN = ("--guard", "amg", "--set", "lambda_min=-1", "--set", "lambda_max=-1")  # at any similarity


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("shared"), copy=0.9)


@pytest.fixture
def here(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory."""
    return work_in_copy(shared, tmp_path, monkeypatch)


@pytest.fixture
def run(here: Path, command: Run) -> Run:
    """Run `anechoic generate` with the tiny model; of an option given twice, the last holds."""
    usual = ["--model", "model", "--steps", "6", "--device", "cpu", "-o", "out.wav"]
    return partial(command, "generate", *usual)


def plainly(prompt: str, seed: int = 0, **arguments: object) -> Tensor:
    """What the pipeline itself makes at scale 7."""
    generator = torch.Generator().manual_seed(seed)
    settings = {"num_inference_steps": 6, "guidance_scale": 7.0, **arguments}
    return audible_pipe()(prompt, generator=generator, **settings).audios[0]


# --------------------------------------------------------------------------------- what is made


def test_cfg_writes_the_plain_pipelines_own_sound(run: Run) -> None:
    assert run(PROMPT, "--guard", "cfg")[0] == 0
    audio.write("plain.wav", plainly(PROMPT), RATE)
    assert Path("out.wav").read_bytes() == Path("plain.wav").read_bytes()


def test_the_same_seed_gives_the_same_file_and_another_another(run: Run) -> None:
    made = []
    for name, seed in (("a.wav", "3"), ("b.wav", "3"), ("c.wav", "4")):
        assert run(PROMPT, "--index", "i", *OPEN, "--seed", seed, "-o", name)[0] == 0
        made.append(Path(name).read_bytes())
    assert made[0] == made[1] != made[2]


def test_amg_with_its_gate_open_makes_another_sound_than_cfg(run: Run) -> None:
    code, out, err = run(PROMPT, "--index", "i", *OPEN)
    assert code == 0
    guard, header, row, verdict = lines(out)
    assert guard.startswith(
        "out.wav: 6 evaluations, near a training clip at 6, highest similarity to a"
    )
    assert header == "file prompt verdict score at s in clip s nearest"
    assert row.startswith("out.wav low cello note no copy 0.")
    assert verdict == "0 of 1 over the threshold of 0.9"
    assert err.count("\n") == 1  # of diffusers' own bar nothing is seen
    assert err.startswith("generating ")
    assert "6/6" in err
    wav, sample_rate = audio.read("out.wav")
    assert (wav.shape, sample_rate) == ((2, 64), RATE)
    assert not torch.allclose(wav, plainly(PROMPT), atol=1e-3)


def test_amg_with_its_gate_shut_says_so_and_changes_nothing(run: Run) -> None:
    code, out, _ = run(PROMPT, *AMG, "--set", "lambda_min=0.9999", "--set", "lambda_max=0.9999")
    assert code == 0
    assert lines(out)[0].startswith("out.wav: 6 evaluations, never near a training clip")
    audio.write("plain.wav", plainly(PROMPT), RATE)
    assert Path("out.wav").read_bytes() == Path("plain.wav").read_bytes()


def test_several_prompts_are_numbered_and_each_is_as_it_would_be_alone(run: Run) -> None:
    code, out, err = run(*CAPTIONS[:2], "--guard", "static", "--set", "at=0.5", "-o", "new/o.flac")
    assert code == 0
    assert lines(out) == [
        "new/o-1.flac: 6 evaluations, transition at number 4",
        "new/o-2.flac: 6 evaluations, transition at number 4",
        "not compared with any training set; to have it compared, give '--index'",
    ]
    assert "12/12" in err
    assert run(CAPTIONS[1], "--guard", "static", "--set", "at=0.5", "-o", "alone.flac")[0] == 0
    assert Path("new/o-2.flac").read_bytes() == Path("alone.flac").read_bytes()
    assert sorted(path.name for path in Path("new").iterdir()) == ["o-1.flac", "o-2.flac"]


def test_a_dynamic_transition_that_never_comes_is_told(run: Run) -> None:
    _, out, _ = run(PROMPT, "--guard", "dynamic", "--set", "fall=0.0001")
    assert lines(out)[0] == "out.wav: 6 evaluations, no transition"


def test_the_sound_is_as_long_as_it_was_asked_for(run: Run) -> None:
    assert run(PROMPT, "--guard", "cfg", "--seconds", "0.002")[0] == 0
    assert audio.read("out.wav")[0].shape == (2, 32)


def test_bfloat16_is_not_float32(run: Run) -> None:
    for dtype in ("float32", "bfloat16"):
        assert run(PROMPT, "--guard", "cfg", "--dtype", dtype, "-o", f"{dtype}.wav")[0] == 0
    full, half = (audio.read(f"{dtype}.wav")[0] for dtype in ("float32", "bfloat16"))
    assert not torch.equal(full, half)


# --------------------------------------------------------------------------------- what is said


@pytest.fixture
def memorized(here: Path) -> None:
    """The index holds what the plain pipeline makes of `PROMPT`, as a memorized clip."""
    noise = torch.Generator().manual_seed(0)
    others = [0.3 * torch.randn(2, 64, generator=noise) for _ in CAPTIONS[1:]]
    sounds = [plainly(PROMPT), *others]
    clips = [Sound(f"{c}.wav", c, wav, RATE) for c, wav in zip(CAPTIONS, sounds, strict=True)]
    index = TrainingIndex.build(clips, embedder("magmel"), thresholds={"copy": 0.9995})
    index.save("i", overwrite=True)


def test_a_copy_is_written_and_named_and_the_exit_code_is_1(memorized: None, run: Run) -> None:
    code, out, _ = run(*CAPTIONS[:2], "--index", "i", "--guard", "cfg")
    assert code == 1
    one, two, _, copy, other, verdict = lines(out)
    assert (one, two) == ("out-1.wav: 6 evaluations", "out-2.wav: 6 evaluations")
    assert copy == "out-1.wav low cello note COPY 1.000 0.00 0.00 low cello note.wav"
    assert other.startswith("out-2.wav high flute note no copy 0.")
    assert verdict == "1 of 2 over the threshold of 0.9995"
    assert Path("out-1.wav").exists()


def test_amg_keeps_the_copy_away_and_the_exit_code_is_0(memorized: None, run: Run) -> None:
    code, out, _ = run(PROMPT, "--index", "i", *OPEN, "--json")
    assert code == 0
    (made,) = json.loads(out)["outputs"]
    assert made["copy"] is False
    assert made["score"] < 0.9


def test_json_tells_all_of_it(memorized: None, run: Run) -> None:
    more = ("--guard", "static", "--set", "at=LogSNR:-12", "--set", "before=6.9999")
    code, out, _ = run(PROMPT, "--index", "i", *more, "--scale", "7.0", "--json")
    assert code == 1  # next to nothing was held back
    told = json.loads(out)
    (made,) = told.pop("outputs")
    at = "LogSNR(value=-12.0)"
    assert told == {
        "model": "model",
        "index": "i",
        "guard": "static",
        "settings": {"scale": 7.0, "before": 6.9999, "at": at, "both_halves": False},
        "seed": 0,
        "threshold": 0.9995,
        "false_positive_rate": None,
        "held_out": None,
    }
    first = made["did"]["switched"].pop("log_snr")
    assert first == pytest.approx(-9.5, abs=0.5)  # at the second evaluation
    assert made.pop("score") == pytest.approx(1.0, abs=1e-4)
    assert made == {
        "file": "out.wav",
        "prompt": PROMPT,
        "did": {"evaluations": 6, "switched": {"count": 5, "first": 1}},
        "verdict": "copy",
        "copy": True,
        "p_value": None,
        "start_s": 0.0,
        "match_start_s": 0.0,
        "seconds": 0.004,
        "resolution_s": 0.004 / 64,
        "clip": {
            "id": "low cello note.wav",
            "caption": PROMPT,
            "path": None,
            "start_s": 0.0,
            "seconds": 0.004,
            "info": {},
            "row": 0,
        },
    }


def test_json_without_an_index_has_no_verdict(run: Run) -> None:
    code, out, _ = run(PROMPT, "--guard", "cfg", "--json")
    told = json.loads(out)
    assert (code, told["index"], told["threshold"]) == (0, None, None)
    assert told["outputs"] == [
        {"file": "out.wav", "prompt": PROMPT, "did": {"evaluations": 6}, "copy": None}
    ]


def test_without_a_calibrated_threshold_nothing_is_judged(memorized: None, run: Run) -> None:
    index = TrainingIndex.load("i")
    index.thresholds.clear()
    index.save("i", overwrite=True)
    code, out, _ = run(PROMPT, "--index", "i", "--guard", "cfg")
    assert code == 3
    did, unjudged, fix, _, row = lines(out)
    assert did == "out.wav: 6 evaluations"
    assert unjudged == "NOT JUDGED: 1 of 1; index 'i' has neither a calibration nor a threshold"
    assert fix.startswith("calibrate it with 'anechoic calibrate FOLDER'")
    assert row == ("out.wav low cello note NOT JUDGED 1.000 0.00 0.00 low cello note.wav")


# ------------------------------------------------------------------------------ what is refused

GUARDS = sorted({*(point.name for point in entry_points(group="anechoic.guidance")), *PRESETS})
AMG = ("--guard", "amg", "--index", "i")
REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "scale of 1": (
        ("--guard", "cfg", "--scale", "1"),
        "expected a guidance scale above 1, got 1.0; at 1 or below there is no classifier-free "
        "guidance to hold back (Stable Audio Open's own is 7)",
    ),
    "unknown guard": (
        ("--guard", "shield"),
        f"expected a guard among {', '.join(GUARDS)}, got 'shield'; correct it, or install the "
        "package that has it",
    ),
    "no index": (
        (),
        "guard 'auto' keeps away from the training set and needs its index: give it with "
        "'--index', made by 'anechoic index build'",
    ),
    "index missing": (
        ("--index", "nowhere"),
        "index 'nowhere' does not exist (no manifest.json); build one with 'anechoic index build'",
    ),
    "an embedder of nothing": (
        ("--guard", "cfg", "--embedder", "magmel"),
        "'--embedder' reads an index: give one with '--index', or leave it out",
    ),
    "unknown setting": (
        (*AMG, "--set", "c4=1"),
        "AntiMemorization has no setting 'c4'; it has scale, c1, c2, c3, lambda_min, lambda_max, "
        "parity, estimate, gradient, schedule, start, every",
    ),
    "no setting": ((*AMG, "--set", "c3"), "a setting is written NAME=VALUE, got 'c3'"),
    "setting twice": (
        (*AMG, "--set", "scale=3", "--scale", "4"),
        "setting 'scale' was given twice; give it once",
    ),
    "no choice": (
        (*AMG, "--set", "gradient=x1"),
        "expected denoiser or x0 for setting 'gradient' of AntiMemorization, got 'x1'",
    ),
    "out of range": ((*AMG, "--set", "c3=-1"), "expected c3 of 0 or more, got -1.0"),
    "no format": (
        ("--guard", "cfg", "-o", "out.xyz"),
        "'out.xyz' has no known sound format; end the name in one of .wav, .flac, .ogg, .mp3",
    ),
    "no folder": (
        ("--guard", "cfg", "-o", "i/manifest.json/out.wav"),
        "'i/manifest.json' is not a folder that can be written to; name another output",
    ),
    **{
        f"{seconds} s": (
            ("--guard", "cfg", "--seconds", seconds),
            f"this model makes up to 0.004 s of sound, and {seconds} were asked for; change "
            "'--seconds'",
        )
        for seconds in ("5", "0")
    },
    "model missing": (
        ("--guard", "cfg", "--model", "nowhere"),
        "'nowhere' is not a folder; give the folder of a saved diffusers pipeline, a checkpoint of "
        "stable-audio-tools (.safetensors or .ckpt), or a hub id such as "
        "'stabilityai/stable-audio-open-1.0'",
    ),
    "dtype": (
        ("--guard", "cfg", "--dtype", "int8"),
        "dtype is one of float32, bfloat16, float16, got 'int8'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_bad_input_is_one_sentence_and_exit_2(here: Path, run: Run, kind: str) -> None:
    arguments, sentence = REFUSED[kind]
    assert run(PROMPT, *arguments) == (2, "", f"error: {sentence}\n")
    assert sorted(path.name for path in here.iterdir()) == ["i", "model"]


def test_an_existing_output_is_refused_before_anything_is_loaded(here: Path, run: Run) -> None:
    for name in ("out.wav", "out-2.wav"):
        (here / name).write_text("precious")
    shutil.rmtree("model")  # not even missed
    for prompts, file in ((CAPTIONS[:1], "out.wav"), (CAPTIONS[:2], "out-2.wav")):
        sentence = str(OutputExists.at(file))
        assert "'--overwrite'" in sentence
        assert run(*prompts, "--guard", "cfg") == (2, "", f"error: {sentence}\n")
        assert (here / file).read_text() == "precious"
    assert not (here / "out-1.wav").exists()


def test_overwrite_replaces_a_file_but_no_folder(here: Path, run: Run) -> None:
    (here / "out.wav").write_text("old")
    assert run(PROMPT, "--guard", "cfg", "--overwrite")[0] == 0
    assert audio.read("out.wav")[1] == RATE
    (here / "folder.wav").mkdir()
    code, _, err = run(PROMPT, "--guard", "cfg", "--overwrite", "-o", "folder.wav")
    assert (code, err) == (2, "error: 'folder.wav' is a folder; name a sound file to write\n")


def test_sound_longer_than_the_model_makes_is_refused_before_the_model_is_loaded(
    here: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "_read", lambda *given: pytest.fail("it was loaded"))
    code, _, err = run(PROMPT, "--guard", "cfg", "--seconds", "30")
    assert code == 2
    assert "s of sound, and 30 were asked for; change '--seconds'" in err


def test_an_index_of_another_models_clips_gives_no_verdict(here: Path, run: Run) -> None:
    index = TrainingIndex.load("i")
    index.about = replace(index.about, model=fingerprint(make_pipe(seed=1)))
    index.save("i", overwrite=True)
    for guard in ("cfg", "amg"):
        code, out, err = run(PROMPT, "--index", "i", "--guard", guard)
        assert (code, out) == (2, "")
        assert err.startswith(f"error: index 'i' holds the training clips of model '{index.model}'")
        assert err.count("\n") == 1
    assert not Path("out.wav").exists()


def test_a_guard_that_fails_in_the_second_prompt_leaves_nothing_written(
    here: Path, run: Run
) -> None:
    code, out, err = run(PROMPT, PROMPT, *AMG, *OPEN, "--set", "c3=1e38")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("error: the guidance returned NaN or infinity")
    assert sorted(path.name for path in here.iterdir()) == ["i", "model"]


# ------------------------------------------------------------------------------------- the demo


@pytest.fixture
def demo(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model and its index stand in the demo's place."""
    from anechoic_lab.demo import assets

    monkeypatch.setattr(assets, "model_folder", lambda: here / "model")
    monkeypatch.setattr(assets, "index_folder", lambda: here / "i")


def test_the_demos_guards_come_at_their_shipped_settings(demo: None, run: Run) -> None:
    from anechoic_lab.demo.assets import CFG_SCALE
    from anechoic_lab.demo.methods import METHODS

    arguments = ("--model", "demo", "--index", "demo", "--json", "--overwrite")
    for name in ("amg", "static", "dynamic", "opposite"):
        settings = json.loads(run(PROMPT, *arguments, "--guard", name)[1])["settings"]
        shipped = json.loads(json.dumps(dict(METHODS[name].settings), default=str))
        assert shipped.items() <= settings.items()
        assert settings["scale"] == CFG_SCALE
    code, out, _ = run(PROMPT, *arguments, "--guard", "opposite", "--set", "before=-1")
    assert (code, json.loads(out)["settings"]["before"]) == (0, -1.0)


def test_the_demos_guards_are_listed_with_the_others(demo: None, run: Run) -> None:
    _, _, err = run(PROMPT, "--model", "demo", "--guard", "shield")
    assert f"among {', '.join(sorted([*GUARDS, 'opposite']))}, got 'shield'" in err


def test_the_shipped_demo_generates(run: Run) -> None:
    from anechoic_lab.demo import assets

    assert assets.SHIPPED.is_dir()
    arguments = ("--model", "demo", "--index", "demo", "--guard", "opposite", "--json")
    code, out, _ = run("ambient choir", *arguments)
    (made,) = json.loads(out)["outputs"]
    assert code == int(made["copy"])
    assert audio.read("out.wav")[1] == RATE
