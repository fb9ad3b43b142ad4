"""`anechoic index build` and `optimise`: make an index, and what serves its searches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anechoic import engines
from anechoic.cli.index import progress_bar

if TYPE_CHECKING:
    from anechoic.index.build import Run, Work
    from anechoic.index.manifest import Manifest
    from anechoic.index.sources.protocol import Source


class Kind(StrEnum):
    """How an index is searched."""

    auto = "auto"
    exact = "exact"
    ivfpq = "ivfpq"


Clips = Annotated[
    str,
    typer.Argument(
        metavar="CLIPS",
        help="Folder of sounds with captions; WebDataset tars (a folder, or "
        "'clips-{000..127}.tar'); a saved Hugging Face dataset, or hf:NAME:SPLIT; Parquet of "
        "embeddings; the JSON of AMG-audio.",
    ),
]
Captions = Annotated[
    Path | None,
    typer.Option(
        help="Of a folder: CSV, JSONL or Parquet with the columns file_name and caption. "
        "By default the metadata file in CLIPS.",
    ),
]
EngineName = Annotated[str, typer.Option(help="local, or ray: on all machines of a Ray cluster.")]
Workers = Annotated[
    int | None, typer.Option(help="With ray: how many. By default as many as the cluster holds.")
]
Cpus = Annotated[int, typer.Option(min=1, help="With ray: cores of each worker.")]
Device = Annotated[
    str, typer.Option(help="Where to embed: cuda is a GPU, with ray one for each worker.")
]
Search = Annotated[
    Kind, typer.Option("--search", help="auto: exact for a small set, ivfpq for a large one.")
]
Memory = Annotated[
    float | None, typer.Option("--memory", help="GiB that a search may hold; less is coarser.")
]


def register(commands: typer.Typer) -> None:
    """Add the commands."""
    commands.command("build")(build)
    commands.command("optimise")(optimise)


def build(
    clips: Clips,
    output: Annotated[str, typer.Option("--output", "-o", help="Folder to write, or a URL.")],
    captions: Captions = None,
    embedder_name: Annotated[
        str | None,
        typer.Option("--embedder", help="magmel (the default), clap, clap:FOLDER, ..."),
    ] = None,
    window: Annotated[
        float | None, typer.Option(help="Index windows of so many seconds, not whole clips.")
    ] = None,
    hop: Annotated[
        float | None, typer.Option(help="Seconds from window to window. By default the window.")
    ] = None,
    centre: Annotated[
        bool, typer.Option("--centre/--no-centre", help="Compare with the training mean off.")
    ] = True,
    model: Annotated[
        str | None, typer.Option(help="Name of the model whose training set this is.")
    ] = None,
    half: Annotated[
        bool, typer.Option("--half", help="Store 16-bit embeddings: half the disk, 1e-3 off.")
    ] = False,
    shard: Annotated[
        int | None, typer.Option(help="Clips in a shard; so many are done again after a stop.")
    ] = None,
    search: Search = Kind.auto,
    memory: Memory = None,
    engine: EngineName = engines.LOCAL,
    workers: Workers = None,
    cpus: Cpus = 1,
    device: Device = "cpu",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an index.")] = False,
) -> None:
    """Embed training clips into an index.

    Stop it when you like and run it again: it goes on where it was. A clip that cannot be used
    stops the build: an index is never silently smaller than its source.

    Example: `anechoic index build clips --captions captions.csv -o clips.index`
    """
    from anechoic.index.build import build as build_index
    from anechoic.index.embedding import Windows
    from anechoic.index.ending import require_free
    from anechoic.index.sources.opening import open_source
    from anechoic.storage import Storage

    windows = Windows(window, hop)
    require_free(Storage(output), overwrite)
    source = open_source(clips, captions)
    made = Made.of(source, embedder_name)
    about = made.about(source, windows, centre, model)
    dtype = "float16" if half else "float32"
    with progress_bar() as bar:
        task = bar.add_task("embedding", total=source.total)
        built = build_index(
            source,
            made.work(output, windows, dtype, shard, device),
            about,
            overwrite=overwrite,
            run=run_of(engine, workers, cpus, device),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    derive(output, built, search, memory, engine)
    rows = "rows" if built.rows != 1 else "row"
    print(f"{output}: {built.rows} {rows} of {built.dim} by '{about.embedder_name}'")


def optimise(
    index: Annotated[str, typer.Argument(metavar="INDEX", help="Folder of an index.")],
    search: Search = Kind.auto,
    memory: Memory = None,
    engine: EngineName = engines.LOCAL,
) -> None:
    """Make the search of an index again: after it was lost, or with other settings.

    It is derived from the shards and holds nothing of its own.

    Example: `anechoic index optimise clips.index --search ivfpq --memory 0.5`
    """
    from anechoic.index import manifest
    from anechoic.storage import Storage

    built = manifest.read(Storage(index))
    print(f"{index}: {derive(index, built, search, memory, engine)}")


# ------------------------------------------------------------------- what build and add share


@dataclass(frozen=True)
class Made:
    """The embedder of an index, or its name alone where the embeddings were made elsewhere."""

    name: str
    dim_known: bool
    sample_rate: int | None
    revision: str | None
    make: Callable[[], Any]

    @classmethod
    def of(cls, source: Source, name: str | None) -> Made:
        """The embedder that was asked for, or that the source tells."""
        from anechoic.embedders import embedder
        from anechoic.errors import BadSetting
        from anechoic.index.sources.protocol import VectorUnit

        ready = any(isinstance(unit, VectorUnit) for unit in source.units()[:1])
        if ready and (named := name or source.embedder_name):
            return cls(named, False, None, None, partial(embedder, named))
        if ready:
            raise BadSetting(
                f"'{source.name}' does not tell what made its embeddings; name it ('--embedder "
                "clap')"
            )
        chosen = name or "magmel"
        made = embedder(chosen)
        revision = getattr(made, "revision", None)
        return cls(made.name, True, made.sample_rate, revision, partial(embedder, chosen))

    def about(self, source: Source, windows: Any, centre: bool, model: str | None) -> Any:
        """What the manifest says."""
        from anechoic.index.manifest import About

        return About(
            self.name,
            self.sample_rate,
            centre,
            windows.window_s,
            windows.hop_s,
            self.revision,
            model,
            {},
            source.clips_folder,
        )

    def work(
        self, folder: str, windows: Any, dtype: Any, shard: int | None, device: str = "cpu"
    ) -> Work:
        """What is done with each unit."""
        from anechoic.index.build import Work

        return Work(folder, self.make, windows, dtype, shard, device)


def run_of(engine: str, workers: int | None, cpus: int = 1, device: str = "cpu") -> Run | None:
    """What does the units; None: this process."""
    many = engines.find(engine)
    if many is None:
        from anechoic.diffusers.loading import usable_device

        usable_device(device)
        return None
    return many.builder(workers, cpus=cpus, gpus=0 if device == "cpu" else 1)


def derive(
    folder: str,
    built: Manifest,
    search: Kind,
    memory_gib: float | None,
    engine: str = engines.LOCAL,
) -> str:
    """Make the search of an index that lies on this machine; the answer tells how it searches."""
    from anechoic.index import structure
    from anechoic.index.search import derive as derive_search
    from anechoic.index.search import told as told_of
    from anechoic.storage import Storage

    local = Storage(folder).local
    memory = None if memory_gib is None else round(memory_gib * 2**30)
    plan = structure.plan(built.rows, built.dim, memory, search.value)
    if local is None:
        return "not on this machine, so it has no search of its own"
    with progress_bar() as bar:
        tasks: dict[str, Any] = {}

        def told(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)

        many = engines.find(engine)
        if many is None:
            derive_search(local, built, plan, progress=told)
        else:
            derive_search(local, built, plan, encode=many.encode, progress=told)
    return told_of(plan)
