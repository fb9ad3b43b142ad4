"""One cell of a bench, and its file: named by all that determines it, so never mistaken.

A cell is one method on one batch of prompts of one scenario under one seed. Its file is written
under another name and renamed, so it is whole or not there; what is read back is checked (page
checksums, identity, prompts and seed), and anything else is computed again, never trusted.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from anechoic.environment import versions
from anechoic.errors import AnechoicError
from anechoic.storage import write_whole
from anechoic_lab.bench.plan import Method
from anechoic_lab.bench.task import BenchPrompt, SampleScore

Kind = Literal["rows", "reference", "baseline"]
FORMAT = 1
KEY = b"anechoic"  # of our entry in a file's metadata


@dataclass(frozen=True)
class Trial:
    """What is computed at a time, and kept."""

    kind: Kind
    scenario: str
    fingerprint: str  # of the task in that scenario
    method: Method | None = None  # of rows, as everything below
    seed: int = 0
    prompts: tuple[BenchPrompt, ...] = ()
    steps: int | None = None

    @cached_property
    def identity(self) -> str:
        """A hash of all that determines the result; what a method is called does not."""
        method = self.method and {"guard": self.method.guard, "settings": self.method.settings}
        about = {
            "format": FORMAT,
            "versions": versions(),
            "method": method,
            "prompts": [asdict(prompt) for prompt in self.prompts],
            **{key: getattr(self, key) for key in ("kind", "scenario", "fingerprint", "seed",
                                                   "steps")},
        }  # fmt: skip
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()

    @property
    def keys(self) -> list[tuple[str, str, str, int]]:
        """What tells its rows apart."""
        return [(p.id, p.caption, p.group, self.seed) for p in self.prompts]

    def __str__(self) -> str:
        if self.method is None:
            return f"the {self.kind} of scenario '{self.scenario}'"
        first, last = self.prompts[0].id, self.prompts[-1].id
        span = f"prompt '{first}'" if first == last else f"prompts '{first}' to '{last}'"
        return f"method '{self.method.name}', scenario '{self.scenario}', seed {self.seed}, {span}"


@dataclass(frozen=True)
class Finished:
    """What a cell's file holds."""

    rows: Sequence[SampleScore] = ()
    values: Sequence[Sequence[float]] = ()  # reference embeddings [m, d], or a baseline [n, 1]
    machine: Mapping[str, str] = field(default_factory=dict)  # what computed it


def require_rows(cell: Trial, rows: Sequence[SampleScore]) -> Sequence[SampleScore]:
    """The rows, if they are those of the cell's prompts, and all their figures are finite.

    Raises:
        AnechoicError: they are not, so the task is at fault.
    """
    if _keys(rows) != cell.keys:
        raise AnechoicError(f"{len(cell.prompts)} rows were expected, in the order of the prompts")
    for row in rows:
        figures = [row.similarity, row.seconds, row.evaluations, *row.scores.values(), *row.quality]
        if not all(map(math.isfinite, figures)) or not math.isfinite(row.adherence or 0.0):
            raise AnechoicError(f"the figures of prompt '{row.prompt}' are not all finite")
    return rows


def path_of(work: Path, cell: Trial) -> Path:
    """Where a cell's file belongs."""
    return work / "cells" / f"{cell.identity}.parquet"


def write(work: Path, cell: Trial, finished: Finished) -> None:
    """Write a cell, whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet

    if cell.kind == "rows":
        content = [{**asdict(row), "scores": list(row.scores.items())} for row in finished.rows]
        table = pa.Table.from_pylist(content, _row_schema())
    else:
        table = pa.table({"values": pa.array(finished.values, pa.list_(pa.float64()))})
    about = {"identity": cell.identity, "cell": str(cell), "machine": finished.machine}
    table = table.replace_schema_metadata({KEY: json.dumps(about).encode()})
    path = path_of(work, cell)
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer, write_page_checksum=True)
    write_whole(path, buffer.getvalue())


def read(work: Path, cell: Trial) -> Finished | str | None:
    """What a cell's file holds; None if there is none, and why not where it cannot be trusted."""
    import pyarrow.parquet

    path = path_of(work, cell)
    if not path.exists():
        return None
    try:
        table = pyarrow.parquet.read_table(path, page_checksum_verification=True)
        about = json.loads((table.schema.metadata or {})[KEY])
        content = table.to_pylist()
        if about["identity"] != cell.identity:
            return f"it holds another cell: {about['cell']}"
        if cell.kind != "rows":
            values = [row["values"] for row in content]
            return Finished(values=values, machine=about["machine"])
        rows = [SampleScore(**{**row, "scores": dict(row["scores"])}) for row in content]
    except Exception as error:  # whatever a damaged file makes of pyarrow, and of us
        return f"it is damaged ({' '.join(str(error).split())[:80]})"
    if _keys(rows) != cell.keys:
        return "its rows are not those of its prompts"
    return Finished(rows=rows, machine=about["machine"])


def _keys(rows: Sequence[SampleScore]) -> list[tuple[str, str, str, int]]:
    return [(row.prompt, row.caption, row.group, row.seed) for row in rows]


def _row_schema() -> Any:
    import pyarrow as pa

    types = {
        "seed": pa.int64(),
        "copied": pa.bool_(),
        "scores": pa.map_(pa.string(), pa.float64()),
        "quality": pa.list_(pa.float64()),
        **dict.fromkeys(("prompt", "caption", "group"), pa.string()),
    }
    return pa.schema(
        [(field.name, types.get(field.name, pa.float64())) for field in fields(SampleScore)]
    )
