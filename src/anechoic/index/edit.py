"""Adds clips to an index, and withdraws clips from it, without building it again.

The mean of a centred index does not change: the calibrated thresholds were measured with it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from anechoic.errors import (
    AnechoicError,
    BadSetting,
    CannotWrite,
    IndexMismatch,
    OutputExists,
    some,
)
from anechoic.index import manifest as manifests
from anechoic.index import search, shards, structure
from anechoic.index.build import Progress, Run, Work, build, identity_of_build, require_unique
from anechoic.index.clips import Clip
from anechoic.index.ending import SearchBy, begin_search, built_by, forget, tidied, tidy
from anechoic.index.manifest import LATENTS, NOTES, Manifest
from anechoic.index.shards import Shard
from anechoic.index.sources.protocol import Source
from anechoic.parsing import parse_object
from anechoic.storage import Storage

ADDED = "added"
EDITING = "editing.json"  # what a command is about to do to an index, until all of it is done
FETCHED = "fetch.json"  # among the notes: which index is being copied


def matching(folder: str | Path, wanted: Callable[[Clip], bool]) -> list[str]:
    """The ids of some clips of an index, each once.

    Raises:
        IndexMismatch: no index, or a damaged one.
    """
    place = Storage(folder)
    return list(_matching(place, manifests.read(place), wanted))


def require_found(name: str, missing: Sequence[str]) -> None:
    """Refuse ids that are not in the index of this name. Raises `BadSetting`."""
    if missing:
        raise BadSetting(f"index '{name}' has no clips {some(missing)}; nothing was withdrawn")


def remove(
    folder: str | Path,
    unwanted: Callable[[Clip], bool],
    progress: Callable[[int, int], None] = lambda done, total: None,
    ids: Collection[str] = (),
) -> tuple[Manifest, list[str]]:
    """Withdraw clips: their rows and embeddings are removed from all files of the index.

    If a call is killed, the index is as before, or without the clips, and the same call continues.
    A derived search is derived again, with the same trained structure.

    Args:
        folder: the folder of the index.
        unwanted: whether to withdraw a clip.
        progress: called with the number of searched shards and the total.
        ids: clips that must be among the withdrawn ones.

    Returns:
        The manifest, and the ids of the withdrawn clips, including those that a killed call had
        withdrawn: of these, the ones that `ids` does not name are given as their SHA-256.

    Raises:
        BadSetting: the index has no clip of one of the `ids`; nothing is withdrawn.
        IndexMismatch: nothing would be left, or the index is damaged.
        CannotWrite: the storage is full, read-only, or in use.
    """
    place = Storage(folder)
    with place.alone():
        manifest = manifests.read(place)
        before = set(_settle(place, manifest).get("removed", ()))
        _discard_added(place)
        gone = _matching(place, manifest, unwanted, progress)
        named = {_sha256(name): name for name in ids}
        missing = sorted(
            name for sha256, name in named.items() if name not in gone and sha256 not in before
        )
        if gone and not missing:
            kept = [_without(place, shard, unwanted) for shard in manifest.shards]
            if not any(kept):
                raise IndexMismatch(
                    f"expected clips to remain in index '{place.name}', got a request to withdraw "
                    "all of them; remove its folder instead"
                )
            _remove_latents(place, unwanted)
            note = {"removed": sorted(before | set(map(_sha256, gone)))}
            manifest = _write(place, manifest, [shard for shard in kept if shard], note)
        elif before:
            _finish(place, manifest)
        require_found(place.name, missing)
        return manifest, [*gone, *(named.get(sha256, sha256) for sha256 in sorted(before))]


def add(
    folder: str | Path,
    source: Source,
    work: Callable[[str], Work],
    *,
    run: Run | None = None,
    progress: Progress = lambda done, total: None,
) -> Manifest:
    """Add clips, embedded like those in the index.

    If a call is killed, the index is as before, or has all of the clips, and the same call
    continues. A refused call leaves nothing behind. A derived search is derived again. Latents of
    the clips are removed: those of the new ones would be missing.

    Args:
        folder: the folder of the index.
        source: the clips, or embeddings that were made elsewhere.
        work: how they are embedded, from the folder for their shards; as in the build of the index.
        run, progress: as for `build`.

    Raises:
        BadSetting: two clips have the same id.
        IndexMismatch: embeddings of another length.
        AnechoicError: as `build`.
    """
    place = Storage(folder)
    with place.alone():
        manifest = manifests.read(place)
        beside = Storage(place.path(ADDED))
        note = _settle(place, manifest)
        about, todo = replace(manifest.about, centred=False), work(beside.name)
        key = identity_of_build(source, todo, about)
        if note.get("added") == key:  # all that is left is to tidy up
            _finish(place, manifest)
            return manifest
        if _read_note(place).get("added") != key:
            _discard_added(place)
            _write_note(place, {"added": key})
        try:
            new = built_by(beside, key)
            new = new or build(source, todo, about, run=run, progress=progress)
            if new.dim != manifest.dim:
                raise IndexMismatch(
                    f"expected {manifest.dim}-d embeddings for index '{place.name}', got "
                    f"{new.dim}-d; use the embedder that built it"
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
        except CannotWrite:
            raise  # with more space, the same call continues
        except AnechoicError:
            _discard_added(place)
            forget(place, manifest)
            raise
        place.remove(f"{LATENTS}/{manifests.NAME}")
        place.remove(LATENTS)
        return _write(place, manifest, [*manifest.shards, *moved], {"added": key})


def cover(folder: str | Path, model: str) -> Manifest:
    """State that an index covers one more model: one that was made of the model of the index and
    knows the same clips, as with a LoRA.

    Args:
        folder: the folder of the index.
        model: the fingerprint of that model (`anechoic.diffusers.fingerprint`).

    Raises:
        BadSetting: the index names no model, so it may be used with any.
        IndexMismatch: no index, or a damaged one.
        CannotWrite: the storage is full, read-only, or in use.
    """
    place = Storage(folder)
    with place.alone():
        manifest = manifests.read(place)
        about = manifest.about
        if about.model is None:
            raise BadSetting(f"index '{folder}' names no model, so it covers every one already")
        if model not in (about.model, *about.covers):
            manifest = replace(manifest, about=replace(about, covers=(*about.covers, model)))
            manifest.write(place)
        return manifest


# ------------------------------------------------------------------------- what a stop leaves


def settle(folder: str | Path) -> Manifest:
    """Remove the remains of a stopped command, before the search is derived again.

    Returns:
        The manifest of the index.

    Raises:
        IndexMismatch: no index, or a damaged one.
        CannotWrite: the storage is read-only, or in use.
    """
    place = Storage(folder)
    with place.alone():
        manifest = manifests.read(place)
        if _settle(place, manifest):
            place.remove(ADDED)
            place.remove(EDITING)
        return manifest


def _settle(place: Storage, manifest: Manifest) -> dict[str, Any]:
    """Remove the remains of a stopped command that the manifest does not name.

    Returns:
        The note of a command that was stopped after it had written the manifest; {} if none was.
    """
    tidied(place)
    forget(place, manifest)
    search.discard(place, manifest)
    note = _read_note(place)
    return note if note.get("content") == manifest.content else {}


def _read_note(place: Storage) -> dict[str, Any]:
    try:
        return parse_object(place.read(EDITING), EDITING, IndexMismatch)
    except (FileNotFoundError, IndexMismatch):
        return {}


def _write_note(place: Storage, note: dict[str, Any]) -> None:
    place.write(EDITING, json.dumps(note).encode())


def _discard_added(place: Storage) -> None:
    """Remove clips that were embedded to be added, after the note that names them."""
    if "added" in _read_note(place):
        place.remove(EDITING)
    place.remove(ADDED)


def _write(
    place: Storage, manifest: Manifest, kept: Collection[Shard], note: dict[str, Any]
) -> Manifest:
    """Write the new manifest, then everything that follows from it."""
    written = replace(manifest, shards=tuple(kept))
    _write_note(place, note | {"content": written.content})
    written.write(place)
    _finish(place, written)
    return written


def _finish(place: Storage, manifest: Manifest) -> None:
    """Remove files that the manifest does not name, derive the search, then remove the note."""
    forget(place, manifest)
    place.remove(ADDED)
    search.discard(place, manifest)
    if place.local is not None:
        plan = search.plan_of(place.local) or structure.plan(manifest.rows, manifest.dim)
        with place.writing():
            search.make(place, manifest, plan)
    place.remove(EDITING)


def _sha256(name: str) -> str:
    """The hash of a withdrawn id, which itself must not be in a file."""
    return hashlib.sha256(name.encode()).hexdigest()


def _remove_latents(place: Storage, unwanted: Callable[[Clip], bool]) -> None:
    """Withdraw clips from the latents of an index; unfinished ones are removed."""
    place.remove(f"{LATENTS}.new")
    if place.exists(f"{LATENTS}/{manifests.NAME}"):
        remove(f"{place.name}/{LATENTS}", unwanted)
    else:
        place.remove(LATENTS)


def _matching(
    place: Storage,
    manifest: Manifest,
    wanted: Callable[[Clip], bool],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, None]:
    found: dict[str, None] = {}
    for number, shard in enumerate(manifest.shards):
        clips = shards.clips_of(shards.read_table(place, shard))
        found.update((clip.id, None) for clip in clips if wanted(clip))
        progress(number + 1, len(manifest.shards))
    return found


def _without(place: Storage, shard: Shard, unwanted: Callable[[Clip], bool]) -> Shard | None:
    """A shard without some clips, under another name. The shard itself if it has none of them;
    None if no others are left."""
    import pyarrow as pa

    table = shards.read_table(place, shard)
    clips = shards.clips_of(table)
    keep = [not unwanted(clip) for clip in clips]
    if not any(keep) or all(keep):
        return shard if all(keep) else None
    left = table.filter(pa.array(keep))
    withdrawn = {clip.id for clip, stays in zip(clips, keep, strict=True) if not stays}
    name = f"{shard.name.partition('~')[0]}~{shard.sha256[:8]}"
    stored = shards.stored_embeddings(left)
    return shards.write(place, name, shards.clips_of(left), stored, shard.clips - len(withdrawn))


def _batch(name: str) -> int:
    number, plus, _ = name.partition("+")
    return int(number) if plus else 0


def fetch(
    where: str | Path,
    folder: str | Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
    search_by: SearchBy | None = None,
) -> Manifest:
    """Copy an index to this machine, or continue a copy that was stopped.

    Args:
        where: the URL or path of the index.
        folder: the copy's folder, which does not exist yet or holds a part of the same index.
        progress: called with the number of copied shards and the total.
        search_by: as for `build`.

    Raises:
        IndexMismatch: no index, or a damaged file.
        OutputExists: the folder holds something else.
        CannotWrite: it is full or read-only.
    """
    place, copy = Storage(where), Storage(folder)
    manifest, note = manifests.read(place), f"{NOTES}/{FETCHED}"
    content = manifest.content.encode()
    there = copy.exists(manifests.NAME) and manifests.read(copy).content == manifest.content
    begun = copy.names(NOTES)
    if not there and begun != [FETCHED]:
        if begun or set(copy.names("")) - {NOTES}:
            raise OutputExists(f"'{copy.name}' holds something else; name another output")
    elif not there and copy.read(note) != content:
        raise OutputExists(
            f"'{copy.name}' holds a part of another index; remove it, or name another output"
        )
    with copy.alone():
        if not there:
            copy.write(note, content)
        for number, shard in enumerate(manifest.shards):
            if not shards.is_whole(copy, shard):
                copy.write(f"{shards.FOLDER}/{shard.name}.parquet", shards.read_bytes(place, shard))
            progress(number + 1, len(manifest.shards))
        if place.exists(f"{LATENTS}/{manifests.NAME}"):
            fetch(f"{place.name}/{LATENTS}", f"{copy.name}/{LATENTS}", search_by=search_by)
        begin_search(copy, manifest, search_by)
        manifest.write(copy)
        tidy(copy, manifest)
    return manifest
