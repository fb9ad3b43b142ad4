"""Sequences that read items on access, such as the clips of an index on disk."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

from anechoic.errors import IndexMismatch
from anechoic.index.clips import Clip
from anechoic.index.shards import clips_of

CHUNK = 4096  # rows read at once in a loop over all of them


Item = TypeVar("Item", covariant=True)


class LazySequence(Sequence[Item]):
    """A sequence that reads each item on access."""

    @abstractmethod
    def read(self, row: int) -> Item:
        """The item of a row, 0 to `len(self) - 1`."""

    @overload
    def __getitem__(self, row: int) -> Item: ...
    @overload
    def __getitem__(self, row: slice) -> list[Item]: ...
    def __getitem__(self, row: int | slice) -> Item | list[Item]:
        if isinstance(row, slice):
            return [self.read(i) for i in range(*row.indices(len(self)))]
        return self.read(range(len(self))[row])


class StoredClips(LazySequence[Clip]):
    """The clip of each row, mapped from an Arrow file."""

    def __init__(self, path: Path):
        import pyarrow as pa

        try:
            self._table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
            self._table.validate()
        except (pa.ArrowException, OSError) as error:
            raise IndexMismatch(
                f"'{path}' is missing or damaged ({error}); make the search again with 'anechoic "
                "index optimise'"
            ) from error
        self.captions = _Column(self._table.column("caption"))

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def read(self, row: int) -> Clip:
        return clips_of(self._table.slice(row, 1))[0]

    def __iter__(self) -> Iterator[Clip]:
        for start in range(0, len(self), CHUNK):
            yield from clips_of(self._table.slice(start, CHUNK))


class _Column(LazySequence[str]):
    """One text column."""

    def __init__(self, column: Any):
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    def read(self, row: int) -> str:
        text: str = self._column[row].as_py()
        return text

    def __iter__(self) -> Iterator[str]:
        for chunk in self._column.chunks:
            yield from chunk.to_pylist()
