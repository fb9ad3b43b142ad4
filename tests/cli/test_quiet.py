"""`--quiet` and `NO_COLOR`: what every command prints besides its result."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.commands import Run
from support.sounds import save_clips, tones

from anechoic import cli
from anechoic.cli.output import QUIET, quietly
from anechoic.cli.training import progress_of_audit

COLOUR = re.compile(r"\x1b\[[0-9;]*[349][0-7][0-9;]*m")
BUILD = ("index", "build", "clips", "-o", "i", "--overwrite")


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with clips, and output that is taken for a terminal's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    save_clips(tmp_path, map(tones, range(3)), caption=["a", "b", "c"])
    Path("captions.csv").rename("clips/metadata.csv")


def paths_of(group: Any, *path: str) -> Iterator[tuple[str, ...]]:
    for name, inner in getattr(group, "commands", {}).items():
        yield (*path, name)
        yield from paths_of(inner, *path, name)


def test_every_command_is_quiet_on_demand() -> None:
    built = cli.application()
    found = list(paths_of(built))
    assert {("check",), ("index", "build"), ("demo", "images", "train")} <= {*found}
    for path in found:
        one: Any = built
        for name in path:
            one = one.commands[name]
        assert [option.opts for option in one.params].count(["--quiet"]) == 1, path


@pytest.mark.usefixtures("terminal")
def test_long_work_shows_its_rate_and_the_time_left_unless_it_is_quiet(
    command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = command(*BUILD)
    shown = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", err)
    assert code == 0
    assert re.search(r"embedding .* 3/3 [\d.,]+/s \d:\d\d:\d\d", shown)
    assert COLOUR.search(err)
    for words in (("--quiet", *BUILD), (*BUILD, "--quiet")):
        assert command(*words) == (0, out, "")
    monkeypatch.setenv(QUIET, "1")
    assert command(*BUILD) == (0, out, "")


@pytest.mark.usefixtures("terminal")
def test_no_color_leaves_the_bar_and_takes_its_colours(
    command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    code, _, err = command(*BUILD)
    assert code == 0
    assert "embedding" in err
    assert not COLOUR.search(err)


def test_libraries_do_not_warn_where_it_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(QUIET, raising=False)
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "info")
    before = dict(os.environ)
    logger, script = logging.getLogger("a library"), "import warnings; warnings.warn('mind')"
    with warnings.catch_warnings(record=True) as caught, quietly():
        assert not logger.isEnabledFor(logging.WARNING)
        assert logger.isEnabledFor(logging.ERROR)
        warnings.warn("mind", UserWarning, stacklevel=1)
        child = subprocess.run([sys.executable, "-c", script], capture_output=True)
        with progress_of_audit("examining"):
            pass
    assert not caught
    assert (child.returncode, child.stderr) == (0, b"")
    assert logger.isEnabledFor(logging.WARNING)
    assert dict(os.environ) == before
