"""`anechoic index`: what is in an index, what stands in it twice, and what is to leave it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anechoic.cli.index import Json, print_table, progress_bar
from anechoic.cli.index_build import (
    Captions,
    Clips,
    EngineName,
    Kind,
    Made,
    Workers,
    derive,
    run_of,
)
from anechoic.engines import LOCAL
from anechoic.lazy import uncollected
from anechoic.models import index_folder

if TYPE_CHECKING:
    from anechoic.index.manifest import Manifest

IndexFolder = Annotated[str, typer.Argument(metavar="INDEX", help="Folder of an index.")]


def register(commands: typer.Typer) -> None:
    """Add the commands."""
    for command in (add, remove, duplicates, info, fetch):
        commands.command()(command)


def add(
    index: IndexFolder,
    clips: Clips,
    captions: Captions = None,
    engine: EngineName = LOCAL,
    workers: Workers = None,
) -> None:
    """Add training clips to an index; they are embedded as those that are there.

    Example: `anechoic index add clips.index more-clips --captions more.csv`
    """
    from anechoic.errors import IndexMismatch
    from anechoic.index import edit, manifest
    from anechoic.index.embedding import Windows
    from anechoic.index.sources.opening import open_source
    from anechoic.storage import Storage

    old = manifest.read(Storage(index))
    source = open_source(clips, captions)
    made = Made.of(source, old.about.embedder_name)
    if made.dim_known and made.revision != old.about.revision:
        raise IndexMismatch(
            f"index '{index}' was built with revision {old.about.revision} of "
            f"'{old.about.embedder_name}', and revision {made.revision} is here; use that one"
        )
    windows = Windows(old.about.window_s, old.about.hop_s)
    with progress_bar() as bar:
        task = bar.add_task("embedding", total=source.total)
        built = edit.add(
            index,
            source,
            lambda folder: made.work(folder, windows, old.dtype, None),
            run=run_of(engine, workers),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    _derive_again(index, built)
    print(f"{index}: {_count(built.rows - old.rows, 'row')} added, {built.rows} in all")


def remove(
    index: IndexFolder,
    ids: Annotated[
        list[str] | None, typer.Option("--id", help="Of a clip; may be given again.")
    ] = None,
    ids_file: Annotated[
        Path | None, typer.Option("--ids", help="File with an id on each line.")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE: clips of which this is known, as in licence=CC-BY-4.0."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell which.")] = False,
) -> None:
    """Withdraw clips from an index, as when a rights holder asks for it.

    Their captions and embeddings are gone from the index's files afterwards.

    Example: `anechoic index remove clips.index --id clip17.wav --where artist="A. Name"`
    """
    from anechoic.errors import BadSetting
    from anechoic.index import TrainingIndex, edit
    from anechoic.index.clips import Clip

    unwanted = set(ids or ())
    if ids_file is not None:
        unwanted |= {line.strip() for line in ids_file.read_text("utf-8").splitlines()} - {""}
    known = [pair.partition("=") for pair in where or ()]
    if bad := [name for name, equals, _ in known if not equals]:
        raise BadSetting(f"NAME=VALUE was expected after --where, got '{bad[0]}'")
    if not unwanted and not known:
        raise BadSetting("say which clips: '--id ID', '--ids FILE' or '--where NAME=VALUE'")

    def leaves(clip: Clip) -> bool:
        return clip.id in unwanted or any(clip.info.get(name) == value for name, _, value in known)

    there = {clip.id: None for clip in TrainingIndex.load(index).clips if leaves(clip)}
    if missing := sorted(unwanted - there.keys()):
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise BadSetting(f"index '{index}' has no clips {', '.join(missing[:3])}{more}; nothing "
                         "was withdrawn")  # fmt: skip
    if not there:
        raise BadSetting(f"index '{index}' has no such clips; nothing was withdrawn")
    if dry_run:
        print(f"{index}: {_count(len(there), 'clip')} would be withdrawn", *there, sep="\n")
        return
    with progress_bar() as bar:
        task = bar.add_task("looking through", total=None)
        built, gone = edit.remove(
            index, leaves, lambda done, total: bar.update(task, completed=done, total=total)
        )
    _derive_again(index, built)
    print(f"{index}: {_count(len(gone), 'clip')} withdrawn, {_count(built.rows, 'row')} left")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _derive_again(folder: str, built: Manifest) -> None:
    """Make the search again of an index that had one, in the structure that was trained."""
    from anechoic.index import search
    from anechoic.storage import Storage

    local = Storage(folder).local
    if local is not None and (plan := search.plan_of(local)):
        search.derive(local, built, plan)
    else:
        derive(folder, built, Kind.auto, None)


def duplicates(
    index: Annotated[str, typer.Argument(metavar="INDEX", help="Folder of an index, or demo.")],
    above: Annotated[
        float | None,
        typer.Option(help="Cosine that joins two clips; by default the index's threshold or 0.95."),
    ] = None,
    limit: Annotated[int, typer.Option(help="Show so many clusters; 0: all.")] = 20,
    as_json: Json = False,
) -> None:
    """List clips that stand in the training set more than once: what gets memorized first.

    Example: `anechoic index duplicates clips.index --above 0.98`
    """
    from anechoic.index import TrainingIndex
    from anechoic.index.duplicates import duplicates as find

    store = TrainingIndex.load(index_folder(index))
    with progress_bar() as bar:
        task = bar.add_task("comparing", total=len(store))
        found = find(store, above, lambda done, total: bar.update(task, completed=done))
    shown = found[: limit or None]
    if as_json:
        told = [
            {**asdict(cluster), "exact": cluster.exact, "captions": cluster.captions}
            for cluster in shown
        ]
        print(json.dumps({"clusters": len(found), "shown": told}, indent=2))
        return
    involved = sum(len(cluster.clips) for cluster in found)
    clusters, them = _count(len(found), "cluster"), "it" if len(found) == 1 else "them"
    print(f"{index}: {clusters} of duplicates, {involved} clips in {them}")
    rows = []
    for cluster in shown:
        captions = "; ".join(cluster.captions[:3]) + ("; ..." if len(cluster.captions) > 3 else "")
        names = ", ".join(clip.id for clip in cluster.clips[:4])
        names += f" and {len(cluster.clips) - 4} more" if len(cluster.clips) > 4 else ""
        kind = "exact" if cluster.exact else f"{cluster.farthest:.3f} to {cluster.nearest:.3f}"
        rows.append((f"{len(cluster.clips)}", kind, captions, names))
    if rows:
        print_table(("clips", "cosine", "captions", "which"), rows)
    if len(found) > len(shown):
        print(f"and {len(found) - len(shown)} more clusters ('--limit 0' shows all)")


def info(
    index: Annotated[str, typer.Argument(metavar="INDEX", help="Folder of an index, or demo.")],
    check: Annotated[
        bool, typer.Option("--check", help="Compare every file with its hash; takes long.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Tell what an index holds, and how it is searched.

    Example: `anechoic index info clips.index --check`
    """
    with uncollected():
        from anechoic.index import manifest, search, shards
        from anechoic.storage import Storage

    place = Storage(index_folder(index))
    built = manifest.read(place)
    if check:
        with progress_bar() as bar:
            for shard in bar.track(built.shards, description="checking"):
                shards.read_table(place, shard)
    plan = search.plan_of(place.local) if place.local else None
    told = {
        **asdict(built.about),
        "rows": built.rows,
        "clips": built.clips,
        "dim": built.dim,
        "dtype": built.dtype,
        "shards": len(built.shards),
        "bytes": sum(shard.bytes for shard in built.shards),
        "content": built.content,
        "search": search.told(plan),
    }
    if as_json:
        print(json.dumps(told, indent=2))
        return
    print_table(("", index), [(name, str(value)) for name, value in told.items()])


def fetch(
    index: Annotated[str, typer.Argument(metavar="URL", help="Of an index, as s3://bucket/i.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")],
) -> None:
    """Copy an index to this machine, and make its search; a stopped copy goes on.

    Example: `anechoic index fetch s3://bucket/clips.index -o clips.index`
    """
    from anechoic.index import edit

    with progress_bar() as bar:
        task = bar.add_task("fetching", total=None)
        built = edit.fetch(
            index, output, lambda done, total: bar.update(task, completed=done, total=total)
        )
    print(f"{output}: {_count(built.rows, 'row')}, {derive(str(output), built, Kind.auto, None)}")
