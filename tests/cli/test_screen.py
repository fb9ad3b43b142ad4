"""`anechoic screen`, from the command to what it found, on a tiny, real pipeline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.commands import Run
from support.pipelines import make_pipe


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("screen") / "model"
    make_pipe().save_pretrained(folder)
    return folder


@pytest.fixture
def run(model: Path, tmp_path: Path, command: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `anechoic screen` with the tiny model."""
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("low cello note\n\na dog barks\nlow cello note\n")
    Path("ordinary.txt").write_text("high flute note\nrain on a roof\nhigh dog\n")
    usual = ["--model", model, "--device", "cpu", "--seeds", "1"]
    return lambda *words: command("screen", "prompts.txt", *usual, *words)


def test_the_command_screens_each_prompt_once_and_exits_with_what_it_found(run) -> None:
    code, out, _ = run("--ordinary", "ordinary.txt", "--fpr", "0.25", "--json")
    about = json.loads(out)
    rows = about["prompts"]
    assert {row["prompt"] for row in rows} == {"low cello note", "a dog barks"}
    assert set(rows[0]["scores"]) == {"magnitude", "first-step", "angle"}
    p_values = [row["p_values"]["magnitude"] for row in rows]
    assert p_values == sorted(p_values)
    assert code == int(any(row["over"] for row in rows)) == int(p_values[0] <= 0.25)


def test_the_command_judges_nothing_without_ordinary_prompts(run) -> None:
    code, out, _ = run("--by", "first-step")
    assert code == 0
    assert "not judged" in out
    assert "nothing was judged: to have it judged, give ordinary prompts" in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--ordinary", "ordinary.txt"], "needs 19 held-out scores or more, got 3"),
        (["--by", "nosuch"], "'--by' is one of magnitude, first-step, angle, run, got 'nosuch'"),
        (["--ordinary", "missing.txt"], "there is no file 'missing.txt'; check the path"),
        (["--ordinary", "empty.txt"], "'empty.txt' holds no prompts"),
        (["--ordinary", "latin.txt"], "is not UTF-8 text"),
        (["--ordinary", "prompts.txt"], "2 prompts are both to be screened and among"),
    ],
)
def test_what_cannot_be_screened_is_refused_in_one_sentence(run, arguments, sentence) -> None:
    Path("empty.txt").write_text("\n")
    Path("latin.txt").write_bytes("caf\u00e9".encode("latin-1"))
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert sentence in " ".join(err.split())
