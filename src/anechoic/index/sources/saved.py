"""Hugging Face datasets that `save_to_disk` wrote."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from anechoic.errors import BadCaptions, BadSetting
from anechoic.index.filehash import contents
from anechoic.index.sources.protocol import Columns, Item, digest
from anechoic.index.sources.rows import Chosen, explained, found, item

ROWS = 1024  # in a unit
BATCH = 32  # rows that are in memory at once
ENDS = (b"\xff\xff\xff\xff\0\0\0\0", b"ARROW1")  # ends of an Arrow stream and of an Arrow file


@dataclass(frozen=True)
class SavedUnit:
    """Rows of a dataset that `save_to_disk` wrote."""

    key: str
    identity: str  # hash of the names and contents of the dataset's files
    folder: str
    first_row: int
    last_row: int  # not in it
    columns: Chosen

    def items(self, start: int = 0) -> Iterator[Item]:
        """The clips of the rows from `start` on.

        Raises:
            BadCaptions: a row without a caption.
            BadAudio: a row without sound.
        """
        dataset = _opened(self.folder)
        for first in range(self.first_row + start, self.last_row, BATCH):
            with explained(self.folder):
                table = dataset[first : min(first + BATCH, self.last_row)]
            for number, cells in enumerate(table.to_pylist(), first):
                yield item(self.folder, str(number), cells, self.columns)


class SavedSource:
    """A dataset that `Dataset.save_to_disk` wrote.

    Args:
        folder: of one split.
        columns: which hold the sound, caption and id; by default audio (or file_name, file,
            path), caption (or text) and id, where there is one. Numbers and text in other
            columns become the clip's `info`.

    Raises:
        BadSetting: the folder is damaged, or is of several splits.
        BadCaptions: no such columns.
    """

    embedder_name = None
    clips_folder = None

    def __init__(self, folder: str | Path, columns: Columns | None = None):
        self.path = Path(folder).resolve()
        self.name = str(folder)
        if (self.path / "dataset_dict.json").is_file():
            splits = sorted(path.parent.name for path in self.path.glob("*/state.json"))
            raise BadSetting(
                f"'{folder}' has the splits {', '.join(splits)}; name the folder of one"
            )
        with explained(self.name):
            dataset = _opened(str(self.path))
        self.files = sorted({Path(file["filename"]) for file in dataset.cache_files})
        for file in self.files:
            _require_end(file)
        self.columns = found(columns or Columns(), self.name, dataset.column_names)
        self.total = len(dataset)
        if self.total == 0:
            raise BadSetting(f"dataset '{folder}' has no rows; expected a clip in each")
        if self.columns.id:
            _require_distinct(self.name, self.columns.id, dataset)

    def units(self) -> Sequence[SavedUnit]:
        """A unit for each `ROWS` rows."""
        found = [*zip((file.name for file in self.files), contents(self.files), strict=True)]
        out = []
        for first in range(0, self.total, ROWS):
            last = min(first + ROWS, self.total)
            identity = digest(["saved", first, last, self.columns, *found])
            about = (str(self.path), first, last, self.columns)
            out.append(SavedUnit(f"rows-{first:09d}", identity, *about))
        return out


@lru_cache(maxsize=8)
def _opened(folder: str) -> Any:
    """A saved dataset whose rows come as Arrow tables, undecoded."""
    from datasets import load_from_disk

    return load_from_disk(folder).with_format("arrow")


def _require_end(file: Path) -> None:
    """Refuse an Arrow file without the mark of its end, which Arrow does not mind."""
    with file.open("rb") as opened:
        opened.seek(-min(8, file.stat().st_size), os.SEEK_END)
        if not opened.read().endswith(ENDS):
            raise BadSetting(f"'{file}' is cut off: the mark of its end is missing; fetch it again")


def _require_distinct(name: str, id: str, dataset: Any) -> None:
    import pyarrow.compute as pc

    ids = dataset.select_columns([id])[:].column(id)
    if (distinct := pc.count_distinct(ids).as_py()) < len(ids):
        raise BadCaptions(
            f"dataset '{name}' has {distinct} different values of '{id}' in {len(ids)} rows; name "
            "a column with an id of its own for each clip"
        )
