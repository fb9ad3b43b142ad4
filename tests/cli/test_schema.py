"""The schemas of `--json`. `support.commands` compares what any test prints with them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import ValidationError
from support.commands import Run, validator
from support.sounds import RATE, tune

from anechoic import audio, cli
from anechoic.cli import models
from anechoic.cli.output import print_json
from anechoic.cli.schema import schemas


def printing_json(group: Any, *path: str) -> Iterator[str]:
    """The words that call each command with the option --json."""
    for name, one in group.commands.items():
        if any("--json" in option.opts for option in one.params):
            yield " ".join([*path, name])
        if hasattr(one, "commands"):
            yield from printing_json(one, *path, name)


def test_every_command_with_json_has_a_schema_and_no_other() -> None:
    asked = {*printing_json(cli.application())}
    assert {"check", "index search", "demo images basin"} <= asked
    assert {*schemas()} == asked | {"certificate"}


@pytest.mark.parametrize("name", schemas())
def test_a_schema_is_one_and_closed(name: str, command: Run) -> None:
    code, out, _ = command("schema", *name.split())
    assert (code, json.loads(out)) == (0, validator(name).schema)
    with pytest.raises(ValidationError):
        validator(name).validate({"unknown": 1})


def test_the_schemas_are_listed_and_an_unknown_one_is_not_found(command: Run) -> None:
    assert command("schema")[1].splitlines() == sorted(schemas())
    code, out, err = command("schema", "chekc")
    assert (code, out) == (2, "")
    assert err.startswith("error: there is no schema of 'chekc', only of audit, basin, ")
    assert err.endswith(": did you mean 'check'?\n")


def test_output_that_its_schema_does_not_know_fails_here(
    command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "print_json", lambda content: print_json({**content, "new": 1}))
    with pytest.raises(ValidationError):
        command("models", "--json")


def test_json_has_neither_nan_nor_infinity(capfd: pytest.CaptureFixture[str]) -> None:
    print_json({"p": [float("nan"), float("inf"), 1.5], "path": Path("a")})
    assert json.loads(capfd.readouterr().out) == {"p": [None, None, 1.5], "path": "a"}


@pytest.mark.parametrize(
    "words",
    [
        "guards", "guards amg", "guards amg-audio", "embedders", "models",
        "index info demo", "index duplicates demo", "index search demo take.wav -k 3",
        "check take.wav --index demo", "check take.wav --index demo --index demo",
    ],
)  # fmt: skip
def test_what_a_command_prints_has_its_schema(
    words: str, command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    audio.write(Path("take.wav"), tune(3), RATE)
    code, out, _ = command(*words.split(), "--json")
    assert code in (0, 1)
    assert json.loads(out)
