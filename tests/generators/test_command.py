"""A command line as a generator: one argument a place, no shell, and one sentence if it fails."""

from __future__ import annotations

import shlex
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from support.sounds import RATE, tune

from anechoic import audio
from anechoic.errors import AnechoicError, BadAudio, BadSetting
from anechoic.generators import external

WRITES = "import shutil, sys; shutil.copy('sound.wav', sys.argv[1])"
SHOWS = f"{WRITES}; open('seen', 'w').write(repr(sys.argv[2:]))"


def python(code: str, *places: str) -> str:
    return " ".join([shlex.quote(sys.executable), "-c", shlex.quote(code), *places])


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory holds a sound, and a folder for temporary files."""
    monkeypatch.chdir(tmp_path)
    audio.write("sound.wav", tune(3), RATE)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path


def left_over() -> list[Path]:
    return list(Path("temporary").iterdir())


def test_the_file_that_it_writes_is_the_sound_and_the_folder_is_removed() -> None:
    wav, rate = external(python(WRITES, "{output}", "{prompt}"))("a", 0)
    assert rate == RATE
    assert torch.equal(wav, audio.read("sound.wav")[0])
    assert left_over() == []


@pytest.mark.parametrize(
    "prompt",
    [
        "a b  c",
        "; touch hacked; $(touch hacked) `touch hacked` | > hacked",
        "'\"\\ \n\t {output} {seed} {0} %s é",
    ],
)
def test_a_prompt_is_one_argument_whatever_it_holds(prompt: str) -> None:
    template = python(SHOWS, "{output}", "--text={prompt}", "{prompt}", "{seed}", "{seconds}")
    external(template, seconds=2.5)(prompt, 7)
    assert Path("seen").read_text() == repr([f"--text={prompt}", prompt, "7", "2.5"])
    assert not Path("hacked").exists()


def test_a_prompt_like_an_option_is_refused_where_it_would_be_one() -> None:
    with pytest.raises(BadSetting, match=r"would take the prompt '--help' for an option; write"):
        external(python(SHOWS, "{output}", "{prompt}"))("--help", 0)
    assert not Path("seen").exists()
    for places in (("--text={prompt}",), ("--", "{prompt}")):
        external(python(SHOWS, "{output}", *places))("--help", 0)
        assert "--help" in Path("seen").read_text()


def test_only_a_template_with_a_place_for_the_seed_is_seeded() -> None:
    assert external(python(WRITES, "{output}", "{prompt}", "--seed={seed}")).seeded
    assert not external(python(WRITES, "{output}", "{prompt}")).seeded


@pytest.mark.parametrize(
    ("code", "error", "sentence"),
    [
        ("import sys; sys.exit('one\\nno more memory\\n')", AnechoicError,
         "ended with exit code 1: no more memory$"),
        ("import sys; sys.exit(3)", AnechoicError, "ended with exit code 3$"),
        ("import os; os.kill(os.getpid(), 9)", AnechoicError, "ended by signal 9$"),
        ("pass", AnechoicError, "ended without an error, but wrote no sound to {output}"),
        ("import sys; open(sys.argv[1], 'w').write('none')", BadAudio, "cannot be read as sound"),
        ("import sys; open(sys.argv[1], 'w')", BadAudio, "is empty"),
    ],
)  # fmt: skip
def test_each_failure_is_one_sentence_and_leaves_nothing(
    code: str, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence) as raised:
        external(python(code, "{output}", "{prompt}"))("a", 0)
    assert "\n" not in str(raised.value)
    assert left_over() == []


def test_what_takes_too_long_is_killed_with_all_that_it_started() -> None:
    child = "import time; time.sleep(1.5); open('late', 'w')"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    start = time.perf_counter()
    with pytest.raises(AnechoicError, match=r"took longer than 0.3 s and was killed"):
        external(python(code, "{output}", "{prompt}"), timeout_s=0.3)("a", 0)
    assert time.perf_counter() - start < 1.2
    assert left_over() == []
    time.sleep(1.6)
    assert not Path("late").exists()


def test_a_prompt_that_no_argument_can_hold_is_refused() -> None:
    with pytest.raises(AnechoicError, match="cannot be started: embedded null byte"):
        external(python(WRITES, "{output}", "{prompt}"))("a\0b", 0)


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("", "the generator is empty"),
        ("python3 -o {output}", "has no place for the prompt; write {prompt}"),
        ("python3 {prompt}", "has no place for the output; write {output}"),
        ("python3 {prompt} {output} {sed}", "got '{sed}': did you mean 'seed'"),
        ("python3 '{prompt} {output}", "cannot be split into arguments .No closing quotation"),
        ("{prompt} {output}", "expected the name of a program first, got '{prompt}'"),
        ("no-such-tts {prompt} {output}", "there is no program 'no-such-tts' to start"),
        ("python3 {prompt} {output} {seconds}", "a length and the place {seconds}"),
    ],
)
def test_a_template_that_cannot_work_is_refused_at_once(template: str, sentence: str) -> None:
    with pytest.raises(BadSetting, match=sentence):
        external(template)


@pytest.mark.parametrize(("name", "value"), [("seconds", 0), ("timeout_s", -1.0)])
def test_a_time_that_is_none_is_refused(name: str, value: float) -> None:
    with pytest.raises(BadSetting, match=f"above 0 s, got {value:g}"):
        external(python(WRITES, "{output}", "{prompt}"), **{name: value})
