"""Malformed input is refused in a sentence, or read as what it is: 'make fuzz' tries 10,000."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

FUZZER = Path(__file__).parents[1] / "scripts" / "fuzz.py"


class Ran(NamedTuple):
    """How the fuzzer ended."""

    code: int
    counts: dict[str, dict[str, int]]
    err: str


def fuzz(script: Path, count: int) -> Ran:
    ran = subprocess.run(
        [sys.executable, script, str(count), "--json"],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    return Ran(ran.returncode, json.loads(ran.stdout or "{}"), ran.stderr)


def test_of_each_boundary_four_malformed_inputs_end_well() -> None:
    ran = fuzz(FUZZER, 64)
    assert ran.code == 0, ran.err
    assert len(ran.counts) == 16
    for boundary, ends in ran.counts.items():
        assert ends.keys() <= {"refused", "accepted"}, boundary
        assert sum(ends.values()) == 4, boundary
        # whatever a log holds, a line can be appended
        assert ends["refused"] > 0 if boundary != "logs" else ends["accepted"] == 4, boundary


TOY = f"""
import os, sys, time
sys.path.insert(0, {str(FUZZER.parent)!r})
import fuzz
%s
fuzz.HEAVY = ()
sys.exit(fuzz.main())
"""


def test_a_boundary_whose_good_input_is_refused_is_not_tried(tmp_path: Path) -> None:
    """Its malformed inputs would be refused for that, too, and prove nothing."""
    script = """
def read(folder, name):
    from anechoic.errors import BadSetting
    raise BadSetting("whatever it is")
fuzz.BOUNDARIES = {"toy": fuzz.Boundary(lambda: [{"f": b"good input"}], read)}
"""
    (tmp_path / "toy.py").write_text(TOY % script)
    ran = fuzz(tmp_path / "toy.py", 24)
    assert ran.code == 1
    assert "the good input 0 of 'toy' is refused: whatever it is" in ran.err


def test_a_fault_is_found_and_its_input_written(tmp_path: Path) -> None:
    """The fuzzer itself: a reader that swallows what is missing, hangs and crashes."""
    script = """
def read(folder, name):
    content = (folder / name).read_bytes()
    number = sum(content) % 4
    if content == b"good input": return content
    if number == 0: raise KeyError("odd")
    if number == 1: time.sleep(60)
    if number == 2: os.abort()
    return content
fuzz.SECONDS, fuzz.WAITS = 0.2, 1
fuzz.BOUNDARIES = {"toy": fuzz.Boundary(lambda: [{"f": b"good input"}], read,
                                        silent=lambda good, now, changes: now != good)}
"""
    (tmp_path / "toy.py").write_text(TOY % script)
    ran = fuzz(tmp_path / "toy.py", 24)
    assert ran.code == 1, ran.err
    assert sum(ran.counts["toy"].values()) == 24
    assert {"traceback", "hang", "crash", "silent"} <= ran.counts["toy"].keys()
    assert len([line for line in ran.err.splitlines() if "toy-" in line]) == 24
