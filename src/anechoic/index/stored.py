"""Clips of an index that is searched from disk: read one by one as they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

from anechoic.errors import IndexMismatch
from anechoic.index.clips import Clip
from anechoic.index.shards import clips_of

CHUNK = 4096  # rows read at once by who goes through all of them


class StoredClips(Sequence[Clip]):
    """What each row stands for, mapped from an Arrow file: only what is asked for is read."""

    def __init__(self, path: Path):
        import pyarrow as pa

        try:
            self._table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        except (pa.ArrowException, OSError) as error:
            raise IndexMismatch(
                f"'{path}' is missing or damaged ({error}); make the search again with 'anechoic "
                "index optimise'"
            ) from error
        self.captions = _Column(self._table.column("caption"))

    def __len__(self) -> int:
        return self._table.num_rows

    @overload
    def __getitem__(self, row: int) -> Clip: ...
    @overload
    def __getitem__(self, row: slice) -> list[Clip]: ...
    def __getitem__(self, row: int | slice) -> Clip | list[Clip]:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        number = range(len(self))[row]
        return clips_of(self._table.slice(number, 1))[0]

    def __iter__(self) -> Iterator[Clip]:
        for start in range(0, len(self), CHUNK):
            yield from clips_of(self._table.slice(start, CHUNK))


class _Column(Sequence[str]):
    """One text column."""

    def __init__(self, column: Any):
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        return self._column[range(len(self))[row]].as_py()

    def __iter__(self) -> Iterator[str]:
        for chunk in self._column.chunks:
            yield from chunk.to_pylist()
