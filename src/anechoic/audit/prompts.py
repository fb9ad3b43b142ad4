"""Reads files of prompts: one prompt per line, or a table with further columns."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from anechoic.errors import BadCaptions, BadSetting
from anechoic.parsing import TABLES, Row, caption_of, read_file, read_rows, text_of

COLUMNS = ("caption", "id", "group", "scenario", "split")
ALL = "all"  # the scenario of a file that names none


def read_prompts(path: str | Path) -> list[str]:
    """The prompts of a file: one per line, or the captions of a CSV, JSON lines or Parquet file.

    Args:
        path: the file; "-" reads one prompt per line from stdin.

    Raises:
        BadSetting: the file does not exist, is not UTF-8 text, or has no prompts.
        BadCaptions: the table has no captions.
    """
    if Path(path).suffix.lower() in TABLES:
        return [line["caption"] for line in PromptFile(path).lines]
    try:
        content = None if path == "-" else read_file(path, "file of prompts", BadSetting)
        text = sys.stdin.read() if content is None else content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadSetting(f"'{path}' is not UTF-8 text ({error.reason}); save it as such") from error
    prompts = [line.strip() for line in text.splitlines() if line.strip()]
    if not prompts:
        raise BadSetting(f"'{path}' holds no prompts; write one a line")
    return prompts


class PromptFile:
    """Prompts by scenario and split.

    CSV (with a header), JSON lines or Parquet, by its suffix; UTF-8. The column
    `caption` is needed; `id` (by default the caption), `group` ("memorized", "ordinary"),
    `scenario` and `split` are optional, and other columns are ignored. A file without the column
    `split` holds the prompts of every split.

    Raises:
        BadCaptions: the file does not exist or has another format, or a line has no caption.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.lines = _read(self.path)
        without = [i for i, line in enumerate(self.lines, 1) if not line["caption"]]
        if not self.lines or without:
            where = f"none in line {without[0]} of the data" if without else "it has no lines"
            raise BadCaptions(f"prompts '{path}': expected a caption in each line, but {where}")

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


def _read(path: Path) -> Sequence[Mapping[str, str]]:
    rows = read_rows(path, "prompts", BadCaptions)
    return [{"caption": caption_of(row.get("caption"))} | _optional(row) for row in rows]


def _optional(row: Row) -> dict[str, str]:
    return {name: text_of(row.get(name)) for name in COLUMNS[1:]}
