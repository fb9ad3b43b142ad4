"""`--generator`: a command in place of a model, audited, or verified before anything is written."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest
from support.audits import training_set
from support.commands import Run, lines
from support.protection import PROMPT, SEEDS
from support.sounds import RATE, tune

from anechoic import audio

COPIES = f"""
import shutil, sys
prompt, output, seed = sys.argv[1:]
copy = prompt == {PROMPT!r} and int(seed) in {SEEDS[:2]}
shutil.copy("copy.wav" if copy else "other.wav", output)
"""
MEMORIZES = [sys.executable, "-c", COPIES, "{prompt}", "{output}"]
SEEDED, SEEDLESS = (shlex.join([*MEMORIZES, seed]) for seed in ("{seed}", "0"))
FAILS = shlex.join([sys.executable, "-c", "import sys; sys.exit('no GPU')", "{prompt}", "{output}"])


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory: the index "i", a sound that copies one of its clips, and another."""
    monkeypatch.chdir(tmp_path)
    training_set(0.95).index.save("i")
    audio.write("copy.wav", 0.5 * tune(2), RATE)
    audio.write("other.wav", tune(1000), RATE)


def written() -> list[str]:
    inputs = ("copy.wav", "i", "other.wav")
    return sorted(path.name for path in Path.cwd().iterdir() if path.name not in inputs)


def test_a_copy_is_made_again_and_only_what_was_verified_is_written(command: Run) -> None:
    usual = ("generate", PROMPT, "--index", "i", "--generator", SEEDED, "-o", "out.wav")
    code, out, _ = command(*usual, "--json")
    assert (code, written()) == (1, [])
    told = json.loads(out)
    assert (told["guard"], told["policy"]) == (None, ["first", "retry", "refuse"])
    code, out, _ = command(*usual, "--retries", "2", "--certify")
    assert (code, written()) == (0, ["out.wav", "out.wav.anechoic.json"])
    assert lines(out)[0].startswith("no guard reaches the generator; each sound is verified")
    assert lines(out)[1] == "out.wav: regenerated"
    assert json.loads(Path("out.wav.anechoic.json").read_text())["provenance"]["seed"] == SEEDS[2]


def test_without_a_seed_there_is_one_attempt_and_no_seed_is_claimed(command: Run) -> None:
    usual = ("generate", "--index", "i", "--generator", SEEDLESS, "-o", "out.wav")
    code, out, _ = command(*usual, PROMPT, "--log", "log.jsonl")
    assert (code, written()) == (1, ["log.jsonl"])
    assert lines(out)[0].endswith(", after a single attempt: it takes no {seed}")
    assert json.loads(Path("log.jsonl").read_text())["seed"] is None
    code, _, err = command(*usual, PROMPT, "--retries", "2")
    assert (code, "error: the generator takes no seed, so another attempt" in err) == (2, True)
    assert command(*usual, "rain", "--certify")[0] == 0
    assert json.loads(Path("out.wav.anechoic.json").read_text())["provenance"]["seed"] is None


def test_what_fails_is_said_and_nothing_is_written(command: Run) -> None:
    code, out, _ = command(
        "generate", "a", "--index", "i", "--generator", FAILS, "--on-copy", "refuse", "-o", "o.wav"
    )
    assert (code, written()) == (3, [])
    assert lines(out)[1] == (
        f"o.wav: NOTHING WRITTEN, not judged: the generator '{sys.executable}' ended with exit "
        "code 1: no GPU"
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--index", "i", "--guard", "amg"), "'--guard' is for a model that runs here"),
        (("--index", "i", "--model", "demo"), "'--model' is for a model that runs here"),
        (("--index", "i", "--on-copy", "guard"), "so no attempt can be guarded; leave the guard"),
        (("--index", "i", "--timeout", "0"), "expected a time for each sound above 0 s, got 0"),
        ((), "what is written only if it is verified is compared with an index; give it with"),
    ],
)
def test_what_does_not_fit_a_generator_is_refused(
    command: Run, words: tuple[str, ...], sentence: str
) -> None:
    code, _, err = command("generate", "a", "--generator", SEEDED, "-o", "out.wav", *words)
    assert (code, written()) == (2, [])
    assert sentence in err


def test_a_generator_is_audited(command: Run) -> None:
    Path("prompts.txt").write_text(f"{PROMPT}\nrain\n")
    usual = ("audit", "--index", "i", "--prompts", "prompts.txt", "-o", "r")
    code, out, err = command(*usual, "--generator", SEEDED, "--seeds", "2")
    assert code == 1, err
    assert lines(out)[0].startswith("1 of 4 generations replicates a training clip")
    report = json.loads(Path("r/report.json").read_text())
    assert report["about"]["model"] == SEEDED
    assert report["about"]["guard none"] == f"the plain command: {SEEDED}"
    code, _, err = command(*usual, "--generator", SEEDLESS, "--seeds", "2", "--overwrite")
    assert (code, "'--seeds' needs a place {seed} in the generator" in err) == (2, True)
    code, out, _ = command(*usual, "--generator", FAILS, "--overwrite")
    assert code == 3
    assert "not examined: rain · seed 0: the generator" in out
