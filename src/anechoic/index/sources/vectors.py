"""Parquet files of embeddings that were made elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from anechoic.errors import BadCaptions, IndexMismatch, some
from anechoic.index.captions import CAPTION_COLUMNS
from anechoic.index.clips import Clip
from anechoic.index.sources.patterns import content_of, files, names_of
from anechoic.index.sources.protocol import (
    Columns,
    digest,
    unit_key,
)
from anechoic.index.vectors import NO_DIRECTION
from anechoic.parsing import UNREADABLE, caption_of, number_of, require_limit, text_of
from anechoic.storage import file_system

EMBEDDING = "embedding"
PATH_COLUMNS = ("path", "file_name", "file")
ROWS = 65_536  # in a unit, in whole row groups: at least so many
BATCH = 1024  # rows that are in memory at once
BUFFER = 1 << 20  # bytes of a column that are read at once


@dataclass(frozen=True)
class VectorColumns:
    """Which column holds what."""

    embedding: str
    caption: str
    id: str | None  # None: the rows are numbered
    path: str | None
    dim: int | None  # length of lists of a fixed size


@dataclass(frozen=True)
class ParquetUnit:
    """Some row groups of one file."""

    key: str
    identity: (
        str  # of the file's name and content, and where its row groups are, how large, their range
    )
    file: str
    name: str  # what numbered rows are called after
    groups: tuple[int, ...]
    first_row: int  # first row of the groups in the file
    columns: VectorColumns
    dim: int

    def rows(self, start: int = 0) -> Iterator[tuple[Clip, np.ndarray]]:
        """Clips and their embeddings, unit norm, float32 [d].

        Raises:
            IndexMismatch: a file that is damaged; embeddings that are missing, NaN, infinite,
                without direction, or of another length.
            BadCaptions: a row without a caption.
        """
        row = self.first_row
        groups = list(self.groups)
        try:
            with open_parquet(self.file) as file:
                columns = _kept_columns(file.schema_arrow, self.columns)
                while groups and start >= (size := file.metadata.row_group(groups[0]).num_rows):
                    start, row, groups = start - size, row + size, groups[1:]
                for batch in file.iter_batches(BATCH, groups, columns) if groups else ():
                    skipped = min(start, len(batch))
                    start -= skipped
                    row += skipped
                    yield from self._rows(batch.slice(skipped), row)
                    row += len(batch) - skipped
        except UNREADABLE as error:
            raise _damaged(self.file, error) from error

    def _rows(self, batch: Any, first_row: int) -> Iterator[tuple[Clip, np.ndarray]]:
        if len(batch) == 0:
            return
        names = self.columns
        others = batch.drop_columns([names.embedding]).to_pylist()
        ids = [
            text_of(cells.get(names.id)) if names.id else f"{self.name}/{first_row + i}"
            for i, cells in enumerate(others)
        ]
        rows = [str(first_row + i) for i in range(len(batch))]
        where = f"Parquet file '{self.file}'"
        captions = [caption_of(cells[names.caption]) for cells in others]
        if without := [row for row, text in zip(rows, captions, strict=True) if not text]:
            raise BadCaptions(
                f"{where} has no caption in rows {some(without)}; give each clip its caption"
            )
        if without := [row for row, text in zip(rows, ids, strict=True) if not text]:
            raise IndexMismatch(f"{where} has no '{names.id}' in rows {some(without)}")
        vectors = unit_rows(self._vectors(batch.column(names.embedding), ids), ids, where)
        for row, id, caption, cells, vector in zip(
            rows, ids, captions, others, vectors, strict=True
        ):
            yield _clip(id, caption, cells, names, f"{where}, row {row}"), vector

    def _vectors(self, column: Any, ids: Sequence[str]) -> np.ndarray:
        import pyarrow.compute as pc

        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
        bad = [id for id, length in zip(ids, lengths, strict=True) if length != self.dim]
        if bad:
            found = sorted({int(length) for length in lengths if length != self.dim})
            raise IndexMismatch(
                f"Parquet file '{self.file}': the embeddings of {some(bad)} have "
                f"{', '.join(map(str, found[:3]))} values; expected {self.dim}, as the first has"
            )
        # a value that is missing becomes NaN here
        return np.asarray(column.flatten().to_numpy(zero_copy_only=False)).reshape(-1, self.dim)


class VectorSource:
    """Embeddings in Parquet, with a caption and perhaps an id and path for each.

    The columns are `embedding` (a list of floats), `caption` (or text), and if they are there
    `id`, `path` (or file_name, file), `start_s` and `seconds` of the window, and `info`, a map;
    whatever else there is becomes part of the clip's `info`. The file's metadata may name the
    `embedder`.

    Args:
        where: a file, a folder of files, or a pattern.
        columns: other names for those of the embedding, caption and id.

    Raises:
        BadSetting: no such files.
        IndexMismatch: a file that is damaged or has no embeddings, or whose embeddings are of
            another length or embedder than the first's.
        BadCaptions: no captions.
    """

    clips_folder = None

    def __init__(self, where: str | Path, columns: Columns | None = None):
        self.name = str(where)
        self.files = files(where, ".parquet")
        self._footers = [_footer(file) for file in self.files]
        named = columns or Columns()
        self.columns = _columns(self.files[0], self._footers[0][0], named)
        for file, (schema, _) in zip(self.files, self._footers, strict=True):
            if _columns(file, schema, named) != self.columns:
                raise IndexMismatch(
                    f"the files of '{where}' have different columns, or embeddings of "
                    f"different lengths ('{file}' and the first); index those of one kind at a time"
                )
        self.total = sum(metadata.num_rows for _, metadata in self._footers)
        require_limit("ROWS", self.total, f"'{where}' has {self.total} rows", IndexMismatch)
        if self.total == 0:
            raise IndexMismatch(f"'{where}' has no rows; expected an embedding in each")
        self.dim = self._first_dim()
        if self.dim == 0:
            raise IndexMismatch(f"the first embedding of '{where}' is empty; embed it again")
        names = {text_of((about.metadata or {}).get(b"embedder")) for about, _ in self._footers}
        if len(names) > 1:
            raise IndexMismatch(
                f"the files of '{where}' name different embedders ({some(sorted(names))}); index "
                "the embeddings of one at a time"
            )
        self.embedder_name = names.pop() or None

    def _first_dim(self) -> int:
        """The length of the first embedding."""
        if self.columns.dim:
            return self.columns.dim
        first = next(n for n, (_, metadata) in enumerate(self._footers) if metadata.num_rows)
        try:
            with open_parquet(self.files[first]) as file:
                batches = file.iter_batches(1, columns=[self.columns.embedding])
                return len(next(batches).column(0)[0].as_py() or [])
        except (*UNREADABLE, StopIteration) as error:
            raise _damaged(self.files[first], error) from error

    def units(self) -> Sequence[ParquetUnit]:
        """Units of whole row groups, of some `ROWS` rows."""
        out = []
        names = names_of(self.files, ".parquet")
        for number, (file, name) in enumerate(zip(self.files, names, strict=True)):
            metadata, content = self._footers[number][1], content_of(file)
            footer = _written(metadata)
            for groups, first_row in _grouped(metadata):
                key = f"{unit_key(number, name)}-{groups[0]:06d}"
                identity = digest(["vectors", name, first_row, self.columns, footer, *content])
                about = (groups, first_row, self.columns, self.dim)
                out.append(ParquetUnit(key, identity, file, name, *about))
        return out


def _written(metadata: Any) -> str:
    """The bytes of a footer, in hexadecimals; as values, a damaged one would abort the process."""
    sink = BytesIO()
    metadata.write_metadata_file(sink)
    return sink.getvalue().hex()


def unit_rows(vectors: np.ndarray, ids: Sequence[str], where: str) -> np.ndarray:
    """Vectors [n, d] at unit norm, float32; one that has it already is kept bit for bit.

    Raises:
        IndexMismatch: a vector that is NaN, infinite or has no direction; all such are named.
    """
    vectors = vectors.astype(np.float32)
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    bad = [id for id, norm in zip(ids, norms, strict=True) if not NO_DIRECTION < norm < np.inf]
    if bad:
        raise IndexMismatch(
            f"{where}: the embeddings of {some(bad)} are NaN, infinite or have no direction; "
            "leave those clips out or embed them again"
        )
    norms[abs(norms - 1) < 1e-6] = 1
    return np.asarray(vectors / norms[:, None], np.float32)


def open_parquet(file: str) -> Any:
    """A Parquet file anywhere that fsspec reaches, its columns read piece by piece."""
    import pyarrow.parquet

    system, path = file_system(file)
    # read ahead, a row group would be in memory as a whole
    return pyarrow.parquet.ParquetFile(
        path, filesystem=system, buffer_size=BUFFER, pre_buffer=False
    )


def _footer(file: str) -> tuple[Any, Any]:
    """Schema and metadata."""
    try:
        with open_parquet(file) as opened:
            return opened.schema_arrow, opened.metadata
    except UNREADABLE as error:
        raise _damaged(file, error) from error


def _damaged(file: str, error: Exception) -> IndexMismatch:
    reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
    return IndexMismatch(
        f"Parquet file '{file}' is cut off, damaged, or no Parquet ({reason}); fetch or write it "
        "again"
    )


def _columns(file: str, schema: Any, named: Columns) -> VectorColumns:
    from pyarrow import types

    def first(name: str | None, known: Sequence[str]) -> str | None:
        return next((name for name in ([name] if name else known) if name in schema.names), None)

    has = f"Parquet file '{file}' has the columns {', '.join(map(repr, schema.names))};"
    embedding = named.embedding or EMBEDDING
    kind: Any = schema.field(embedding).type if embedding in schema.names else None
    a_list = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    lists = kind is not None and any(is_one(kind) for is_one in a_list)
    if not lists or not types.is_floating(kind.value_type):
        raise IndexMismatch(f"{has} expected lists of floats in '{embedding}'")
    text = first(named.caption, CAPTION_COLUMNS)
    if text is None:
        known = [named.caption] if named.caption else CAPTION_COLUMNS
        raise BadCaptions(f"{has} expected one called {' or '.join(map(repr, known))}")
    id = first(named.id, ("id",))
    if named.id and id is None:
        raise IndexMismatch(f"{has} expected one called '{named.id}'")
    path, dim = first(None, PATH_COLUMNS), getattr(kind, "list_size", None)
    return VectorColumns(embedding, text, id, path, dim)


def _kept_columns(schema: Any, names: VectorColumns) -> list[str]:
    """The columns that become part of a clip: none of bytes or structs but those it needs."""
    from pyarrow import types

    no = (types.is_binary, types.is_large_binary, types.is_struct)
    needed = (names.caption, names.id, names.path, "start_s", "seconds", "info")
    return [
        field.name
        for field in schema
        if field.name in needed or not any(is_no(field.type) for is_no in no)
    ]


def _grouped(metadata: Any) -> Iterator[tuple[tuple[int, ...], int]]:
    """Row groups in stretches of at least `ROWS` rows, and the row that each starts at."""
    groups: list[int] = []
    first_row = rows = 0
    for group in range(metadata.num_row_groups):
        groups.append(group)
        rows += metadata.row_group(group).num_rows
        if rows >= ROWS or group == metadata.num_row_groups - 1:
            yield tuple(groups), first_row
            groups, first_row, rows = [], first_row + rows, 0


def _clip(
    id: str, caption: str, cells: Mapping[str, Any], names: VectorColumns, where: str
) -> Clip:
    cells = dict(cells)
    path = text_of(cells.pop(names.path)) if names.path else ""
    start_s, seconds = (
        number_of(cells.pop(name, None), f"{where}: '{name}'", IndexMismatch)
        for name in ("start_s", "seconds")
    )
    info = cells.pop("info") if isinstance(cells.get("info"), (list, dict)) else {}
    if isinstance(info, list):  # the pairs of a map
        if not all(isinstance(pair, tuple) and len(pair) == 2 for pair in info):
            raise IndexMismatch(f"{where}: 'info' is {text_of(info)[:40]!r}; expected a map")
        info = dict(info)
    cells = {n: value for n, value in cells.items() if n not in (names.caption, names.id)} | info
    others = {text_of(name): text for name, value in cells.items() if (text := text_of(value))}
    return Clip(id, caption, path or None, start_s, seconds, others)
