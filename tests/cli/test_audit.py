"""`anechoic audit`, from the command to the report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.audits import folder_of
from support.commands import Run, lines
from support.model_folder import audible_pipe, noise_clips, save
from support.pipelines import CAPTIONS
from support.sounds import RATE, SECONDS, save_clips, tune

from anechoic import TrainingIndex, audio, embedder
from anechoic.audit import schema
from anechoic.index import Sound

LOW = 400  # the sample rate of the tiny pipeline: its 64 samples then last 0.16 s


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: an index "i" of five clips with their files, and sounds."""
    monkeypatch.chdir(tmp_path)
    captions = [f"tune [b] number {i}" for i in range(5)]
    save_clips(tmp_path, map(tune, range(5)), caption=captions, licence=["CC0"] * 5)
    index = TrainingIndex.build("clips", embedder("magmel"), captions="captions.csv")
    index.thresholds["copy"] = 0.9
    index.save("i")
    folder_of(tmp_path / "sounds", copy=0.4 * tune(2), other=tune(70))
    return tmp_path


@pytest.fixture
def run(here: Path, command: Run) -> Run:
    """Run `anechoic audit`."""

    def audit(*arguments: str) -> tuple[int, str, str]:
        index = () if "--index" in arguments else ("--index", "i")
        return command("audit", *index, "-o", "r", *arguments)

    return audit


# ------------------------------------------------------------------------------------ a folder


def test_a_copy_ends_with_1_and_a_report(run: Run) -> None:
    code, out, err = run("--audio", "sounds")
    assert code == 1
    verdict, caution, header, first, second, where = lines(out)
    assert verdict == "1 of 2 files replicates a training clip."
    assert caution.startswith("caution: How often sound that copies nothing is over this threshold")
    assert header == "rank verdict score file nearest training clip"
    assert first.startswith("1 REPLICATES ")
    assert first.endswith(" copy.wav tune [b] number 2")
    assert second.startswith("2 - 0.")
    assert where == "report: r/report.html"
    assert "2/2" in err
    assert "0 s left" in err
    assert sorted(path.name for path in Path("r").iterdir()) == [
        "report.html",
        "report.json",
        "report.parquet",
    ]


def test_without_a_calibration_it_ranks_and_says_that_it_does_not_judge(
    run: Run, here: Path
) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="pip install jsonschema")
    index = TrainingIndex.load("i")
    index.thresholds.clear()
    index.save("i", overwrite=True)
    code, out, _ = run("--audio", "sounds")
    assert code == 3
    verdict, caution, _, first, second, _ = lines(out)
    assert verdict.startswith("NOT JUDGED: 2 of 2 files; index 'i' has neither a calibration of")
    assert "calibrate it with 'anechoic calibrate FOLDER'" in caution
    assert first.startswith("1 NOT JUDGED 1.000 copy.wav")
    assert second.startswith("2 NOT JUDGED 0.")
    told = json.loads(Path("r/report.json").read_text())
    jsonschema.validate(told, schema())
    assert [one["replicates"] for one in told["examined"]] == [None, None]
    assert (told["rule"], told["count"]["replications"]) == (None, None)
    page = Path("r/report.html").read_text()
    assert "<h1>NOT JUDGED: 2 of 2 files" in page
    assert page.count("<span>Not judged</span>") == 2
    assert "2 scores, not judged; the mean is" in page
    for never in ('is-copy"', "Under the threshold", "threshold of", ">Replication<"):
        assert never not in page.partition("</style>")[2].partition("<script>")[0], never
    assert run("--audio", "sounds", "--threshold", "0.9", "--overwrite")[0] == 1


def test_json_is_the_report_itself(run: Run) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="pip install jsonschema")
    code, out, _ = run("--audio", "sounds", "--json")
    assert code == 1
    told = json.loads(out)
    jsonschema.validate(told, schema())
    assert told == json.loads(Path("r/report.json").read_text())
    assert told["examined"][0]["training"]["licence"] == "CC0"
    assert told["about"]["command"].startswith("anechoic")


def test_nothing_found_ends_with_0_and_something_unexamined_with_3(run: Run) -> None:
    Path("sounds/copy.wav").unlink()
    assert run("--audio", "sounds")[0] == 0
    Path("sounds/broken.wav").write_text("no sound")
    code, out, _ = run("--audio", "sounds", "--overwrite")
    assert code == 3
    assert lines(out)[0].startswith("1 of 2 files was not examined. None of the 1 examined")
    assert "not examined: broken.wav: it cannot be read as sound" in out


def test_held_out_sound_calibrates(run: Run, here: Path) -> None:
    folder_of(here / "held", **{f"h{i}": tune(400 + i) for i in range(19)})
    code, out, _ = run("--audio", "sounds", "--held-out", "held", "--fpr", "0.05")
    assert code == 1
    assert lines(out)[0] == (
        "1 of 2 files replicates a training clip; chance alone would flag about 0.1, and up to 1 "
        "would be no surprise. 19 held-out sounds are too few to say how many of them stand if no "
        "more than 5 % of those called so may be wrong; it takes 39."
    )
    assert "caution: 19 held-out sounds are few" in out
    assert "(p 0.05)" in out


def test_an_index_is_calibrated_once_for_check_and_audit(
    run: Run, command: Run, here: Path
) -> None:
    folder_of(here / "held", **{f"h{i}": tune(400 + i) for i in range(19)})
    Path("held/notes.txt").write_text("no sound")
    calibrate = ("calibrate", "held", "--index", "i", "--fpr", "0.05")
    code, out, _ = command(*calibrate)
    assert code == 0
    header, nearest, *_ = lines(out)
    assert header == "detector sounds threshold its 95 % interval its true rate"
    assert nearest.startswith("nearest stretch (magmel, whole clips) 19 0.")
    assert "not used: notes.txt: it cannot be read as sound" in out
    assert lines(out)[-1].endswith("i/calibration.json")
    code, _, err = command(*calibrate)
    assert (code, "exists already; replace it with '--overwrite'" in err) == (2, True)
    code, out, _ = run("--audio", "sounds")
    assert "chance alone would flag about 0.1" in out
    assert "(p 0.05)" in out
    code, out, _ = run("--audio", "sounds", "--fpr", "0.1", "--overwrite")
    assert "chance alone would flag about 0.2" in out
    told = json.loads(Path("r/report.json").read_text())
    assert [one["calibration"]["held_out"] for one in told["detectors"]] == [19, 19, 19]
    code, out, _ = command("check", "sounds/copy.wav", "sounds/other.wav", "--index", "i")
    assert (code, lines(out)[0].split()[:4]) == (1, ["file", "verdict", "score", "p"])
    assert "sounds/copy.wav COPY 1.000 0.05" in " ".join(out.split())
    limit = told["rule"]["threshold"]
    code, out, _ = command("check", "sounds/other.wav", "--index", "i", "--json")
    told = json.loads(out)
    assert (code, told["held_out"], told["false_positive_rate"]) == (0, 19, 0.05)
    assert told["threshold"] >= limit  # of half the rate
    assert 0.05 < told["files"][0]["p_value"] <= 1
    with Path("i/manifest.json").open("a") as manifest:
        manifest.write(" ")  # as of another index: refused, unless nothing hangs on it
    stale = ("check", "sounds/copy.wav", "--index", "i")
    code, _, err = command(*stale)
    assert (code, "the index has changed since; calibrate again" in err) == (2, True)
    assert command(*stale, "--threshold", "0.9")[0] == 1


def test_held_out_sound_that_holds_training_clips_is_named_and_left_out(
    command: Run, here: Path
) -> None:
    folder_of(here / "held", **{f"h{i}": tune(400 + i) for i in range(19)})
    calibrate = ("calibrate", "held", "--index", "i", "--fpr", "0.05", "--json")
    clean = json.loads(command(*calibrate)[1])["calibrations"][0]
    inside = torch.cat([0.02 * tune(500), 0.5 * tune(2), 0.02 * tune(501)], 1)
    folder_of(here / "held", leak=tune(1), quiet=0.1 * tune(3), inside=inside)
    Path("held/metadata.csv").write_text("file_name,text\nh0.wav,a tune\n")
    code, out, _ = command(*calibrate, "--overwrite")
    told = json.loads(out)
    assert code == 0
    unused = {one["name"]: one["reason"] for one in told["unused"]}
    assert sorted(unused) == ["inside.wav", "leak.wav", "quiet.wav"]
    assert all("holds training clip" in reason for reason in unused.values())
    assert "'1.wav'" in unused["leak.wav"]
    assert told["calibrations"][0]["threshold"] == clean["threshold"] < 1
    code, _, err = command(*calibrate[:-2], "0.048", "--overwrite")  # needs 20, and 22 are there
    assert (code, "3 held-out sounds hold training clips" in err) == (2, True)


def test_a_threshold_that_calls_training_clips_no_copies_is_refused(
    command: Run, here: Path
) -> None:
    folder_of(here / "held", **{f"h{i}": tune(i % 5) for i in range(19)})
    code, _, err = command("calibrate", "held", "--index", "i", "--fpr", "0.05")
    assert (code, "training clips themselves no copies, such as '0.wav'" in err) == (2, True)
    assert not Path("i/calibration.json").exists()


def test_too_few_held_out_sounds_are_refused_before_any_is_heard(here: Path, command: Run) -> None:
    folder_of(here / "held", a=tune(400))
    code, _, err = command("calibrate", "held", "--index", "i")
    assert code == 2
    assert err.splitlines()[-1].startswith("error: a false-positive rate of 0.01 needs 99 held-out")
    assert not Path("audit-work/results").exists()


@pytest.mark.parametrize("name", ["cosine", "correlation", "landmarks"])
def test_any_detector_may_decide(run: Run, name: str) -> None:
    from anechoic.detectors import registry

    if name not in registry.names():
        pytest.skip("the detectors are not installed as entry points")
    code, out, _ = run("--audio", "sounds", "--detector", name, "--threshold", "0.8")
    assert code == 1
    assert lines(out)[3].endswith(" copy.wav tune [b] number 2")


def test_a_table_tells_the_prompts_of_a_folder(run: Run) -> None:
    Path("p.csv").write_text("file_name,caption,seed\ncopy.wav,a prompt,3\n")
    run("--audio", "sounds", "--prompts", "p.csv")
    row = json.loads(Path("r/report.json").read_text())["examined"][0]
    assert (row["prompt"], row["seed"]) == ("a prompt", 3)


def test_the_page_may_be_named(run: Run) -> None:
    run("--audio", "sounds", "-o", "deep/page.html")
    assert Path("deep/page.html").is_file()
    assert Path("deep/page.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either '--audio FOLDER', '--model MODEL' or '--generator"),
        (["--audio", "sounds", "--model", "m"], "give either"),
        (["--audio", "sounds", "--guard", "amg"], "nothing is generated, leave them out"),
        (["--model", "m"], "'--prompts FILE' or by '--captions', one of them"),
        (["--audio", "no"], "there is no folder 'no'"),
        (
            ["--audio", "sounds", "--threshold", "nan"],
            "a score as the threshold, got nan",
        ),
        (["--audio", "sounds", "--detector", "ear"], "expected a detector among"),
        (["--audio", "sounds", "--detector", "angle"], "judges runs, and an audit is of sounds"),
        (["--audio", "sounds", "--fpr", "0.02"], "is not calibrated, so a false-positive rate of"),
        (["--audio", "sounds", "--held-out", "held"], "there is no folder 'held'"),
        (["--audio", "sounds", "-o", "i"], "holds 'manifest.json', which is not part of a report"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(
    run: Run, arguments: list[str], message: str
) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("error: ")


# ------------------------------------------------------------------------------------- a model


@pytest.fixture
def model(here: Path) -> Path:
    """A tiny, real pipeline in "model", and the index of what it was trained on in "k"."""
    return save(here, LOW, index="k", copy=0.99)


MODEL = ("--model", "model", "--steps", "4", "--device", "cpu")
OWN = ("--index", "k")


def test_a_model_is_asked_for_its_captions_under_every_guard(run: Run, model: Path) -> None:
    guards = ("--guard", "none", "--guard", "static before=-2 at=0.5")
    code, out, err = run(*MODEL, *OWN, "--captions", "--limit", "2", "--seeds", "2", *guards)
    assert code == 0, err
    assert lines(out)[0] == (
        "None of 8 generations replicates a training clip (unguarded: 0 of 4, static before=-2 "
        "at=0.5: 0 of 4)."
    )
    told = json.loads(Path("r/report.json").read_text())
    asked = {(row["prompt"], row["seed"], row["guard"]) for row in told["examined"]}
    assert len(asked) == 8
    assert {prompt for prompt, _, _ in asked} == {CAPTIONS[0], CAPTIONS[2]}
    assert told["about"]["guard static before=-2 at=0.5"] == (
        "TransitionPoint(scale=7.0, before=-2.0, at=Progress(share=0.5), both_halves=False)"
    )
    assert any("2411.16738" in work for work in told["citations"])


def test_the_sounds_are_the_pipelines_own_and_are_not_made_twice(run: Run, model: Path) -> None:
    Path("p.txt").write_text("low cello note\n")
    assert run(*MODEL, *OWN, "--prompts", "p.txt")[0] == 0
    (made,) = Path("audit-work/sounds").iterdir()
    pipe = audible_pipe(LOW)
    generator = torch.Generator().manual_seed(0)
    told = {"num_inference_steps": 4, "guidance_scale": 7.0, "generator": generator}
    audio.write("plain.flac", pipe("low cello note", **told).audios[0], LOW)
    assert made.read_bytes() == Path("plain.flac").read_bytes()
    before = made.stat().st_mtime_ns
    assert run(*MODEL, *OWN, "--prompts", "p.txt", "--overwrite")[0] == 0
    assert made.stat().st_mtime_ns == before
    assert run(*MODEL, *OWN, "--prompts", "p.txt", "--overwrite", "--scale", "3")[0] == 0
    assert len(list(Path("audit-work/sounds").iterdir())) == 2


def test_the_same_sounds_are_compared_with_every_index(run: Run, model: Path) -> None:
    made = audible_pipe(LOW)(
        CAPTIONS[0], num_inference_steps=4, guidance_scale=7.0, generator=torch.manual_seed(0)
    )
    clips = [Sound("a.wav", CAPTIONS[0], made.audios[0], LOW), *noise_clips(LOW)[1:]]
    TrainingIndex.build(clips, embedder("magmel"), thresholds={"copy": 0.999}).save("l")
    both = (*MODEL, "--index", "k", "--index", "l", "--captions", "--limit", "2")
    code, out, err = run(*both, "--guard", "none", "--guard", "auto")
    assert code == 1, out + err
    assert [line for line in lines(out) if line.startswith("index '")] == [
        "index 'k':", "index 'l':"
    ]  # fmt: skip
    told = [json.loads(Path(f"r-{n}/report.json").read_text("utf-8")) for n in (1, 2)]
    sounds = [{row["sha256"] for row in one["examined"]} for one in told]
    assert sounds[0] == sounds[1]
    assert len(list(Path("audit-work/sounds").iterdir())) == 4  # of two guards, each made once
    copies = [[row["prompt"] for row in one["examined"]
               if row["replicates"] and row["guard"] == "none"] for one in told]  # fmt: skip
    assert copies[0] == []
    assert CAPTIONS[0] in copies[1]
    code, out, _ = run("--audio", "sounds", "--index", "i", "--index", "k", "--json", "--overwrite")
    each = json.loads(out)["indexes"]
    assert code == 1
    assert [one["about"]["index"].split(":")[0] for one in each] == ["i", "k"]
    code, _, err = run(*both)
    assert (code, "'r-1/report.html' exists" in err) == (2, True)


def test_a_model_with_the_index_of_another_is_refused(run: Run, model: Path) -> None:
    index = TrainingIndex.load("k")
    index.about = replace(index.about, model="another")
    index.save("l")
    code, _, err = run(*MODEL, "--index", "l", "--captions")
    assert code == 2
    assert "nothing can be guarded or judged by the wrong clips" in err


def test_a_guard_that_is_none_costs_no_generation(run: Run, model: Path) -> None:
    code, _, err = run(*MODEL, *OWN, "--captions", "--guard", "unicorn")
    assert code == 2
    assert "expected a guard among" in err
    code, _, err = run(*MODEL, *OWN, "--captions", "--guard", "static", "--guard", "static")
    assert "are not distinct" in err
    code, _, err = run(*MODEL, *OWN, "--captions", "--seconds", "99")
    assert "this model makes up to 0.16 s of sound" in err
    assert not Path("audit-work").exists()


# -------------------------------------------------------------------------------------- the demo


def test_the_demo_index_brings_sound_licences_and_its_rate(run: Run, here: Path) -> None:
    from anechoic_lab.demo import assets

    clips = assets.training_clips()
    audio.write("takes/copy.wav", 0.5 * assets.clip_sound(assets.index().clips[0])[0], RATE)
    code, out, _ = run("--index", "demo", "--audio", "takes")
    assert code == 1
    assert "chance alone would flag about" in out
    (row,) = json.loads(Path("r/report.json").read_text())["examined"]
    assert row["training"]["caption"] == clips[0].caption
    assert row["training"]["licence"] == clips[0].licence
    assert row["training"]["url"] == clips[0].url
    assert row["findings"][1]["score"] > 0.99
    assert row["match"]["lag_s"] == pytest.approx(0.0, abs=1e-3)
    assert row["seconds"] == SECONDS
