from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from anechoic_lab.demo.alterations import pitch
from support.commands import Run, lines
from support.sounds import RATE, save_clips, tones, tune

from anechoic import TrainingIndex, __version__, audio, cli

BUILD = ("index", "build", "clips", "--captions", "captions.csv", "-o")
SEARCH = ("index", "search", "i", "clips/0.wav")


@pytest.fixture
def run(command: Run) -> Run:
    return command


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with six clips and their captions."""
    monkeypatch.chdir(tmp_path)
    captions = [f"take number {i} [b]" for i in range(6)]
    save_clips(tmp_path, map(tones, range(6)), caption=captions)
    return tmp_path


@pytest.fixture
def built(here: Path, run: Run) -> Path:
    code, out, err = run(*BUILD, "i")
    assert (code, out) == (0, "i: 6 rows of 2048 by 'magmel'\n")
    assert "6/6" in err
    return here


def test_build_writes_an_index_that_the_library_loads(built: Path) -> None:
    assert TrainingIndex.load(built / "i").captions[5] == "take number 5 [b]"


def test_search_finds_the_clip_first(built: Path, run: Run) -> None:
    code, out, _ = run("index", "search", "i", "clips/3.wav", "-k", "2")
    assert code == 0
    header, first, second = lines(out)
    assert header == "rank score at s in clip s clip file caption"
    assert first == "1 1.000 0.00 0.00 3.wav 3.wav take number 3 [b]"
    assert second.startswith("2 0.")


def test_search_in_json_tells_all_that_is_known_of_a_clip(built: Path, run: Run) -> None:
    code, out, _ = run("index", "search", "i", "clips/3.wav", "--json", "-k", "1")
    (match,) = json.loads(out)
    assert code == 0
    assert match.pop("score") == pytest.approx(1.0, abs=1e-6)
    assert match == {
        "start_s": 0.0,
        "seconds": 1.024,
        "resolution_s": 0.016,
        "clip": {
            "id": "3.wav",
            "caption": "take number 3 [b]",
            "path": str(built / "clips/3.wav"),
            "start_s": 0.0,
            "seconds": 1.024,
            "info": {},
            "row": 3,
        },
    }


def test_check_exits_with_1_where_one_file_is_a_copy_and_tells_where(built: Path, run: Run) -> None:
    inside = torch.cat([0.2 * tones(50), tones(2), 0.2 * tones(51)], 1)
    audio.write("inside.flac", inside, RATE)
    audio.write("new.ogg", tones(60), RATE)
    words = ["check", "new.ogg", "inside.flac", "--index", "i", "--threshold", "0.95"]
    code, out, _ = run(*words)
    assert code == 1
    assert "1 of 2 over the threshold of 0.95" in out
    assert "inside.flac COPY" in " ".join(out.split())
    assert "new.ogg no copy" in " ".join(out.split())
    code, out, _ = run(*words, "--json")
    assert code == 1
    report = json.loads(out)
    assert (report["embedder"], report["threshold"]) == ("magmel", 0.95)
    new, copy = report["files"]
    assert (new["file"], new["copy"]) == ("new.ogg", False)
    assert (copy["file"], copy["copy"], copy["clip"]["id"]) == ("inside.flac", True, "2.wav")
    assert abs(copy["start_s"] - 1.024) <= copy["resolution_s"]


def test_a_copy_with_one_channel_turned_over_is_a_copy(built: Path, run: Run) -> None:
    audio.write("side.wav", torch.cat([tones(1), -tones(1)]), RATE)
    code, out, _ = run("check", "side.wav", "--index", "i", "--threshold", "0.95")
    assert (code, "COPY 1.000" in " ".join(out.split())) == (1, True)


def test_check_exits_with_0_where_none_is_a_copy(built: Path, run: Run) -> None:
    audio.write("new.wav", tones(60), RATE)
    code, out, _ = run("check", "new.wav", "--index", "i", "--threshold", "0.95")
    assert code == 0
    assert "0 of 1 over the threshold" in out


def test_check_judges_by_the_calibration_of_the_index(built: Path, run: Run) -> None:
    index = TrainingIndex.load("i")
    index.thresholds["copy"] = 0.9
    index.save("i", overwrite=True)
    code, out, _ = run("check", "clips/0.wav", "--index", "i")
    assert (code, "over the threshold of 0.9\n" in out) == (1, True)


def test_check_by_several_detectors_shares_their_rate_and_finds_what_one_misses(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_clips(tmp_path, map(tune, range(6)), caption=[f"take number {i} [b]" for i in range(6)])
    assert run(*BUILD, "i")[0] == 0
    for seed in range(100, 122):
        audio.write(f"others/{seed}.wav", tune(seed), RATE)
    both = ("--detector", "landmarks", "--detector", "transposed")
    code, _, err = run("calibrate", "others", "--index", "i", "--fpr", "0.1", *both)
    assert code == 0, err
    shutil.rmtree("clips")  # it was fitted to them, and is kept
    audio.write("up.wav", torch.from_numpy(pitch(tune(3)[0].numpy(), RATE, 2.0))[None], RATE)
    code, out, err = run("check", "up.wav", "--index", "i", *both, "--json")
    assert code == 1, err
    content = json.loads(out)
    by_landmarks, by_intervals = content["indexes"]
    alone = [one["files"][0]["p_value"] for one in (by_landmarks, by_intervals)]
    assert content["files"] == [
        {"file": "up.wav", "verdict": "copy", "p_value": pytest.approx(2 * min(alone))}
    ]
    assert by_landmarks["detector"].startswith("landmarks")
    assert by_landmarks["files"][0]["verdict"] == "no copy"
    assert by_intervals["detector"].startswith("transposed")
    (found,) = by_intervals["files"]
    assert found["verdict"] == "copy"
    assert found["semitones"] == pytest.approx(2.0, abs=0.25)
    assert found["clip"]["caption"] == "take number 3 [b]"
    assert by_intervals["false_positive_rate"] == 0.05
    _, out, _ = run("check", "up.wav", "--index", "i", *both)
    assert "+2.0 semitones, tempo 1" in out
    assert "all together:" in out


def test_check_by_a_detector_that_is_not_calibrated_judges_nothing(built: Path, run: Run) -> None:
    code, out, _ = run("check", "clips/0.wav", "--index", "i", "--detector", "transposed")
    assert code == 3
    assert out.startswith("NOT JUDGED: 1 of 1")
    code, _, err = run("check", "clips/0.wav", "--index", "i", "--detector", "transposed",
                       "--threshold", "0.9")  # fmt: skip
    assert code == 2
    assert "leave one of them out" in err


def test_check_without_a_calibration_judges_nothing_and_says_so_first(
    built: Path, run: Run
) -> None:
    code, out, err = run("check", "clips/0.wav", "--index", "i")
    assert (code, err) == (3, "")
    first, second, *_ = out.splitlines()
    assert first == "NOT JUDGED: 1 of 1; index 'i' has neither a calibration nor a threshold"
    assert second == (
        "calibrate it with 'anechoic calibrate FOLDER', a folder of sound that is known not to be "
        "in the training set, or give '--threshold' to 'anechoic check'"
    )
    assert "clips/0.wav NOT JUDGED 1.000" in " ".join(out.split())
    code, out, _ = run("check", "clips/0.wav", "--index", "i", "--json")
    (file,) = json.loads(out)["files"]
    assert (code, file["verdict"], file["copy"], file["clip"]["id"]) == (
        3, "not judged", None, "0.wav"
    )  # fmt: skip


def _write(name: str, samples: np.ndarray) -> None:
    soundfile.write(name, samples.astype(np.float32), RATE, subtype="FLOAT")


BAD_FILES: dict[str, Callable[[], object]] = {
    "corrupt": lambda: Path("bad.wav").write_bytes(b"RIFF and then nothing"),
    "silent": lambda: _write("bad.wav", np.zeros(RATE)),
    "0 s": lambda: _write("bad.wav", np.zeros(0)),
    "0 bytes": lambda: Path("bad.wav").touch(),
    "NaN": lambda: _write("bad.wav", np.full(RATE, np.nan)),
    "missing": lambda: None,
    "folder": lambda: Path("bad.wav").mkdir(),
}


@pytest.mark.parametrize("kind", BAD_FILES)
@pytest.mark.parametrize(
    "words",
    [("index", "search", "i", "bad.wav"), ("check", "clips/0.wav", "bad.wav", "--index", "i")],
)
def test_a_bad_file_is_one_sentence_and_exit_2(
    built: Path, run: Run, kind: str, words: tuple[str, ...]
) -> None:
    BAD_FILES[kind]()
    more = ("--threshold", "0.9") if words[0] == "check" else ()
    code, out, err = run(*words, *more)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert "'bad.wav'" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("kind", ["corrupt", "silent", "0 s", "0 bytes", "NaN"])
def test_a_bad_clip_stops_the_build_and_nothing_half_written_is_left(
    here: Path, run: Run, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    with monkeypatch.context() as context:
        context.chdir("clips")
        BAD_FILES[kind]()
    with Path("captions.csv").open("a") as captions:
        captions.write("\nbad.wav,a bad one\n")
    code, out, err = run(*BUILD, "i")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith(f"error: '{here}/clips/bad.wav'")
    assert run("index", "search", "i", "clips/0.wav")[0] == 2
    Path("clips/bad.wav").unlink()
    audio.write("clips/bad.wav", tones(7), RATE)  # mended: the same command goes on
    code, out, _ = run(*BUILD, "i")
    assert (code, "rows of 2048" in out) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((*BUILD, "i"), "exists already"),
        (("index", "build", "clips", "-o", "new"), "no metadata.csv"),
        (
            ("index", "build", "none", "--captions", "captions.csv", "-o", "new"),
            "there is no folder or file",
        ),
        (("index", "build", "clips", "--captions", "x.csv", "-o", "new"), "does not exist; check"),
        ((*BUILD, "new", "--embedder", "x"), "expected an embedder"),
        ((*BUILD, "new", "--hop", "1"), "needs a window"),
        ((*BUILD, "new", "--device", "moon"), "device 'moon' cannot be used here"),
        (("index", "search", "nowhere", "clips/0.wav"), "index 'nowhere' does not exist"),
        ((*SEARCH, "-k", "0"), "expected k of 1 or more"),
        ((*SEARCH, "--embedder", "magmel:seconds=2"), "was built with 'magmel' (2048-d)"),
        (("check", "clips/0.wav", "--index", "i", "--threshold", "7"), "from -1 to 1, got 7"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_and_exit_2(
    built: Path, run: Run, arguments: tuple[str, ...], complaint: str
) -> None:
    before = sorted(p.name for p in built.iterdir())
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert complaint in err.splitlines()[-1]
    assert sorted(p.name for p in built.iterdir()) == before


def test_an_output_that_cannot_be_written_is_one_sentence_and_exit_2(here: Path, run: Run) -> None:
    Path("file").touch()
    code, _, err = run(*BUILD, "file/i")
    assert code == 2
    assert "cannot be written to (Not a directory)" in err.splitlines()[-1]


def test_overwrite_replaces_an_index_and_nothing_else(built: Path, run: Run) -> None:
    assert run(*BUILD, "i", "--overwrite")[0] == 0
    code, _, err = run(*BUILD, "clips", "--overwrite")
    assert (code, "'clips' exists and is not an index" in err) == (2, True)


def test_windows_are_indexed_where_they_are_asked_for(built: Path, run: Run) -> None:
    audio.write("long/a.wav", torch.cat([tones(0), tones(1), tones(2)], 1), RATE)
    Path("long/metadata.csv").write_text("file_name,text\na.wav,three takes\n")
    assert run("index", "build", "long", "-o", "w", "--embedder", "magmel")[0] == 2
    code, out, _ = run("index", "build", "long", "-o", "w", "--window", "1.024")
    assert (code, out) == (0, "w: 3 rows of 2048 by 'magmel'\n")
    code, out, _ = run("index", "search", "w", "clips/1.wav", "-k", "1", "--json")
    assert json.loads(out)[0]["clip"]["start_s"] == 1.024


def test_every_command_shows_an_example(run: Run) -> None:
    def commands(group, path):
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from commands(command, [*path, name])
            else:
                yield [*path, name], command.help

    command_line = cli.application()
    found = {" ".join(path): text for path, text in commands(command_line, [])}
    assert {"index build", "index search", "check"} <= found.keys()
    for name, text in found.items():
        assert f"Example: `anechoic {name} " in text or f"Example: `anechoic {name}`" in text


def test_the_version_is_told(run: Run) -> None:
    assert run("--version") == (0, f"anechoic {__version__}\n", "")


def test_the_installed_command_passes_the_exit_code_on(here: Path) -> None:
    code = "from anechoic.cli import main; main()"
    arguments = ["audit", "--index", "i", "-o", "r"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: give either '--audio FOLDER', '--model MODEL' or")
