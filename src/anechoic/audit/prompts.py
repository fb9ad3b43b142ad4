"""Reads files of prompts: one prompt per line, or a table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from anechoic.errors import BadCaptions, BadSetting
from anechoic.parsing import TABLES, caption_of, read_file, read_rows


def read_prompts(path: str | Path) -> list[str]:
    """The prompts of a file: one per line, or the captions of a CSV, JSON lines or Parquet file.

    Args:
        path: the file; "-" reads one prompt per line from stdin.

    Raises:
        BadSetting: the file does not exist, is not UTF-8 text, or has no prompts.
        BadCaptions: the table has no captions.
    """
    if Path(path).suffix.lower() in TABLES:
        return [row["caption"] for row in read_table(path)]
    try:
        content = None if str(path) == "-" else read_file(path, "file of prompts", BadSetting)
        text = sys.stdin.read() if content is None else content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadSetting(f"'{path}' is not UTF-8 text ({error.reason}); save it as such") from error
    prompts = [line.strip() for line in text.splitlines() if line.strip()]
    if not prompts:
        raise BadSetting(f"'{path}' holds no prompts; write one a line")
    return prompts


def read_table(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a table of prompts (CSV with a header, JSON lines or Parquet, by its suffix;
    UTF-8), each with its `caption`.

    Raises:
        BadCaptions: the file does not exist or has another format, or a row has no caption.
    """
    rows = [
        {**row, "caption": caption_of(row.get("caption"))}
        for row in read_rows(path, "prompts", BadCaptions)
    ]
    without = [i for i, row in enumerate(rows, 1) if not row["caption"]]
    if not rows or without:
        where = f"none in line {without[0]} of the data" if without else "it has no lines"
        raise BadCaptions(f"prompts '{path}': expected a caption in each line, but {where}")
    return rows
