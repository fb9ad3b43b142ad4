"""What is left of a build once its last shard is written: to tidy up, and to replace an index."""

from __future__ import annotations

from collections.abc import Callable

from anechoic.errors import IndexMismatch, OutputExists
from anechoic.index import manifest, search, shards
from anechoic.index.manifest import NOTES, Manifest
from anechoic.index.plan import Plan
from anechoic.storage import Storage

SearchBy = Callable[[int, int], Plan]  # rows and dimension


def require_free(place: Storage, overwrite: bool = False) -> None:
    """Refuse to build where something is that may not be replaced.

    Raises:
        OutputExists: the output exists, and `overwrite` is off or it is not an index.
    """
    if not place.exists() or place.exists(NOTES):
        return
    if place.exists(manifest.NAME):
        if not overwrite:
            raise OutputExists(
                f"'{place.name}' exists already; name another output or overwrite it"
            )
        if place.local is None:
            raise OutputExists(
                f"'{place.name}' is not on this machine, where alone an index can be replaced as "
                "a whole; remove it first, or name another output"
            )
    elif place.local is None or any(f.name[0] != "." for f in place.local.iterdir()):
        raise OutputExists(f"'{place.name}' is no index and is not replaced; name another output")


def tidy(place: Storage, built: Manifest) -> None:
    """Remove what a build leaves beside what it made; the notes last, which tell that it did."""
    forget(place, built)
    place.remove(NOTES)


def begin_search(place: Storage, built: Manifest, search_by: SearchBy | None) -> None:
    """Say, before its manifest is written, that an index will have a search: a command that is
    stopped before it is derived goes on."""
    plan = None if search_by is None else search_by(built.rows, built.dim)
    if plan is not None and plan.kind != "exact" and place.local is not None:
        search.begin(place, plan)


def tidied(place: Storage) -> Manifest | None:
    """Tidy up after a build that was stopped when its manifest was written, if there is one."""
    if not (place.exists(manifest.NAME) and place.exists(NOTES)):
        return None
    built = manifest.read(place)
    tidy(place, built)
    return built


def built_by(place: Storage, plan: str | None = None) -> Manifest | None:
    """The index that a build of this plan left, if it was stopped or is of this plan.

    Args:
        place: the index's.
        plan: what it is to be built of; None: whatever it was, if its search is not derived.
    """
    if not place.exists(manifest.NAME):
        return None
    try:
        built = manifest.read(place)
        if plan is None:
            return None if search.is_finished(place, built) else built
    except IndexMismatch:
        return None  # a damaged one is nothing to go on with
    return built if built.plan == plan else None


def forget(place: Storage, built: Manifest) -> None:
    """Remove the shards that a manifest does not name, and the parts of such."""
    wanted = {f"{shard.name}.parquet" for shard in built.shards}
    for name in place.names(shards.FOLDER, hidden=True):
        if name not in wanted:
            place.remove(f"{shards.FOLDER}/{name}")


def settled(place: Storage, plan: str) -> Manifest | None:
    """Finish a replacement that was stopped after its last shard, if there is one."""
    new = Storage(f"{place.root}.new")
    if place.local is None or not new.exists(manifest.NAME):
        return None
    built = tidied(new) or manifest.read(new)
    if built.plan != plan:
        new.remove("")  # left by another build, which was never put in place
        return None
    place.replace_with(new)
    return built
