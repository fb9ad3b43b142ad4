"""Reads tables of prompts that are divided by scenario and split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from anechoic.audit.prompts import read_table
from anechoic.parsing import text_of

COLUMNS = ("id", "group", "scenario", "split")
ALL = "all"  # the scenario of a file that names none


class PromptFile:
    """Prompts by scenario and split.

    A table as `read_table` takes it. Beside `caption`, the columns `id` (by default the caption),
    `group` ("memorized", "ordinary"), `scenario` and `split` are optional, and others are ignored.
    A file without the column `split` holds the prompts of every split.

    Raises:
        BadCaptions: the file does not exist or has another format, or a line has no caption.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.lines: list[Mapping[str, str]] = [
            {"caption": row["caption"], **{name: text_of(row.get(name)) for name in COLUMNS}}
            for row in read_table(path)
        ]

    @property
    def scenarios(self) -> list[str]:
        """The scenarios in the file, in order."""
        return list(dict.fromkeys(line["scenario"] or ALL for line in self.lines))

    def of(self, scenario: str, split: str) -> list[Mapping[str, str]]:
        """The lines of a scenario and split."""
        return [
            line
            for line in self.lines
            if (line["scenario"] or ALL) == scenario and line["split"] in ("", split)
        ]
