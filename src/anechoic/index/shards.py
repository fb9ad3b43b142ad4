"""Rows of an index as Parquet files: each clip, and its embedding before it is centred."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from anechoic.errors import BadCaptions, IndexMismatch
from anechoic.index.clips import Clip
from anechoic.storage import Storage

FOLDER = "shards"
DTYPES = ("float32", "float16")


@dataclass(frozen=True)
class Shard:
    """One Parquet file of rows."""

    name: str
    rows: int
    clips: int  # training clips that it was made from; a clip may have several rows, or none
    bytes: int
    sha256: str


def write(
    place: Storage, name: str, clips: Sequence[Clip], embeddings: np.ndarray, count: int
) -> Shard:
    """Write rows as `shards/NAME.parquet`.

    Args:
        place: the storage of the index.
        name: name of the shard, without suffix.
        clips: the clip of each row.
        embeddings: [n, d], unit norm, float32 or float16, and stored as such.
        count: number of training clips that the rows come from.

    Raises:
        CannotWrite: the storage is full or read-only.
        BadCaptions: the text of a clip is not valid.
    """
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    columns = [name for name in _schema(1, "float32").names if name != "embedding"]
    pq.write_table(
        _table(clips, embeddings),
        buffer,
        compression={**dict.fromkeys(columns, "zstd"), "embedding": "none"},
        use_dictionary=["caption", "path"],
        write_statistics=False,
        row_group_size=16_384,
    )
    data = buffer.getvalue()
    place.write(f"{FOLDER}/{name}.parquet", data)
    return Shard(name, len(clips), count, len(data), hashlib.sha256(data).hexdigest())


def read(place: Storage, shard: Shard) -> tuple[list[Clip], np.ndarray]:
    """The rows of a shard, and their embeddings in float32 [n, d], unit norm.

    Args:
        place: the storage of the index.
        shard: the shard's entry in the manifest.

    Raises:
        IndexMismatch: the file is missing, cut off or another.
    """
    table = read_table(place, shard)
    return clips_of(table), embeddings_of(table)


def read_column(place: Storage, shard: Shard, column: str) -> list[Any]:
    """One column of a shard, without checking its hash, so that little of it is read."""
    return list(read_table(place, shard, [column]).column(column).to_pylist())


def read_table(place: Storage, shard: Shard, columns: list[str] | None = None) -> Any:
    """A shard as an Arrow table; if only some columns are read, its hash is not checked.

    Raises:
        IndexMismatch: the file is missing, cut off or another.
    """
    import pyarrow.parquet as pq
    from pyarrow.lib import ArrowException

    with _readable(place, shard, (OSError, ArrowException)) as name:
        if columns is None:
            return pq.ParquetFile(io.BytesIO(read_bytes(place, shard))).read()
        with place.fs.open(place.path(name)) as file:
            return pq.ParquetFile(file).read(columns)


def clips_of(table: Any) -> list[Clip]:
    """The clips of a table's rows."""
    names = [name for name in table.column_names if name != "embedding"]
    rows = table.select(names).to_pylist()
    return [Clip(**{**row, "info": dict(row["info"])}) for row in rows]


def stored_embeddings(table: Any) -> np.ndarray:
    """The embeddings of a table as they are stored, [n, d]."""
    column = table.column("embedding").combine_chunks()
    dim = column.type.list_size
    # its `flatten` imports pyarrow.compute and its `to_numpy` pandas: a third of a second
    flat = column.values.slice(column.offset * dim, len(column) * dim)
    return np.from_dlpack(flat).reshape(-1, dim)


def embeddings_of(table: Any) -> np.ndarray:
    """The embeddings of a table, float32 [n, d], unit norm."""
    stored = stored_embeddings(table)
    embeddings = stored.astype(np.float32)
    if stored.dtype == np.float16:
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings


def _table(clips: Iterable[Clip], embeddings: np.ndarray) -> Any:
    import pyarrow as pa

    dim, dtype = embeddings.shape[1], str(embeddings.dtype)
    schema = _schema(dim, dtype)
    rows = [{**vars(clip), "info": list(clip.info.items())} for clip in clips]
    known = pa.schema(list(schema)[:-1])
    try:
        about = pa.Table.from_pylist(rows, known)
    except (UnicodeEncodeError, pa.ArrowException) as error:
        raise BadCaptions(
            f"the clips {rows[0]['id']!r} to {rows[-1]['id']!r} cannot be stored ({error}); ids, "
            "captions, paths and info have to be text"
        ) from error
    flat = pa.array(np.ascontiguousarray(embeddings).reshape(-1))
    column = pa.FixedSizeListArray.from_arrays(flat, dim)
    return about.append_column(schema.field("embedding"), column)


def _schema(dim: int, dtype: str) -> Any:
    import pyarrow as pa

    return pa.schema(
        [
            ("id", pa.string()),
            ("caption", pa.string()),
            ("path", pa.string()),
            ("start_s", pa.float64()),
            ("seconds", pa.float64()),
            ("info", pa.map_(pa.string(), pa.string())),
            ("embedding", pa.list_(pa.float16() if dtype == "float16" else pa.float32(), dim)),
        ]
    )


def read_bytes(place: Storage, shard: Shard) -> bytes:
    """The file of a shard.

    Raises:
        IndexMismatch: it is missing, cut off or another.
    """
    require_sizes(place, [shard])
    with _readable(place, shard) as name:
        data = place.read(name)
    if hashlib.sha256(data).hexdigest() != shard.sha256:
        raise damaged(place, f"{name} is not the file that was written")
    return data


def is_whole(place: Storage, shard: Shard) -> bool:
    """Whether the file of a shard exists and is undamaged."""
    name = f"{FOLDER}/{shard.name}.parquet"
    if not place.exists(name) or place.size(name) != shard.bytes:
        return False
    return hashlib.sha256(place.read(name)).hexdigest() == shard.sha256


def require_sizes(place: Storage, made: Iterable[Shard]) -> None:
    """Refuse shards that are missing or have another size than when they were written.

    Raises:
        IndexMismatch: the first such shard.
    """
    for shard in made:
        with _readable(place, shard) as name:
            if place.size(name) != shard.bytes:
                raise damaged(place, f"{name} is cut off or another file")


@contextmanager
def _readable(
    place: Storage, shard: Shard, wrong: tuple[type[Exception], ...] = (OSError,)
) -> Iterator[str]:
    """The file of a shard in the storage, for a block that may fail to read it."""
    name = f"{FOLDER}/{shard.name}.parquet"
    try:
        yield name
    except FileNotFoundError:
        raise damaged(place, f"{name} is missing") from None
    except wrong as error:
        raise damaged(place, f"{name} cannot be read: {error}") from error


def damaged(place: Storage, what: str) -> IndexMismatch:
    """The error for files that are damaged or were edited."""
    return IndexMismatch(
        f"index '{place.name}' is damaged or was edited ({what}); restore it, or rebuild it with "
        "'anechoic index build'"
    )
