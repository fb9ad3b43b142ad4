"""Malformed input is refused in a sentence, or read as what it is: 'make fuzz' tries 10,000."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FUZZER = Path(__file__).parents[1] / "scripts" / "fuzz.py"
BOUNDARIES = (
    "sounds", "captions", "prompts", "indexes", "tars", "vectors", "plans", "settings", "places",
    "models", "remote",
)  # fmt: skip


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_fifty_malformed_inputs_end_well(boundary: str) -> None:
    ran = subprocess.run(
        [sys.executable, FUZZER, "50", "--only", boundary, "--json"],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    counts = json.loads(ran.stdout)[boundary]
    assert counts.keys() <= {"refused", "accepted"}
    assert sum(counts.values()) == 50
    assert counts["refused"] > 10


def test_a_boundary_whose_good_input_is_refused_is_not_tried(tmp_path: Path) -> None:
    """Its malformed inputs would be refused for that, too, and prove nothing."""
    script = f"""
import sys
sys.path.insert(0, {str(FUZZER.parent)!r})
import fuzz
def read(folder, name):
    from anechoic.errors import BadSetting
    raise BadSetting("whatever it is")
fuzz.__file__ = __file__
fuzz.BOUNDARIES = {{"toy": fuzz.Boundary(lambda: [{{"f": b"good input"}}], read)}}
sys.exit(fuzz.main())
"""
    (tmp_path / "toy.py").write_text(script)
    ran = subprocess.run(
        [sys.executable, tmp_path / "toy.py", "24", "--json"],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ran.returncode == 1
    assert "the good input 0 of 'toy' is refused: whatever it is" in ran.stderr


def test_a_fault_is_found_and_its_input_written(tmp_path: Path) -> None:
    """The fuzzer itself: a reader that swallows what is missing, hangs and crashes."""
    script = f"""
import os, sys, time
sys.path.insert(0, {str(FUZZER.parent)!r})
import fuzz
def read(folder, name):
    content = (folder / name).read_bytes()
    number = sum(content) % 4
    if content == b"good input": return content
    if number == 0: raise KeyError("odd")
    if number == 1: time.sleep(60)
    if number == 2: os.abort()
    return content
fuzz.SECONDS = 0.2
fuzz.__file__ = __file__
fuzz.BOUNDARIES = {{"toy": fuzz.Boundary(lambda: [{{"f": b"good input"}}], read,
                                         silent=lambda good, now, changes: now != good)}}
sys.exit(fuzz.main())
"""
    (tmp_path / "toy.py").write_text(script)
    ran = subprocess.run(
        [sys.executable, tmp_path / "toy.py", "24", "--json"],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ran.returncode == 1, ran.stderr
    counts = json.loads(ran.stdout)["toy"]
    assert sum(counts.values()) == 24
    assert {"traceback", "hang", "crash", "silent"} <= counts.keys()
    assert len([line for line in ran.stderr.splitlines() if "toy-" in line]) == 24
