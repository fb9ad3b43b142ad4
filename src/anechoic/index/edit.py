"""Clips that are added to an index, or withdrawn from it, without building it again.

The mean that a centred index takes off stays what it was: the calibrated thresholds were
measured with it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from anechoic.errors import IndexMismatch
from anechoic.index import manifest as manifests
from anechoic.index import shards
from anechoic.index.build import Progress, Run, Work, build, require_unique
from anechoic.index.clips import Clip
from anechoic.index.ending import forget, require_free
from anechoic.index.manifest import Manifest
from anechoic.index.shards import Shard
from anechoic.index.sources.protocol import Source
from anechoic.storage import Storage

ADDED = "added"


def remove(
    folder: str | Path,
    unwanted: Callable[[Clip], bool],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Manifest, list[str]]:
    """Withdraw clips: their rows and embeddings are gone from the shards.

    Stopped midway, the index is as it was, and the same call goes on. A search that was derived
    is of the old rows: derive it again (`search.derive`), which encodes the changed shards only.

    Args:
        folder: of the index.
        unwanted: says which clips.
        progress: called with the number of searched shards and the total.

    Returns:
        The manifest, and the ids of the clips that were withdrawn.

    Raises:
        IndexMismatch: nothing would be left, or the index is damaged.
        CannotWrite: the place is full, read-only, or in use.
    """
    place = Storage(folder)
    with place.alone():
        manifest = manifests.read(place)
        kept: list[Shard] = []
        gone: dict[str, None] = {}
        for number, shard in enumerate(manifest.shards):
            part, withdrawn = _without(place, shard, unwanted)
            kept += [part] if part else []
            gone.update(dict.fromkeys(withdrawn))
            progress(number + 1, len(manifest.shards))
        if not kept:
            raise IndexMismatch(
                f"every clip of index '{place.name}' was to be withdrawn; remove its folder instead"
            )
        return _write(place, manifest, kept), list(gone)


def add(
    folder: str | Path,
    source: Source,
    work: Callable[[str], Work],
    *,
    run: Run | None = None,
    progress: Progress = lambda done, total: None,
) -> Manifest:
    """Add clips; they are embedded as those that are there.

    Stopped midway, the index is as it was, and the same call goes on.

    Args:
        folder: of the index.
        source: the clips, or embeddings that were made elsewhere.
        work: how they are embedded, given where their shards go. It must be the way that
            built the index.
        run, progress: as for `build`.

    Raises:
        BadSetting: a clip has the id of another.
        IndexMismatch: embeddings of another length.
        AnechoicError: as `build`.
    """
    place = Storage(folder)
    with place.alone():
        manifest = manifests.read(place)
        beside = Storage(place.path(ADDED))
        if beside.exists(manifests.NAME):
            beside.remove("")  # left by a call that was stopped after it had moved the shards
        about = replace(manifest.about, centred=False)
        new = build(source, work(beside.name), about, run=run, progress=progress)
        if new.dim != manifest.dim:
            raise IndexMismatch(
                f"index '{place.name}' holds {manifest.dim}-d embeddings, and {new.dim}-d were to "
                "be added; use the embedder that built it"
            )
        batch = 1 + max((_batch(shard.name) for shard in manifest.shards), default=0)
        moved = []
        for shard in new.shards:
            name = f"{batch:04d}+{shard.name}"
            place.write(
                f"{shards.FOLDER}/{name}.parquet",
                beside.read(f"{shards.FOLDER}/{shard.name}.parquet"),
            )
            moved.append(replace(shard, name=name))
        require_unique(place, [*manifest.shards, *moved])
        written = _write(place, manifest, [*manifest.shards, *moved])
        beside.remove("")
        return written


def _without(
    place: Storage, shard: Shard, unwanted: Callable[[Clip], bool]
) -> tuple[Shard | None, list[str]]:
    """A shard without some clips, under another name; itself if it has none of them."""
    import pyarrow as pa

    table = shards.read_table(place, shard)
    clips = shards.clips_of(table)
    keep = [not unwanted(clip) for clip in clips]
    withdrawn = list({c.id: None for c, stays in zip(clips, keep, strict=True) if not stays})
    if not withdrawn:
        return shard, []
    if not any(keep):
        return None, withdrawn
    left = table.filter(pa.array(keep))
    stored = shards.stored_embeddings(left)
    count = shard.clips - len(withdrawn)
    name = f"{shard.name.partition('~')[0]}~{shard.sha256[:8]}"
    return shards.write(place, name, shards.clips_of(left), stored, count), withdrawn


def _write(place: Storage, manifest: Manifest, kept: Collection[Shard]) -> Manifest:
    """Write the new manifest, then remove the shards that it does not name."""
    written = replace(manifest, shards=tuple(kept))
    written.write(place)
    forget(place, written)
    return written


def _batch(name: str) -> int:
    number, plus, _ = name.partition("+")
    return int(number) if plus else 0


def fetch(
    where: str | Path,
    folder: str | Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Manifest:
    """Copy an index to this machine; a copy that was stopped goes on.

    Args:
        where: of the index: a URL, or a path.
        folder: where to; it is not there yet, or holds a part of the same index.
        progress: called with the number of copied shards and the total.

    Raises:
        IndexMismatch: no index, or a file that is not what was written.
        OutputExists: the folder holds something else.
        CannotWrite: it is full or read-only.
    """
    place, copy = Storage(where), Storage(folder)
    manifest = manifests.read(place)
    there = copy.names(shards.FOLDER)
    if not there:
        require_free(copy)
    with copy.alone():
        for number, shard in enumerate(manifest.shards):
            name = f"{shards.FOLDER}/{shard.name}.parquet"
            if f"{shard.name}.parquet" not in there or copy.size(name) != shard.bytes:
                copy.write(name, shards.read_bytes(place, shard))
            progress(number + 1, len(manifest.shards))
        manifest.write(copy)
    return manifest
