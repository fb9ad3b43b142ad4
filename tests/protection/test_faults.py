"""Faults in the middle: whatever happens, nothing leaves that was not verified."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.audits import training_set
from support.protection import PROMPT, Memorizes
from support.sounds import RATE, tune

from anechoic import audio, embedder, protect
from anechoic.detectors import calibration
from anechoic.detectors.calibration import Calibration
from anechoic.errors import BadSetting, CannotWrite, IndexMismatch
from anechoic.protection import Judge
from anechoic.protection.log import AttemptLog

NAME = "nearest stretch (magmel, whole clips)"


def null(name: str) -> Calibration:
    return Calibration(name, tuple(0.9 * i / 99 for i in range(100)))


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of clips in files, calibrated."""
    folder = tmp_path_factory.mktemp("stored")
    training = training_set(None)
    for number, clip in enumerate(training.clips):
        audio.write(folder / f"clips/{clip.id}.wav", tune(number), RATE)
    training.index.save(folder / "i")
    calibration.write(folder / "i", [null(NAME)])
    return folder


@pytest.fixture
def folder(stored: Path, tmp_path: Path) -> Path:
    shutil.copytree(stored / "i", tmp_path / "i")
    return tmp_path / "i"


def test_an_index_is_opened_with_its_calibration(folder: Path) -> None:
    made = protect(Memorizes(), folder, PROMPT, on_copy="refuse")
    (sound,) = made
    (verdict,) = sound.attempts[0].judgement.verdicts.values()
    assert (sound.verdict, verdict.p_value) == ("refused", 1 / 101)
    assert protect(Memorizes(0), folder, PROMPT)[0].released


def test_a_damaged_index_is_not_opened(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.suffix in (".npy", ".safetensors", ".parquet"):
            file.write_bytes(b"\0" * file.stat().st_size)
    function = Memorizes(0)
    with pytest.raises(IndexMismatch):
        protect(function, folder, PROMPT)
    assert function.seeds == []


@pytest.mark.parametrize("when", ["before", "between"])
def test_an_index_that_changes_after_it_was_opened_releases_nothing(
    folder: Path, when: str
) -> None:
    judge, function = Judge.load(folder), Memorizes(0)

    def damages(prompt: str, seed: int):
        (folder / "manifest.json").write_text("{}")
        return function(prompt, seed)

    if when == "before":
        damages(PROMPT, 0)
    made = protect(damages, judge, [PROMPT, "another"], on_copy="retry")
    assert [one.verdict for one in made] == ["not judged", "not judged"]
    assert all(one.wav is None for one in made)
    assert "has changed since it was opened ('manifest.json'" in made[0].reason
    assert len(made[0].attempts) == (0 if when == "before" else 2)


def test_a_calibrated_detector_that_is_not_here_is_not_passed_over(folder: Path) -> None:
    calibration.write(folder, [null(NAME), null("fingerprints")], overwrite=True)
    with pytest.raises(BadSetting, match="calibrated for 'fingerprints', which cannot be made"):
        Judge.load(folder)
    assert list(Judge.load(folder, detectors=()).rules) == [NAME]
    with pytest.raises(BadSetting, match="got 'landmark'"):
        Judge.load(folder, detectors=["landmark"])


def test_detectors_that_compare_with_the_matched_clip_judge_too(folder: Path) -> None:
    scorer = "correlation (8000 Hz, window 0.5 s), the matched clip"
    cosine = "cosine (magmel)"
    calibration.write(folder, [null(NAME), null(scorer), null(cosine)], overwrite=True)
    judge = Judge.load(folder)
    assert sorted(judge.rules) == sorted([NAME, scorer, cosine])
    judgement = judge(tune(1000), RATE)
    assert judgement.status == "not judged"  # the index in this folder has no sound
    assert "the matched clip's sound is not available" in judgement.why()
    calibrations = {name: null(name) for name in (NAME, scorer)}
    judge = Judge.of(training_set(None), embedder("magmel"), calibrations)
    assert judge(tune(1000), RATE).status == "no copy"
    assert judge(tune(2), RATE).verdicts[scorer].status == "copy"


class Stops(Exception):
    """In the middle of something."""


@pytest.mark.parametrize("at", ["log", "write", "rename"])
def test_a_fault_at_the_end_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    def stops(*args: object, **more: object) -> None:
        raise Stops

    target = {"log": (AttemptLog, "add"), "write": (os, "fsync"), "rename": (Path, "replace")}
    judge = Judge.of(training_set(0.95), embedder("magmel"))
    with monkeypatch.context() as patched:
        patched.setattr(*target[at], stops)
        with pytest.raises(Stops):
            protect(Memorizes(0), judge, PROMPT, files=[tmp_path / "out.wav"])
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_gives_back_something_else_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = Judge.of(training_set(0.95), embedder("magmel"))
    monkeypatch.setattr(Path, "read_bytes", lambda path: b"something else")
    with pytest.raises(CannotWrite, match="does not hold what was written to it"):
        protect(Memorizes(0), judge, PROMPT, files=[tmp_path / "out.wav"])
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, sys
from support.audits import training_set
from support.protection import PROMPT, Memorizes
from anechoic import embedder, protect
from anechoic.protection import Judge

synced = []

def dies(number):
    synced.append(number)
    if len(synced) == 2:
        os._exit(9)

os.fsync = dies
judge = Judge.of(training_set(0.95), embedder("magmel"))
files = [f"{sys.argv[1]}/{number}.wav" for number in range(4)]
protect(Memorizes(), judge, [PROMPT, "a", "b", "c"], on_copy="retry", files=files)
"""


def test_a_process_killed_while_it_writes_leaves_only_what_was_verified(tmp_path: Path) -> None:
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    words = [sys.executable, "-c", KILLED, str(tmp_path)]
    assert subprocess.run(words, env={**os.environ, "PYTHONPATH": path}).returncode == 9
    left = sorted(tmp_path.iterdir())
    assert [file.name for file in left if not file.name.startswith(".")] == ["1.wav"]
    judge = Judge.of(training_set(0.95), embedder("magmel"))
    for file in left:  # the hidden one, that was being written, too
        assert judge(*audio.read_bytes(file.read_bytes(), file.name)).status == "no copy"


def test_what_is_verified_is_what_the_file_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A codec that makes a copy of it: the samples themselves would have passed."""
    encode = audio.encode
    monkeypatch.setattr(audio, "encode", lambda path, wav, rate: encode(path, tune(2), rate))
    judge = Judge.of(training_set(0.95), embedder("magmel"))
    file = tmp_path / "out.wav"
    (sound,) = protect(Memorizes(0), judge, PROMPT, on_copy="refuse", files=[file])
    assert (sound.verdict, file.exists()) == ("refused", False)
    (sound,) = protect(Memorizes(0), judge, PROMPT, on_copy="refuse")
    assert torch.equal(sound.wav, Memorizes(0)(PROMPT, 0)[0])
