"""`anechoic index`: build, search and edit an index of the training set."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anechoic import engines
from anechoic.cli.options import (
    EmbedderName,
    Json,
    Model,
    OverwriteFiles,
    require_index,
    require_page,
    require_source,
    require_there,
)
from anechoic.cli.output import count, print_json, print_table, progress_bar, progress_of, say
from anechoic.cli.training import open_index
from anechoic.errors import BadSetting, OutputExists
from anechoic.lazy import uncollected
from anechoic.models import index_folder

if TYPE_CHECKING:
    from anechoic.index import TrainingIndex
    from anechoic.index.build import Run, Work
    from anechoic.index.duplicates import Cluster
    from anechoic.index.embedding import Windows
    from anechoic.index.manifest import About, Manifest
    from anechoic.index.plan import Plan
    from anechoic.index.sources.protocol import Source
    from anechoic.types import Match


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
        help="For a folder: CSV, JSONL or Parquet with the columns file_name and caption. "
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
IndexFolder = Annotated[str, typer.Argument(metavar="INDEX", help="Folder of an index.")]
IndexName = Annotated[str, typer.Argument(metavar="INDEX", help="Folder of an index, or demo.")]


def register(app: typer.Typer) -> None:
    """Add `anechoic index`."""
    commands = typer.Typer(
        no_args_is_help=True, help="Build and search an index of training clips."
    )
    for command in (
        build, optimise, latents, add, remove, cover, duplicates, info, fetch, search
    ):  # fmt: skip
        commands.command()(command)
    app.add_typer(commands, name="index")


def build(
    clips: Clips,
    output: Annotated[str, typer.Option("--output", "-o", help="Folder to write, or a URL.")],
    captions: Captions = None,
    embedder_name: Annotated[
        str | None,
        typer.Option(
            "--embedder",
            help="magmel, clap, clap:FOLDER, ... By default magmel, as long as suits the clips.",
        ),
    ] = None,
    window: Annotated[
        float | None,
        typer.Option(
            help="Index windows of so many seconds, not whole clips: the default for clips of more "
            "than 10 s."
        ),
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
    lora: Annotated[
        Path | None, typer.Option(help="The LoRA that was trained on the clips, a file or folder.")
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
    require_source(clips)
    from anechoic.index.build import build as build_index
    from anechoic.index.embedding import Windows
    from anechoic.index.ending import built_by, require_free
    from anechoic.index.sources.opening import open_source
    from anechoic.storage import Storage

    trained = _trained_on(model, lora)
    if built_by(place := Storage(output)) is None:
        require_free(place, overwrite)
    source = open_source(clips, captions)
    made = Made.of(source, embedder_name, Windows(window, hop))
    about = made.about(source, centre, trained)
    dtype = "float16" if half else "float32"
    with progress_of("embedding", source.total) as progress:
        built = build_index(
            source,
            made.work(output, dtype, shard, device),
            about,
            overwrite=overwrite,
            run=run_of(engine, workers, cpus, device),
            progress=progress,
            search_by=partial(plan_of, search, memory),
        )
    derive(output, built, search, memory, engine)
    say(f"{output}: {count(built.rows, 'row')} of {built.dim} by '{about.embedder_name}'")


def optimise(
    index: IndexFolder,
    search: Search = Kind.auto,
    memory: Memory = None,
    engine: EngineName = engines.LOCAL,
) -> None:
    """Make the search of an index again: after it was lost, or with other settings.

    It is derived from the shards and holds nothing of its own.

    Example: `anechoic index optimise clips.index --search ivfpq --memory 0.5`
    """
    require_index(index)
    from anechoic.index import edit

    built = edit.settle(index)
    say(f"{index}: {derive(index, built, search, memory, engine)}")


def latents(
    index: IndexFolder,
    clips: Clips,
    model: Model,
    captions: Captions = None,
    device: Device = "cpu",
) -> None:
    """Store the clips of an index as latents of a model, which repellency keeps away from.

    Give the clips that the index was built from. Stop it when you like and run it again. Clips that
    are removed from the index are removed here too; if some are added, run it again.

    Example: `anechoic index latents clips.index clips --model stabilityai/stable-audio-open-1.0`
    """
    require_index(index)
    require_source(clips)
    from anechoic.diffusers.latents import LatentEncoder
    from anechoic.diffusers.loading import load_pipeline
    from anechoic.index import manifest
    from anechoic.index.build import Work
    from anechoic.index.build import build as build_index
    from anechoic.index.embedding import Windows
    from anechoic.index.latents import LatentEmbedder, require_same_clips
    from anechoic.index.manifest import About
    from anechoic.index.sources.opening import open_source
    from anechoic.storage import Storage

    place, source = Storage(index), open_source(clips, captions)
    indexed, folder = manifest.read(place), f"{index}/{manifest.LATENTS}"
    pipe = load_pipeline(model, device)
    encode = LatentEncoder(pipe)
    name, rate, seconds, codec = (
        f"latents:{model}",
        encode.sample_rate,
        encode.seconds,
        encode.codec,
    )
    windows = Windows(seconds, seconds / 2)
    about = About(name, rate, False, seconds, seconds / 2, codec, None, {}, source.clips_folder)

    def embedder() -> LatentEmbedder:
        return LatentEmbedder(name, encode, rate, seconds, codec)

    with place.alone():
        with progress_of("encoding", source.total) as progress:
            built = build_index(
                source,
                Work(folder, embedder, windows, "float16"),
                about,
                overwrite=True,
                progress=progress,
                search_by=partial(plan_of, Kind.auto, None),
            )
        require_same_clips(place, indexed, Storage(folder), built)
        derive(folder, built, Kind.auto, None)
    say(f"{folder}: {count(built.rows, 'latent')} of {built.dim - 2} numbers by codec '{codec}'")


def add(
    index: IndexFolder,
    clips: Clips,
    captions: Captions = None,
    embedder_name: EmbedderName = None,
    engine: EngineName = engines.LOCAL,
    workers: Workers = None,
) -> None:
    """Add training clips to an index; they are embedded as those that are there.

    Example: `anechoic index add clips.index more-clips --captions more.csv`
    """
    require_index(index)
    require_source(clips)
    from anechoic.errors import IndexMismatch
    from anechoic.index import edit, manifest
    from anechoic.index.embedding import Windows
    from anechoic.index.sources.opening import open_source
    from anechoic.storage import Storage

    old = manifest.read(Storage(index))
    had_latents = Storage(index).exists(manifest.LATENTS)
    source = open_source(clips, captions)
    windows = Windows(old.about.window_s, old.about.hop_s)
    name = embedder_name or old.about.embedder_name
    made = Made.of(source, name, windows, trusted=embedder_name is not None)
    if made.name.partition(":")[0] != old.about.embedder_name.partition(":")[0] or (
        made.name != old.about.embedder_name and old.about.revision is None
    ):
        raise IndexMismatch(
            f"index '{index}' was built with '{old.about.embedder_name}', and '{made.name}' was "
            "given; leave out '--embedder'"
        )
    if made.dim_known and made.revision != old.about.revision:
        raise IndexMismatch(
            f"index '{index}' was built with revision {old.about.revision} of "
            f"'{old.about.embedder_name}', and revision {made.revision} is here; use that one"
        )
    with progress_of("embedding", source.total) as progress:
        built = edit.add(
            index,
            source,
            lambda folder: made.work(folder, old.dtype, None),
            run=run_of(engine, workers),
            progress=progress,
        )
    say(f"{index}: {count(built.rows - old.rows, 'row')} added, {built.rows} in all")
    if had_latents:
        say(f"its latents are removed; store them again with 'anechoic index latents {index}'")


def remove(
    index: IndexFolder,
    ids: Annotated[list[str] | None, typer.Option("--id", help="Id of a clip; repeatable.")] = None,
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
    require_index(index)
    require_there(ids_file)
    from anechoic.index import edit
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

    if dry_run:
        there = edit.matching(index, leaves)
        edit.require_found(index, sorted(unwanted - set(there)))
        if not there:
            raise BadSetting(f"index '{index}' has no such clips; nothing was withdrawn")
        say(f"{index}: {count(len(there), 'clip')} would be withdrawn", *there)
        return
    with progress_of("looking through") as progress:
        built, gone = edit.remove(index, leaves, progress, unwanted)
    if not gone:
        raise BadSetting(f"index '{index}' has no such clips; nothing was withdrawn")
    say(f"{index}: {count(len(gone), 'clip')} withdrawn, {count(built.rows, 'row')} left")


def cover(
    index: IndexFolder,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Its fingerprint, as the refusal of a guard names it."
        ),
    ],
) -> None:
    """State that an index covers another model, such as the same one with a LoRA.

    A guard refuses a model that the index does not name. Only say this of a model that was trained
    on these clips, or made of one that was: a guard keeps away from no others.

    Example: `anechoic index cover clips.index 2f6c01d3a9b4e875`
    """
    require_index(index)
    from anechoic.index import edit

    about = edit.cover(index, model).about
    say(f"{index}: the training clips of {', '.join(map(repr, (about.model, *about.covers)))}")


def duplicates(
    index: IndexName,
    above: Annotated[
        float | None,
        typer.Option(help="Cosine that joins two clips; by default the index's threshold or 0.95."),
    ] = None,
    limit: Annotated[int, typer.Option(help="Show so many clusters; 0: all.")] = 20,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Page to listen to them, .html, with what else is memorized."
        ),
    ] = None,
    melody: Annotated[
        bool,
        typer.Option(
            "--melody",
            help="On the page also clips at another pitch or tempo. The index needs a calibration "
            "of the detector transposed.",
        ),
    ] = False,
    cleaned: Annotated[
        Path | None,
        typer.Option(
            "--manifest",
            help="Folder to write what to train on: for stable-audio-tools, WebDataset and an "
            "audiofolder. Nothing is deleted.",
        ),
    ] = None,
    overwrite: OverwriteFiles = False,
    as_json: Json = False,
) -> None:
    """List clips that stand in the training set more than once: what gets memorized first.

    Example: `anechoic index duplicates clips.index --above 0.98`

    `anechoic index duplicates clips.index -o duplicates.html --manifest cleaned`
    """
    require_index(index)
    if melody and output is None:
        raise BadSetting("'--melody' is shown on the page; name it with '-o PAGE.html'")
    if output is not None:
        require_page(output, overwrite)
    if cleaned is not None and cleaned.exists() and not overwrite:
        raise OutputExists.at(cleaned)
    from anechoic.index import TrainingIndex
    from anechoic.index.duplicates import duplicates as find

    store = TrainingIndex.load(index_folder(index))
    with progress_of("comparing", len(store)) as progress:
        found = find(store, above, progress)
    if output is not None:
        _write_page(index, store, found, melody, output)
    if cleaned is not None:
        from anechoic.training import CleanedSet

        CleanedSet.of(store, found).write(cleaned, overwrite=overwrite)
    shown = found[: limit or None]
    if as_json:
        clusters = [
            {**asdict(cluster), "exact": cluster.exact, "captions": cluster.captions}
            for cluster in shown
        ]
        print_json({"clusters": len(found), "shown": clusters})
        return
    involved = sum(len(cluster.clips) for cluster in found)
    counted, them = count(len(found), "cluster"), "it" if len(found) == 1 else "them"
    say(f"{index}: {counted} of duplicates, {involved} clips in {them}")
    rows = []
    for cluster in shown:
        captions = "; ".join(cluster.captions[:3]) + ("; ..." if len(cluster.captions) > 3 else "")
        names = ", ".join(clip.id for clip in cluster.clips[:4])
        names += f" and {len(cluster.clips) - 4} more" if len(cluster.clips) > 4 else ""
        kind = "exact" if cluster.exact else f"{cluster.farthest:.3f} to {cluster.nearest:.3f}"
        rows.append((f"{len(cluster.clips)}", kind, captions, names))
    if rows:
        print_table(("clips", "cosine", "captions", "which"), rows, ("captions", "which"))
    if len(found) > len(shown):
        say(f"and {len(found) - len(shown)} more clusters ('--limit 0' shows all)")
    for path in (output, cleaned):
        if path is not None:
            say(f"written: {path}")


def _write_page(
    index: str, store: TrainingIndex, found: Sequence[Cluster], melody: bool, output: Path
) -> None:
    """The page of duplicates.

    Raises:
        BadSetting: melodies are asked for, and nothing says how alike is alike.
    """
    from anechoic.audit import TrainingSet
    from anechoic.audit.html.duplicates import render_duplicates
    from anechoic.audit.melody import same_melody
    from anechoic.detectors import calibration
    from anechoic.detectors.transposed import Transposed
    from anechoic.index.duplicates import ranked
    from anechoic.models import find
    from anechoic.storage import write_whole

    model = find(index)
    if model.index is not None:
        store.name = model.name  # not that of the folder it ships in
    training = TrainingSet(store, model.sound)
    melodies, lost = None, list[str]()
    if melody:
        known = calibration.read(index_folder(index)).get(Transposed.name)
        if known is None:
            raise BadSetting(
                f"index '{index}' has no calibration of 'transposed', so nothing says how alike is "
                "alike; make it with 'anechoic calibrate FOLDER --detector transposed'"
            )
        clusters = {clip.id: number for number, one in enumerate(found) for clip in one.clips}
        of = [clusters.get(clip.id) for clip in training.clips]
        with progress_of("comparing melodies") as progress:
            melodies, lost = same_melody(
                training, known, lambda a, b: of[a] is None or of[a] != of[b], progress
            )
    page = render_duplicates(
        training, found, ranked(store, found), melodies, lost,
        shlex.join(["anechoic", *sys.argv[1:]]),
    )  # fmt: skip
    output.parent.mkdir(parents=True, exist_ok=True)
    write_whole(output, page.encode())


def info(
    index: IndexName,
    check: Annotated[
        bool, typer.Option("--check", help="Compare every file with its hash; takes long.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Tell what an index holds, and how it is searched.

    Example: `anechoic index info clips.index --check`
    """
    require_index(index)
    with uncollected():
        from anechoic.detectors import calibration
        from anechoic.index import manifest, search, shards
        from anechoic.storage import Storage

    place = Storage(index_folder(index))
    built = manifest.read(place)
    if check:
        with progress_bar() as bar:
            for shard in bar.track(built.shards, description="checking"):
                shards.read_table(place, shard)
        if place.local is not None:
            search.open_search(place.local, built, whole=True)
        calibration.read(place.name, needed=False)
    plan = search.plan_of(place.local) if place.local else None
    facts = {
        **asdict(built.about),
        "rows": built.rows,
        "clips": built.clips,
        "dim": built.dim,
        "dtype": built.dtype,
        "shards": len(built.shards),
        "bytes": sum(shard.bytes for shard in built.shards),
        "content": built.content,
        "search": search.format_plan(plan),
    }
    if as_json:
        print_json(facts)
        return
    print_table(("", index), [(name, str(value)) for name, value in facts.items()])


def fetch(
    index: Annotated[str, typer.Argument(metavar="URL", help="URL of an index, as s3://bucket/i.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")],
) -> None:
    """Copy an index to this machine, and make its search; a stopped copy goes on.

    Example: `anechoic index fetch s3://bucket/clips.index -o clips.index`
    """
    require_index(index)
    from anechoic.index import edit

    with progress_of("fetching") as progress:
        built = edit.fetch(index, output, progress, partial(plan_of, Kind.auto, None))
    say(f"{output}: {count(built.rows, 'row')}, {derive(str(output), built, Kind.auto, None)}")


def search(
    index: IndexName,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Sound file.")],
    k: Annotated[int, typer.Option("-k", help="How many neighbours.")] = 5,
    embedder_name: EmbedderName = None,
    as_json: Json = False,
) -> None:
    """Show the training clips that come nearest to any stretch of a sound file.

    Example: `anechoic index search clips.index take.wav -k 3`
    """
    require_there(file)
    require_index(index)
    from anechoic import audio
    from anechoic.detectors import locate

    wav, sample_rate = audio.read(file)
    store, embed = open_index(index, embedder_name)
    matches = locate(wav, sample_rate, store, embed, k)
    if as_json:
        print_json([describe(store, match) for match in matches])
        return
    rows = []
    for rank, match in enumerate(matches, 1):
        clip = match.clip_in(store.clips)
        where = (f"{match.start_s:.2f}", f"{clip.start_s:.2f}")
        rows.append(
            (f"{rank}", f"{match.score:.3f}", *where, clip.id, clip.path or "", clip.caption)
        )
    print_table(("rank", "score", "at s", "in clip s", "clip", "file", "caption"), rows)


def describe(index: TrainingIndex, match: Match) -> dict[str, Any]:
    """A match as JSON tells it: times in seconds, the clip with all that is known of it."""
    assert match.row is not None  # `locate` tells it
    clip = index.clips[match.row]
    file = index.file(match.row)
    return {
        "score": match.score,
        "start_s": match.start_s,
        "seconds": match.length_s,
        "resolution_s": match.resolution_s,
        "clip": {**asdict(clip), "row": match.row, "path": None if file is None else str(file)},
    }


# ------------------------------------------------------------ what the commands share


def _trained_on(model: str | None, lora: Path | None) -> str | None:
    """The name of the model, or the fingerprint of the adapter, whose clips are indexed."""
    if lora is None:
        return model
    if model is not None:
        raise BadSetting("'--model' and '--lora' both say whose clips these are; give one")
    from anechoic.diffusers.lora_files import read_adapter

    return read_adapter(lora).fingerprint


@dataclass(frozen=True)
class Made:
    """The embedder of an index, or its name alone where the embeddings were made elsewhere."""

    name: str
    dim_known: bool
    sample_rate: int | None
    revision: str | None
    make: Callable[[], Any]
    windows: Windows

    @classmethod
    def of(
        cls, source: Source, name: str | None, windows: Windows, *, trusted: bool = True
    ) -> Made:
        """The embedder that was asked for, that the source names, or that suits its clips."""
        from anechoic.embedders import embedder
        from anechoic.index.embedding import suitable
        from anechoic.index.sources.protocol import VectorUnit

        ready = any(isinstance(unit, VectorUnit) for unit in source.units()[:1])
        if ready and (named := name or source.embedder_name):
            return cls(named, False, None, None, partial(embedder, named), windows)
        if ready:
            raise BadSetting(
                f"'{source.name}' does not tell what made its embeddings; name it ('--embedder "
                "clap')"
            )
        given, chosen = windows, name
        if chosen is None:
            chosen, windows = suitable(source, given)
        made = embedder(chosen, trusted=trusted)
        if name is None and (windows != given or chosen != "magmel"):
            cut = f", windows of {windows.window_s:g} s" if windows.window_s else ", whole clips"
            typer.echo(
                f"embedding with '{made.name}'{cut}, which suits the lengths of the clips", err=True
            )
        revision = getattr(made, "revision", None)
        return cls(made.name, True, made.sample_rate, revision, partial(embedder, chosen), windows)

    def about(self, source: Source, centre: bool, model: str | None) -> About:
        """What the manifest says."""
        from anechoic.index.manifest import About

        return About(
            self.name, self.sample_rate, centre, self.windows.window_s, self.windows.hop_s,
            self.revision, model, {}, source.clips_folder,
        )  # fmt: skip

    def work(self, folder: str, dtype: Any, shard: int | None, device: str = "cpu") -> Work:
        """What is done with each unit."""
        from anechoic.index.build import Work

        return Work(folder, self.make, self.windows, dtype, shard, device)


def run_of(engine: str, workers: int | None, cpus: int = 1, device: str = "cpu") -> Run | None:
    """What does the units; None: this process."""
    many = engines.find(engine)
    if many is None:
        from anechoic.diffusers.loading import usable_device

        usable_device(device)
        return None
    run: Run = many.builder(workers, cpus=cpus, gpus=0 if device == "cpu" else 1)
    return run


def plan_of(search: Kind, memory_gib: float | None, rows: int, dim: int) -> Plan:
    """How an index of so many rows will be searched."""
    from anechoic.index import structure

    if memory_gib is not None and not 0 < memory_gib < 2**20:
        raise BadSetting(f"expected '--memory' as a number of GiB above 0, got {memory_gib:g}")
    memory = None if memory_gib is None else round(memory_gib * 2**30)
    return structure.plan(rows, dim, memory, search.value)


def derive(
    folder: str,
    built: Manifest,
    search: Kind,
    memory_gib: float | None,
    engine: str = engines.LOCAL,
) -> str:
    """Make the search of an index that lies on this machine; the answer tells how it searches."""
    from anechoic.index.search import derive as derive_search
    from anechoic.index.search import format_plan
    from anechoic.storage import Storage

    local = Storage(folder).local
    plan = plan_of(search, memory_gib, built.rows, built.dim)
    if local is None:
        return "not on this machine, so it has no search of its own"
    with progress_bar() as bar:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)

        many = engines.find(engine)
        how = {} if many is None else {"encode": many.encode}
        derive_search(local, built, plan, progress=show, **how)
    return format_plan(plan)
