"""Writes the table with its conditions as Markdown, CSV, Parquet or JSON."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from anechoic.errors import BadSetting, OutputExists
from anechoic.storage import write_whole
from anechoic_lab.bench.table import BACKGROUND, Line, Measure, Table

NOT_MEASURED = "not measured"
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a formula of a spreadsheet begins with


def write(path: str | Path, table: Table, *, overwrite: bool = False) -> Path:
    """Write a table, whole or not at all, in the format of the suffix.

    Raises:
        BadSetting: the suffix is not .md, .csv, .parquet or .json.
        OutputExists: the file exists and `overwrite` is off.
    """
    path = Path(path)
    require_writable([path], FORMATS, overwrite)
    write_whole(path, FORMATS[path.suffix.lower()](table))
    return path


def require_writable(paths: Iterable[Path], suffixes: Iterable[str], overwrite: bool) -> None:
    """Refuse outputs that cannot be written, before any work is done.

    Raises:
        BadSetting: an unknown suffix, or a folder that does not exist or is read-only.
        OutputExists: the file exists and `overwrite` is off, or it is a folder.
    """
    known = sorted(suffixes)
    for path in paths:
        if path.suffix.lower() not in known:
            raise BadSetting(
                f"'{path}' does not end in a known format; expected one of {', '.join(known)}"
            )
        if path.is_dir() or (path.exists() and not overwrite):
            raise OutputExists.at(path)
        if not path.absolute().parent.is_dir() or not os.access(path.absolute().parent, os.W_OK):
            raise BadSetting(f"'{path.parent}' is not a writable folder; create it first")


# ---------------------------------------------------------------------------------- for readers


def header(table: Table) -> list[str]:
    """The printed columns; the scenario only if there are several."""
    return [*(["scenario"] if _several(table) else []), "method",
            *(measure.label for measure in table.measures)]  # fmt: skip


def cells(table: Table, line: Line, between: str = " ") -> list[str]:
    """A line as text; `between` separates a figure from its interval."""
    scenario = [line.scenario] if _several(table) else []
    figures = (format_figure(line, measure, between) for measure in table.measures)
    return [*scenario, line.label, *figures]


def format_figure(line: Line, measure: Measure, between: str = " ") -> str:
    """A figure and its interval, as "0.83 [0.70, 0.92]".

    >>> from anechoic_lab.bench.figures import Figure
    >>> measure = Measure("copies", "copies", "lower")
    >>> format_figure(Line("all", "amg", "AMG", {"copies": Figure(0.25, 0.1, 0.5, 8, 16)}), measure)
    '0.25 [0.10, 0.50]'
    >>> format_figure(Line("all", "amg", "AMG", {}), measure)
    'not measured'
    """
    figure = line.figures.get(measure.key)
    if figure is None:
        return "" if line.method == BACKGROUND else NOT_MEASURED
    value = format(figure.value, measure.format)
    if figure.low is None or figure.high is None:
        return value
    low, high = (format(bound, measure.format) for bound in (figure.low, figure.high))
    return f"{value}{between}[{low}, {high}]"


def sentences(table: Table) -> list[str]:
    """One sentence for each frontier, in the order of their ranks."""
    found = []
    for front in table.frontiers:
        area = front.area
        spread = "" if area.low is None else f" [{area.low:.3f}, {area.high:.3f}]"
        best = ", ".join(setting.strength for setting in front.settings if setting.best)
        where = f" in scenario {front.scenario}" if _several(table) else ""
        found.append(
            f"{front.rank}. {front.family}{where}: area {area.value:.3f}{spread} under similarity "
            f"against adherence, of {area.prompts} prompts; not beaten by another setting: {best}"
        )
    return found


def _several(table: Table) -> bool:
    return len({line.scenario for line in table.lines}) > 1


def _markdown(table: Table) -> bytes:
    def row(texts: Sequence[str]) -> str:
        return (
            "| " + " | ".join(" ".join(text.replace("|", "\\|").split()) for text in texts) + " |"
        )

    lines = [
        f"# {table.title}",
        "",
        row(header(table)),
        "|" + "---|" * len(header(table)),
        *(row(cells(table, line)) for line in table.lines),
        "",
        "In brackets 95 % intervals over prompts.",
        *(["", "Frontiers, the largest area first:", "", *sentences(table)]
          if table.frontiers else []),
        *(["", *(f"Note: {note}." for note in table.notes)] if table.notes else []),
        "",
        *(f"- {key}: {value}" for key, value in table.about.items()),
        "",
    ]  # fmt: skip
    return "\n".join(lines).encode()


# ---------------------------------------------------------------------------------- for programs


def records(table: Table) -> Iterator[dict[str, Any]]:
    """A flat record for each line: value, low and high of every measure, None if missing."""
    for line in table.lines:
        figures = {}
        for measure in table.measures:
            figure = line.figures.get(measure.key)
            for suffix, part in (("", "value"), ("_low", "low"), ("_high", "high")):
                figures[measure.key + suffix] = figure and getattr(figure, part)
        about = {key: getattr(line, key) for key in ("scenario", "method", "label", "family",
                                                     "strength")}  # fmt: skip
        yield {
            **about,
            "clips": max((f.clips for f in line.figures.values()), default=0),
            **figures,
        }


def as_json(table: Table) -> dict[str, Any]:
    """The whole content of the table."""
    return asdict(table)


def _json(table: Table) -> bytes:
    return (json.dumps(as_json(table), indent=2) + "\n").encode()


def _csv(table: Table) -> bytes:
    """Comments, then the records; read it with `pandas.read_csv(path, comment="#")`."""
    rows = list(records(table))
    text = io.StringIO()
    for key, value in {**table.about, **_notes(table)}.items():
        text.write(f"# {key}: {' '.join(value.split())}\n")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: inert(value) for key, value in row.items()} for row in rows)
    return text.getvalue().encode()


def inert(cell: Any) -> Any:
    """A cell of CSV that no spreadsheet runs as a formula: text is quoted where it would.

    >>> inert("=1+1"), inert("a-b"), inert(-1.5)
    ("'=1+1", 'a-b', -1.5)
    """
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell


def _parquet(table: Table) -> bytes:
    """The records, with conditions and frontiers as JSON in the file's metadata."""
    import pyarrow as pa
    import pyarrow.parquet

    rows = list(records(table))
    texts = ("scenario", "method", "label", "family", "strength")
    types = {**dict.fromkeys(texts, pa.string()), "clips": pa.int64()}
    schema = pa.schema([(key, types.get(key, pa.float64())) for key in rows[0]])
    about = {key: as_json(table)[key] for key in ("title", "about", "notes", "frontiers")}
    made = pa.Table.from_pylist(rows, schema.with_metadata({"anechoic": json.dumps(about)}))
    sink = io.BytesIO()
    pyarrow.parquet.write_table(made, sink)
    return sink.getvalue()


def _notes(table: Table) -> Mapping[str, str]:
    return {f"note {number}": note for number, note in enumerate(table.notes, 1)}


FORMATS: dict[str, Callable[[Table], bytes]] = {
    ".md": _markdown,
    ".csv": _csv,
    ".parquet": _parquet,
    ".json": _json,
}
