"""The end of a build, after its last shard: tidies up, and replaces an index."""

from __future__ import annotations

from collections.abc import Callable

from anechoic.errors import IndexMismatch, OutputExists
from anechoic.index import manifest, search, shards
from anechoic.index.manifest import NOTES, Manifest
from anechoic.index.plan import Plan
from anechoic.storage import Storage

SearchBy = Callable[[int, int], Plan]  # rows and dimension


def require_free(place: Storage, overwrite: bool = False) -> None:
    """Refuse to build over something that may not be replaced.

    Raises:
        OutputExists: the output exists, and `overwrite` is off or it is not an index.
    """
    if not place.exists() or place.exists(NOTES):
        return
    if place.exists(manifest.NAME):
        if not overwrite:
            raise OutputExists.at(place.name)
        if place.local is None:
            raise OutputExists(
                f"'{place.name}' exists already and is not on this machine, so it cannot be "
                "replaced as a whole; remove it first, or name another output"
            )
    elif place.local is None or any(f.name[0] != "." for f in place.local.iterdir()):
        raise OutputExists(f"'{place.name}' exists and is not an index; name another output")


def tidy(place: Storage, built: Manifest) -> None:
    """Remove the remains of a build; its notes come last, since they show that there are any."""
    forget(place, built)
    place.remove(NOTES)


def begin_search(place: Storage, built: Manifest, search_by: SearchBy | None) -> None:
    """Record, before the manifest is written, that an index will have a search: a command that is
    stopped before it is derived then continues."""
    plan = None if search_by is None else search_by(built.rows, built.dim)
    if plan is not None and plan.kind != "exact" and place.local is not None:
        search.begin(place, plan)


def tidied(place: Storage) -> Manifest | None:
    """Tidy up after a build that was stopped once its manifest was written, if there is one."""
    if not (place.exists(manifest.NAME) and place.exists(NOTES)):
        return None
    built = manifest.read(place)
    tidy(place, built)
    return built


def built_by(place: Storage, plan: str | None = None) -> Manifest | None:
    """The index that a build has finished, if there is one.

    Args:
        place: the storage of the index.
        plan: the plan of the build; None: any plan, if the search is not derived yet.
    """
    if not place.exists(manifest.NAME):
        return None
    try:
        built = manifest.read(place)
        if plan is None:
            return None if search.is_finished(place, built) else built
    except IndexMismatch:
        return None  # a damaged one cannot be continued
    return built if built.plan == plan else None


def forget(place: Storage, built: Manifest) -> None:
    """Remove the shards that a manifest does not name, and unfinished ones."""
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
        new.remove("")  # another build left it, and never put it in place
        return None
    place.replace_with(new)
    return built
