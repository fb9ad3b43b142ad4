"""Whatever happens in a command ends in one sentence and a documented exit code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.commands import Run
from support.sounds import save_clips, tones

from anechoic import TrainingIndex, cli
from anechoic.cli import check
from anechoic.cli.index import Kind, plan_of
from anechoic.cli.output import print_table, say
from anechoic.errors import BadSetting
from anechoic.verdict import find_rule


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let `check` fail, after it has found its files."""
    Path("i").mkdir()
    Path("i/manifest.json").touch()

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(check, "open_judges", fail)


@pytest.mark.parametrize(
    "error", [KeyError("seconds"), RecursionError("deep"), MemoryError(), ImportError("torch")]
)
def test_a_fault_of_ours_exits_with_70_and_leaves_a_report(
    here: Path, command: Run, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    raising(monkeypatch, error)
    Path("a.wav").touch()
    code, out, err = command("check", "a.wav", "--index", "i")
    assert (code, out, err.count("\n")) == (70, "", 1)
    assert "Traceback" not in err
    named = re.fullmatch(r"error: anechoic failed inside \((.*)\), .* '(.*)', .*\n", err)
    assert named is not None
    assert named[1].startswith(type(error).__name__)
    report = Path(named[2])
    assert report.parent == here
    assert "Traceback" in report.read_text()
    assert "python: 3." in report.read_text()


def test_an_interrupted_command_exits_with_130(
    here: Path, command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    raising(monkeypatch, KeyboardInterrupt())
    Path("a.wav").touch()
    assert command("check", "a.wav", "--index", "i")[0] == 130


def test_a_reader_that_went_away_is_not_a_copy(here: Path) -> None:
    code = """
from anechoic import cli
from anechoic.cli import screen as module
def screen():
    print("x" * 200_000)
    print("y")
module.screen = screen
cli.main(["screen"])
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=-1, stderr=-1) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_the_module_is_the_command(here: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "anechoic", "check"], capture_output=True)
    assert done.returncode == 2
    assert b"FILES" in done.stderr


@pytest.mark.parametrize("words", [("--help",), ("check", "--help"), ("audit", "--help")])
def test_the_help_names_the_exit_codes(command: Run, words: tuple[str, ...]) -> None:
    code, out, _ = command(*words)
    text = " ".join(out.replace("│", " ").split())
    assert code == 0
    for number in (0, 1, 2, 3, 70):
        assert re.search(rf"Exit codes:.*\b{number} [a-z]", text)


def test_names_and_captions_never_command_a_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    name = "a\x1b[2J\x9b31m\u202ex\nerror: fake\r\x07"
    say(f"not examined: {name}")
    say(name, error=True)
    print_table(("clip",), [(name,)])
    out, err = capfd.readouterr()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", out + err)
    assert out.startswith(r"not examined: a\x1b[2J\x9b31m\u202ex error: fake")
    assert err.count("\n") == 1


def test_names_that_the_terminal_cannot_show_are_spelt_out(here: Path) -> None:
    words = ["check", "caf\udce9.wav", "--index", "ï"]
    done = subprocess.run(
        [sys.executable, "-m", "anechoic", *words],
        capture_output=True,
        env={"PATH": "", "PYTHONPATH": ":".join(sys.path), "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: ")
    assert b"Traceback" not in done.stderr


def test_the_application_knows_its_commands() -> None:
    assert {"check", "audit"} <= set(cli.application().commands)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("check none.wav --index nowhere", "there is no file 'none.wav'; check the path"),
        ("audit --audio none --index demo -o r", "there is no folder 'none'; check the path"),
        ("audit --audio . --held-out none --index i -o r", "there is no folder 'none'"),
        ("audit --model demo --prompts none.csv --index i -o r", "there is no file 'none.csv'"),
    ],
)
def test_a_path_that_is_not_there_is_told_before_anything_heavy_is_imported(
    here: Path, words: str, sentence: str
) -> None:
    code = f"""
import sys
from anechoic.cli import main
try:
    main({words.split()!r})
finally:
    assert not {{"torch", "numpy"}} & sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert sentence in done.stderr


def test_the_hubs_client_does_not_tell_of_each_of_its_tries(
    command: Run, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants
    from huggingface_hub.utils import http_backoff

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert command("embedders")[0] == 0
    with pytest.raises(Exception, match="refused"):
        http_backoff("HEAD", "http://127.0.0.1:9", max_retries=2, base_wait_time=0)
    assert capfd.readouterr().err == ""


def test_an_empty_prompt_is_refused(here: Path, command: Run) -> None:
    code, _, err = command("generate", "a", " ", "--model", "demo", "-o", "o.wav")
    assert (code, err) == (2, "error: prompt number 2 is empty; say what is to sound\n")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--window 1 --hop nan", "expected a hop of 0.001 to 86400 seconds, got nan"),
        ("--window inf", "expected a window of 0.001 to 86400 seconds, got inf"),
        ("--window 1e30", "expected a window of 0.001 to 86400 seconds, got 1e+30"),
        ("--window 0", "expected a window of 0.001 to 86400 seconds, got 0"),
        ("--embedder magmel:seconds=1e30", "expected a magmel window of 0.064 to 3600 s"),
        ("--embedder magmel:seconds=nan", "expected a magmel window of 0.064 to 3600 s"),
    ],
)
def test_numbers_that_cannot_be_are_refused(
    here: Path, command: Run, words: str, sentence: str
) -> None:
    save_clips(here, map(tones, range(2)), caption=["a", "b"])
    code, _, err = command(
        "index", "build", "clips", "--captions", "captions.csv", "-o", "i", *words.split()
    )
    assert code == 2
    assert sentence in err


def test_memory_and_thresholds_that_cannot_be_are_refused() -> None:
    for memory in (float("inf"), float("nan"), 0.0, -1.0, 1e300):
        with pytest.raises(BadSetting, match="expected '--memory' as a number of GiB"):
            plan_of(Kind.auto, memory, 10, 8)
    for threshold in (1e30, -1e30, float("nan")):
        with pytest.raises(BadSetting, match="expected a score as the threshold"):
            find_rule("nearest", TrainingIndex.from_embeddings(torch.eye(3)), {}, threshold, None)


NARROW = (
    ("file", "verdict", "score", "p", "at s", "in clip s", "nearest"),
    [("plain-1.wav", "COPY", "0.970", "0.00709", "0.00", "0.00",
      "indian tabla tun 1 (recording_of_a_tabla_tun_that_has_a_long_name.flac)"),
     ("plain-2.wav", "no copy", "", "", "", "", "")],
)  # fmt: skip


def test_free_text_stands_below_its_row_where_a_terminal_is_too_narrow_for_it(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_table(*NARROW)
    out = capfd.readouterr().out.splitlines()
    assert [line.split() for line in out if "verdict" in line] == [
        ["file", "verdict", "score", "p", "at", "s", "in", "clip", "s"]
    ]
    (row,) = [i for i, line in enumerate(out) if "plain-1.wav" in line]
    whole = " ".join(line.strip() for line in out[row + 1 : row + 3])
    assert whole.startswith(f"nearest: {NARROW[1][0][-1]}")
    assert all(len(line.rstrip()) <= 80 for line in out)
    monkeypatch.setenv("COLUMNS", "200")
    print_table(*NARROW)
    wide = capfd.readouterr().out
    assert "nearest:" not in wide
    assert NARROW[1][0][-1] in wide


def test_a_first_column_of_free_text_stands_above_its_row(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "56")
    name = "correlation (8000 Hz, window 0.5 s), the matched clip"
    print_table(("detector", "sounds", "its 95 % interval"), [(name, "140", "0.1 to 0.2")],
                ("detector",))  # fmt: skip
    out = [line.strip() for line in capfd.readouterr().out.splitlines() if line.strip()]
    assert out[-2:] == [name, "140      0.1 to 0.2"]
