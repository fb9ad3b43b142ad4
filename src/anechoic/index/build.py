"""Building an index on disk: shard by shard, so that it can be stopped at any moment.

During a build, the index has a folder `building` with a note for each finished shard. The manifest
is written last; an index exists once it has one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import count, islice
from typing import Any, Literal

import numpy as np

from anechoic.errors import BadSetting, IndexMismatch
from anechoic.index import manifest, shards
from anechoic.index.clips import Clip
from anechoic.index.embedding import Windows, embed
from anechoic.index.ending import (
    SearchBy,
    begin_search,
    built_by,
    require_free,
    settled,
    tidied,
    tidy,
)
from anechoic.index.manifest import NOTES, About, Manifest
from anechoic.index.shards import Shard
from anechoic.index.sources.protocol import Source, Unit, VectorUnit
from anechoic.index.vectors import NO_DIRECTION
from anechoic.parsing import parse_object, parse_record
from anechoic.storage import Storage
from anechoic.types import Embedder

PLAN = "plan.json"
ANEW = "remove the folder, and build it again"
CLIPS = 1024  # clips of a shard; at most as many are embedded again after a stop
VECTORS = 65_536  # rows of a shard, for embeddings that were made elsewhere

Dtype = Literal["float32", "float16"]
Progress = Callable[[int, int | None], None]  # clips done, and clips in all, if known


@dataclass(frozen=True)
class Work:
    """How each unit of a source is embedded, and where the shards go.

    Args:
        folder: a path, or a URL that fsspec knows.
        embedder: makes the embedder; it is called once in each process that embeds.
        windows: how clips become rows.
        dtype: dtype of the stored embeddings; "float16" halves their size, and scores differ by
            some 1e-3.
        clips: clips of a shard; None: 1,024, or 65,536 embeddings that were made elsewhere.
        device: where the embedder works, such as "cuda".
    """

    folder: str
    embedder: Callable[[], Embedder]
    windows: Windows
    dtype: Dtype = "float32"
    clips: int | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.dtype not in shards.DTYPES:
            raise BadSetting(
                f"embeddings cannot be stored as '{self.dtype}'; use float32 or float16"
            )
        if self.clips is not None and self.clips < 1:
            raise BadSetting(f"expected 1 clip or more for each shard, got {self.clips}")


Run = Callable[[Sequence[Unit | VectorUnit], Work, Callable[[int], None]], None]


def build(
    source: Source,
    work: Work,
    about: About,
    *,
    overwrite: bool = False,
    run: Run | None = None,
    progress: Progress = lambda done, total: None,
    search_by: SearchBy | None = None,
) -> Manifest:
    """Build an index on disk, or continue a build that was stopped.

    The shards depend on source and work alone: however often a build was stopped, and wherever
    its units were embedded, the files are the same. Memory holds one shard and the sound that
    is read ahead.

    Args:
        source: the clips, or embeddings that were made elsewhere.
        work: how they are embedded, and where the shards go.
        about: the manifest's description of the rows.
        overwrite: replace an existing index, once the new one is finished.
        run: embeds the units; by default one after the other, in this process.
        progress: called with the number of finished clips, at the start and after each.
        search_by: the plan of the search that will be derived next (`search.derive`), from rows
            and dimension. Until it is derived, the same call returns the finished index.

    Raises:
        OutputExists: the output exists, and `overwrite` is off or it is not an index.
        CannotWrite: the storage is full or read-only, or another process is writing there.
        BadSetting: a build with other settings was begun there, or two clips have the same id.
        IndexMismatch: no clips, or an embedding without direction.
        AnechoicError: the source refuses a clip.
    """
    place = Storage(work.folder)
    units = source.units()
    plan = _plan(source, work, about)
    made = _hash(plan, units)
    with place.alone() if place.exists(manifest.NAME) else nullcontext():
        built = tidied(place) or built_by(place)
    if built and (built.plan, built.about) == (made, about):
        if overwrite and place.local is not None:
            Storage(f"{place.root}.old").remove("")  # what was replaced before a stop
        return built
    if overwrite and (built := settled(place, made)):
        return built
    require_free(place, overwrite)
    if place.exists(manifest.NAME):
        beside = replace(work, folder=f"{place.name}.new")
        built = build(source, beside, about, run=run, progress=progress, search_by=search_by)
        place.replace_with(Storage(beside.folder))
        return built
    with place.alone():
        _begin(place, plan)
        done = sum(clips_done(place, unit) for unit in units)
        progress(done, source.total)

        def report(clips: int) -> None:
            nonlocal done
            done += clips
            progress(done, source.total)

        (run or one_after_the_other)(units, work, report)
        return _finish(place, units, plan, about, search_by)


def one_after_the_other(
    units: Sequence[Unit | VectorUnit], work: Work, report: Callable[[int], None]
) -> None:
    """Embed all units in this process."""
    for unit in units:
        do_unit(unit, work, report)


def do_unit(unit: Unit | VectorUnit, work: Work, report: Callable[[int], None]) -> None:
    """Write the missing shards of a unit; finished ones are not embedded again.

    Args:
        unit: a unit of a source.
        work: how it is embedded.
        report: called with 1 after each clip.

    Raises:
        AnechoicError: as `build`.
    """
    place = Storage(work.folder)
    finished = list(_notes(place, unit))
    if finished and finished[-1].last:
        return
    parts = _parts(unit, sum(note.clips for note in finished), work, report)
    for number, (clips, embeddings, taken, last) in enumerate(parts, len(finished)):
        _require_directions(place, clips, embeddings)
        name = f"{unit.key}-{number:05d}"
        shard = None
        if clips:
            shard = shards.write(place, name, clips, embeddings.astype(work.dtype), taken)
        total = embeddings.sum(0, dtype=np.float64).tolist()
        note = _Note(unit.identity, shard, taken, total, last)
        place.write(f"{NOTES}/{name}.json", json.dumps(asdict(note)).encode())


def _parts(
    unit: Unit | VectorUnit, start: int, work: Work, report: Callable[[int], None]
) -> Iterator[tuple[list[Clip], np.ndarray, int, bool]]:
    """For each remaining shard: rows, embeddings, number of clips, and whether it is the last."""
    if isinstance(unit, VectorUnit):
        rows, size = unit.rows(start), work.clips or VECTORS
        while True:
            part = []
            for row in islice(rows, size):
                part.append(row)
                report(1)
            vectors = np.stack([v for _, v in part]) if part else np.zeros((0, 1), np.float32)
            yield [clip for clip, _ in part], vectors, len(part), len(part) < size
            if len(part) < size:
                return
    items, size, embedder = unit.items(start), work.clips or CLIPS, work.embedder()
    while True:
        taken = 0

        def read(item: Any) -> None:
            nonlocal taken
            taken += 1
            report(1)

        embeddings, clips = embed(islice(items, size), embedder, work.windows, read, work.device)
        yield clips, embeddings.numpy(), taken, taken < size
        if taken < size:
            return


def _require_directions(place: Storage, clips: Sequence[Clip], embeddings: np.ndarray) -> None:
    norms = np.linalg.norm(embeddings, axis=1)
    bad = np.flatnonzero(~((norms > NO_DIRECTION) & np.isfinite(norms)))
    if len(bad):
        raise IndexMismatch(
            f"index '{place.name}': the embedding of clip '{clips[bad[0]].id}' is NaN or has no "
            f"direction ({len(bad)} of {len(clips)} rows of its shard); leave the clip out"
        )


# --------------------------------------------------------------------------------------- notes


@dataclass(frozen=True)
class _Note:
    """A finished shard, in the folder `building`."""

    unit: str  # its identity
    shard: Shard | None  # None: nothing was left in the unit
    clips: int  # number of clips in the source
    sum: list[float]  # sum of the embeddings, float64 [d]
    last: bool  # the last one of its unit


def clips_done(place: Storage, unit: Unit | VectorUnit) -> int:
    """The number of clips of a unit in finished shards."""
    return sum(note.clips for note in _notes(place, unit))


def _notes(place: Storage, unit: Unit | VectorUnit) -> Iterator[_Note]:
    """The finished shards of a unit, if it has not changed since."""
    for number in count():
        try:
            told, name = _read_note(place, f"{unit.key}-{number:05d}.json")
        except FileNotFoundError:
            return
        note = parse_record(_Note, told, name, IndexMismatch, ANEW)
        if note.unit != unit.identity:
            return  # a file was mended: the unit is done again
        yield note


def _read_note(place: Storage, file: str) -> tuple[dict[str, Any], str]:
    """The content of a note, and its name in errors."""
    name = f"'{place.path(f'{NOTES}/{file}')}'"
    return parse_object(place.read(f"{NOTES}/{file}"), name, IndexMismatch, ANEW), name


def identity_of_build(source: Source, work: Work, about: About) -> str:
    """A hash of what an index is built from, and how: the `plan` of its manifest."""
    return _hash(_plan(source, work, about), source.units())


def _plan(source: Source, work: Work, about: About) -> dict[str, Any]:
    """What all shards depend on, besides the identity of their unit."""
    return {
        "source": source.name,
        "embedder": [about.embedder_name, about.revision],
        "windows": asdict(work.windows),
        "dtype": work.dtype,
        "clips": work.clips,
    }


def _begin(place: Storage, plan: dict[str, Any]) -> None:
    """Record what is being built; a build that was begun must have the same settings."""
    if not set(place.names(NOTES)) - {PLAN}:  # nothing is finished
        place.write(f"{NOTES}/{PLAN}", json.dumps(plan, indent=1).encode())
        return
    begun, _ = _read_note(place, PLAN)
    other = [f"{name} {begun.get(name)}" for name in plan if begun.get(name) != plan[name]]
    if other:
        raise BadSetting(
            f"'{place.name}' holds a build that was begun with {', '.join(other)}; finish it with "
            "these settings, or remove the folder"
        )


def _finish(
    place: Storage,
    units: Sequence[Unit | VectorUnit],
    plan: dict[str, Any],
    about: About,
    search_by: SearchBy | None,
) -> Manifest:
    """Write the manifest, and remove the notes."""
    noted = {unit.key: list(_notes(place, unit)) for unit in units}
    if open_ended := [key for key, found in noted.items() if not (found and found[-1].last)]:
        raise IndexMismatch(
            f"'{place.name}': {len(open_ended)} of {len(units)} units are not finished, such as "
            f"'{open_ended[0]}'; run the same build again"
        )
    notes = [note for found in noted.values() for note in found if note.shard]
    if not notes:
        place.remove(NOTES)
        raise IndexMismatch("expected at least one clip for an index, got none; add clips")
    made = [note.shard for note in notes if note.shard]
    require_unique(place, made)
    dims = {len(note.sum) for note in notes}
    if len(dims) > 1:
        raise IndexMismatch(f"expected embeddings of one length, got {sorted(dims)}")
    rows = sum(shard.rows for shard in made)
    mean = np.sum([note.sum for note in notes], axis=0) / rows
    if about.centred and np.linalg.norm(mean) > 1 - NO_DIRECTION:
        raise IndexMismatch(
            f"the {rows} rows of index '{place.name}' are all the same; a single clip, or copies "
            "of one, can only be indexed uncentred ('--no-centre')"
        )
    built = Manifest(
        about,
        dims.pop(),
        plan["dtype"],
        tuple(mean.tolist()) if about.centred else None,
        tuple(made),
        _hash(plan, units),
    )
    begin_search(place, built, search_by)
    built.write(place)
    tidy(place, built)
    return built


def _hash(plan: dict[str, Any], units: Sequence[Unit | VectorUnit]) -> str:
    return manifest.hash_of([plan, [[unit.key, unit.identity] for unit in units]])


def require_unique(place: Storage, made: Sequence[Shard]) -> None:
    """Refuse two clips with one id; this takes 8 bytes of memory a clip.

    Raises:
        BadSetting: two clips have the same id.
    """
    hashes = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in _ids(place, made)]
    seen = np.sort(np.frombuffer(b"".join(hashes), np.uint64))
    twice = set(seen[1:][seen[1:] == seen[:-1]].tolist())
    if not twice:
        return
    found: set[str] = set()
    for name in _ids(place, made):  # two ids may have the same hash by chance, so compare the ids
        digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
        if int.from_bytes(digest, "little") in twice:
            if name in found:
                raise BadSetting(f"two clips have the id '{name}'; give each its own")
            found.add(name)


def _ids(place: Storage, made: Sequence[Shard]) -> Iterator[str]:
    """The id of each clip: its windows are consecutive, share its caption and start ever later."""
    last = ("", "", 0.0)
    for shard in made:
        columns = (shards.read_column(place, shard, name) for name in ("id", "caption", "start_s"))
        for id, caption, start_s in zip(*columns, strict=True):
            if (id, caption) != last[:2] or start_s <= last[2]:
                yield id
            last = (id, caption, start_s)
