"""Lines of a work file of the instruments."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from anechoic_lab.bench.task import MEMORIZED
from anechoic_lab.instruments.measure import Line


def line(prompt: str, guard: str = "none", **changed: Any) -> Line:
    """An unguarded copy of a memorized prompt, or what is changed of it."""
    plain = Line(
        "drums", guard, "0", 2.0, 50, 0, prompt, MEMORIZED, 64, True, True, False, True, 0.95,
        0.9, 1.0, 2.0, 2.0, 100.0,
    )  # fmt: skip
    return replace(plain, **changed)
