"""The two distributions as they are released: wheels, built from a copy of their sources."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]


def build_wheel(project: Path, folder: Path) -> Path:
    """The wheel of the project in a folder; no build of an earlier version leaks into it."""
    source = folder / "source"
    source.mkdir(parents=True)
    for file in project.iterdir():
        if file.is_file():
            shutil.copy(file, source)
    unshipped = shutil.ignore_patterns("*.egg-info", "__pycache__")
    shutil.copytree(project / "src", source / "src", ignore=unshipped)
    script = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    command = [sys.executable, "-c", script, str(folder)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(wheel: Path, folder: Path) -> Path:
    """The folder, for a path of modules, with a wheel of Python alone unpacked into it."""
    with ZipFile(wheel) as content:
        content.extractall(folder)
    return folder


@pytest.fixture(scope="session")
def core_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of anechoic."""
    return build_wheel(ROOT, tmp_path_factory.mktemp("core"))


@pytest.fixture(scope="session")
def lab_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of anechoic-lab."""
    return build_wheel(ROOT / "lab", tmp_path_factory.mktemp("lab"))
