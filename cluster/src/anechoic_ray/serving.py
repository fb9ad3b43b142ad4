"""An index searched by many: actors of a Ray cluster each hold a stretch of its rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import accumulate, pairwise
from os import getcwd
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anechoic.errors import AnechoicError, BadSetting
from anechoic.index import manifest as manifests
from anechoic.index import shards
from anechoic.index.clips import Clip
from anechoic.index.shards import Shard
from anechoic.index.stored import CHUNK, LazySequence
from anechoic.index.training import TrainingIndex
from anechoic.index.vectors import Resident, project
from anechoic.storage import Storage
from anechoic.types import Embedder
from anechoic_ray import cluster

# an actor needs this besides its vectors and the turned copy of them that makes a search faster:
SPARE_BYTES = 2**29  # for the shard that it reads, and Python


@contextmanager
def served(
    folder: str | Path,
    actors: int,
    embedder: Embedder | None = None,
    *,
    cpus: float = 1.0,
    restarts: int = cluster.RETRIES,
) -> Iterator[TrainingIndex]:
    """An index whose vectors lie in the memory of so many actors, on as many machines as need be.

    It is a `TrainingIndex` like any other, for a guard or an audit; each search asks all actors,
    and the answer is that of the index in one memory, to the bit. An actor that is killed is
    started again, reads its shards, and answers; a search of fewer rows is never an answer. It can
    be sent to other processes of the cluster, which search it for the length of the block.

    Args:
        folder: of the index; a path that all machines share, or a URL that fsspec knows.
        actors: among which the shards are split.
        embedder: refuse the index if another embedder built it.
        cpus: of each actor.
        restarts: how often each actor is started again; -1: always.

    Raises:
        BadSetting: actors below 1 or more than shards, or no room for them.
        IndexMismatch: as `TrainingIndex.load`.
    """
    place = Storage(folder)
    manifest = manifests.read(place)
    stretches = split(manifest.shards, actors)
    with cluster.connected() as ray:
        size = 2 * max(map(_rows, stretches)) * manifest.dim * 4 + SPARE_BYTES
        if cluster.room(ray, cpus, 0, size) < actors:
            raise BadSetting(
                f"{actors} actors of {size / 2**30:.1f} GiB and {cpus:g} CPUs each do not fit on "
                "the Ray cluster; add machines"
            )
        options = {"num_cpus": cpus, "memory": size, "max_restarts": restarts,
                   "max_task_retries": cluster.RETRIES}  # fmt: skip
        kind = ray.remote(**options)(Part)
        parts = [kind.remote(getcwd(), place.name, manifest.mean, stretch, manifest.dim)
                 for stretch in stretches]  # fmt: skip
        asked = _Parts(ray, place.name, parts, [_rows(stretch) for stretch in stretches])
        try:
            asked.all("load")
            mean = None if manifest.mean is None else torch.tensor(manifest.mean)
            index = TrainingIndex(
                _Vectors(asked, manifest.dim),
                _Clips(asked),
                manifest.about,
                mean,
                place.root.rsplit("/", 1)[-1],
                None,
                (place, manifest),
            )
            if embedder is not None:
                index.check_embedder(embedder)
            yield index
        finally:
            for part in parts:
                ray.kill(part)


def split(found: Sequence[Shard], count: int) -> list[list[Shard]]:
    """Shards in their order, as contiguous stretches of about equally many rows.

    Raises:
        BadSetting: no stretch, or more than there are shards.
    """
    if not 1 <= count <= len(found):
        raise BadSetting(
            f"an index of {len(found)} shards can be split among 1 to {len(found)} actors, not "
            f"{count}"
        )
    ends = list(accumulate(shard.rows for shard in found))
    cuts = [0]
    for number in range(1, count):
        wanted = ends[-1] * number / count
        nearest = min(range(len(ends)), key=lambda i: abs(ends[i] - wanted)) + 1
        # at least one shard for each that was and for each that is to come
        cuts.append(min(max(nearest, cuts[-1] + 1), len(found) - count + number))
    return [list(found[a:b]) for a, b in zip(cuts, [*cuts[1:], len(found)], strict=True)]


def _rows(stretch: Sequence[Shard]) -> int:
    return sum(shard.rows for shard in stretch)


# ------------------------------------------------------------------------------ inside an actor


class Part:
    """A stretch of an index. What it holds is read at the first call, and again after a restart."""

    def __init__(
        self,
        here: str,
        name: str,
        mean: Sequence[float] | None,
        stretch: Sequence[Shard],
        dim: int,
    ):
        self.here, self.name, self.mean, self.stretch, self.dim = here, name, mean, stretch, dim

    @cached_property
    def held(self) -> tuple[Resident, Any]:
        """The vectors, and an Arrow table of what their rows stand for."""
        import pyarrow as pa

        cluster.enter(self.here)
        place, start, tables = Storage(self.name), 0, []
        mean = None if self.mean is None else torch.tensor(self.mean)
        vectors = torch.empty(_rows(self.stretch), self.dim)
        for shard in self.stretch:
            table = shards.read_table(place, shard)
            rows = project(torch.from_numpy(shards.embeddings_of(table)), mean)
            vectors[start : start + shard.rows] = rows
            start += shard.rows
            tables.append(table.drop_columns("embedding"))
        return Resident(vectors), pa.concat_tables(tables)

    def load(self) -> None:
        """Read what it holds."""
        assert len(self.held[0]) == self.held[1].num_rows

    def candidates(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows [b, c] of the stretch among which its k nearest are, and their vectors [b, c, d]."""
        rows = self.held[0].candidates(torch.from_numpy(query.copy()), k)
        return rows.numpy(), self.held[0].take(rows).numpy()

    def take(self, rows: np.ndarray) -> np.ndarray:
        """The vectors of some rows [n] of the stretch."""
        return self.held[0].take(torch.from_numpy(rows.copy())).numpy()

    def clips(self, start: int, count: int) -> list[Clip]:
        """What some rows of the stretch stand for."""
        return shards.clips_of(self.held[1].slice(start, count))


# ---------------------------------------------------------------------------------- beside them


class _Parts:
    """All actors of an index, in the order of its rows."""

    def __init__(self, ray: Any, name: str, parts: Sequence[Any], sizes: Sequence[int]):
        self.ray, self.name, self.parts = ray, name, parts
        self.starts = np.cumsum([0, *sizes])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def all(self, method: str, *arguments: Any) -> list[Any]:
        """Ask every actor the same."""
        return self.ask((part, method, arguments) for part in range(len(self.parts)))

    def ask(self, calls: Iterator[tuple[int, str, tuple[Any, ...]]]) -> list[Any]:
        """Ask some actors, all at once: by number, method and arguments.

        Raises:
            AnechoicError: an actor is gone for good, or what it was asked cannot be done.
        """
        from ray.exceptions import RayError, RayTaskError

        asked = [getattr(self.parts[part], method).remote(*args) for part, method, args in calls]
        try:
            return list(self.ray.get(asked))
        except RayTaskError as error:
            raise error.cause from None
        except RayError as error:
            raise AnechoicError(
                f"a part of index '{self.name}' is no longer served: its actor was ended "
                f"{cluster.RETRIES + 1} times, or its machine is gone; a search of the rest would "
                "pass over its clips, so serve it again"
            ) from error


class _Vectors:
    """The vectors of all actors (`vectors.Vectors`)."""

    dtype = torch.float32

    def __init__(self, parts: _Parts, dim: int):
        self._parts, self.dim = parts, dim
        self._last = (torch.zeros(0, dtype=torch.int64), torch.zeros(0, dim))

    def __len__(self) -> int:
        return len(self._parts)

    def candidates(self, query: Tensor, k: int) -> Tensor:
        found = self._parts.all("candidates", query.cpu().numpy(), k)
        starts = self._parts.starts[:-1]
        rows = np.concatenate([r + start for (r, _), start in zip(found, starts, strict=True)], 1)
        vectors = np.concatenate([v for _, v in found], 1)
        # a search takes these next: their vectors came with them
        flat, first = np.unique(rows, return_index=True)
        self._last = (torch.from_numpy(flat),
                      torch.from_numpy(vectors.reshape(-1, self.dim)[first]))  # fmt: skip
        return torch.from_numpy(rows).to(query.device)

    def take(self, rows: Tensor) -> Tensor:
        flat = rows.flatten().cpu()
        known, vectors = self._last
        at = torch.searchsorted(known, flat).clamp(max=max(0, len(known) - 1))
        if len(known) and torch.equal(known[at], flat):
            found = vectors[at]
        else:
            found = self._fetched(flat.numpy())
        return found.reshape(*rows.shape, self.dim).to(rows.device)

    def _fetched(self, rows: np.ndarray) -> Tensor:
        starts = self._parts.starts
        if len(rows) and not (rows.min() >= 0 and rows.max() < starts[-1]):
            raise IndexError(f"rows of an index of {len(self)} were expected")
        of = np.searchsorted(starts, rows, side="right") - 1
        wanted = np.unique(of)
        told = self._parts.ask((int(p), "take", (rows[of == p] - starts[p],)) for p in wanted)
        found = np.empty((len(rows), self.dim), np.float32)
        for part, vectors in zip(wanted, told, strict=True):
            found[of == part] = vectors
        return torch.from_numpy(found)


class _Clips(LazySequence[Clip]):
    """What the rows stand for, fetched as it is asked for."""

    def __init__(self, parts: _Parts):
        self._parts = parts
        self.captions = _Captions(self)

    def __len__(self) -> int:
        return len(self._parts)

    def read(self, row: int) -> Clip:
        part = int(np.searchsorted(self._parts.starts, row, side="right")) - 1
        start = row - int(self._parts.starts[part])
        clips: list[Clip] = self._parts.ask(iter([(part, "clips", (start, 1))]))[0]
        return clips[0]

    def __iter__(self) -> Iterator[Clip]:
        starts = self._parts.starts.tolist()
        for part, (start, end) in enumerate(pairwise(starts)):
            for first in range(0, end - start, CHUNK):
                yield from self._parts.ask(iter([(part, "clips", (first, CHUNK))]))[0]


class _Captions(LazySequence[str]):
    """Their captions."""

    def __init__(self, clips: _Clips):
        self._clips = clips

    def __len__(self) -> int:
        return len(self._clips)

    def read(self, row: int) -> str:
        return self._clips.read(row).caption

    def __iter__(self) -> Iterator[str]:
        return (clip.caption for clip in self._clips)
