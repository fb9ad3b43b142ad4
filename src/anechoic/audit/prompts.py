"""Reads files of prompts: one prompt per line, or a table with further columns."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from anechoic.errors import BadCaptions, BadSetting

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
    if Path(path).suffix.lower() in (".csv", ".jsonl", ".ndjson", ".parquet"):
        return [line["caption"] for line in PromptFile(path).lines]
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadSetting(f"'{path}' is not UTF-8 text ({error.reason}); save it as such") from error
    except OSError as error:
        raise BadSetting(f"prompts '{path}' cannot be read: {error.strerror}") from error
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
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.json
    import pyarrow.parquet

    schema = pa.schema([(name, pa.string()) for name in COLUMNS])
    try:
        match path.suffix.lower():
            case ".csv":
                options = pa.csv.ConvertOptions(
                    column_types=schema, include_columns=COLUMNS, include_missing_columns=True
                )
                table = pa.csv.read_csv(path, convert_options=options)
            case ".jsonl" | ".ndjson":
                parse = pa.json.ParseOptions(schema, unexpected_field_behavior="ignore")
                table = pa.json.read_json(path, parse_options=parse)
            case ".parquet":
                table = pa.parquet.read_table(path)
                table = table.select([name for name in COLUMNS if name in table.column_names])
            case _:
                raise BadCaptions(
                    f"expected prompts in a .csv, .jsonl or .parquet file, got '{path}'"
                )
    except FileNotFoundError as error:
        raise BadCaptions(f"the file of prompts '{path}' does not exist; check the path") from error
    except (pa.ArrowException, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise BadCaptions(
            f"prompts '{path}' cannot be read ({reason}); correct the file"
        ) from error
    rows = table.to_pylist()
    return [{name: str(row.get(name) or "").strip() for name in COLUMNS} for row in rows]
