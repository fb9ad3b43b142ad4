"""The template of a package of one's own installs, and passes its tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TEMPLATE = Path(__file__).parents[1] / "templates/guidance-plugin"


@pytest.mark.slow  # a quarter of a minute, most of it imports
def test_the_template_installs_is_found_by_name_and_passes_its_tests(tmp_path: Path) -> None:
    # a copy: building leaves its traces beside the sources
    subprocess.run(["cp", "-r", TEMPLATE, tmp_path / "plugin"], check=True)
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*install, "--target", tmp_path / "site", tmp_path / "plugin"], check=True)
    paths = [str(tmp_path / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tmp_path / "plugin"]
    ran = subprocess.run(tests, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    ask = [sys.executable, "-m", "anechoic", "guards", "halved-early"]
    told = subprocess.run(ask, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert "log-SNR up to which it is halved" in told.stdout, told.stderr
