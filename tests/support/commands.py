"""The command line, run as a person runs it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from jsonschema import Draft202012Validator

from anechoic import cli
from anechoic.cli.schema import document, schemas

Run = Callable[..., tuple[int, str, str]]
_application = cli.application


@cache
def _built(name: str) -> Callable[..., None]:
    """A command of the core, built once: building takes longer than most of them run."""
    return _application([name])


def _once_built(commands: Sequence[str] | None) -> Callable[..., None]:
    return _application() if commands is None else _built(*commands)


def exit_code(*words: str | Path) -> int:
    """Run a command: its exit code."""
    with patch.object(cli, "application", _once_built), pytest.raises(SystemExit) as end:
        cli.main([str(word) for word in words])
    return int(end.value.code or 0)


@cache
def validator(name: str) -> Any:
    """What compares JSON with the schema of a command."""
    Draft202012Validator.check_schema(schema := document(name))
    return Draft202012Validator(schema)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def require_schema(words: Sequence[str | Path], out: str) -> None:
    """Compare what a command printed with its schema, if it is JSON that was asked for."""
    if "--json" not in words or not out:
        return
    names = [" ".join(map(str, words[:length])) for length in (3, 2, 1)]
    name = next(name for name in names if name in schemas())
    validator(name).validate(json.loads(out, parse_constant=_no_constant))


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command on a wide terminal: its exit code, stdout and stderr. JSON has its schema."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: str | Path) -> tuple[int, str, str]:
        capfd.readouterr()
        code = exit_code(*words)
        out, err = capfd.readouterr()
        require_schema(words, out)
        return code, out, err

    return run


def work_in_copy(folder: Path, copy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a copy of a folder the working directory, for a test to change it."""
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    monkeypatch.chdir(copy)
    return copy


def lines(text: str) -> list[str]:
    """The lines of an output that say something, their spaces evened."""
    return [" ".join(line.split()) for line in text.splitlines() if line.strip(" ─")]
