"""The command line, run as a person runs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from anechoic import cli

Run = Callable[..., tuple[int, str, str]]


def exit_code(*words: str | Path) -> int:
    """Run a command: its exit code."""
    with pytest.raises(SystemExit) as end:
        cli.main([str(word) for word in words])
    return int(end.value.code or 0)


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command on a wide terminal: its exit code, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: str | Path) -> tuple[int, str, str]:
        capfd.readouterr()
        return (exit_code(*words), *capfd.readouterr())

    return run


def lines(text: str) -> list[str]:
    """The lines of an output that say something, their spaces evened."""
    return [" ".join(line.split()) for line in text.splitlines() if line.strip(" ─")]
