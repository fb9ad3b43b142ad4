"""`anechoic index`: ask an index of the training set; what more than one command needs of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anechoic.lazy import uncollected
from anechoic.models import index_folder

if TYPE_CHECKING:
    from rich.progress import Progress

    from anechoic.index import TrainingIndex
    from anechoic.types import Embedder, Match

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
EmbedderName = Annotated[
    str | None,
    typer.Option("--embedder", help="By default the one that built the index; another is refused."),
]


def register(app: typer.Typer) -> None:
    """Add `anechoic index`."""
    from anechoic.cli import index_build, index_edit

    commands = typer.Typer(
        no_args_is_help=True, help="Build and search an index of training clips."
    )
    for file in (index_build, index_edit):
        file.register(commands)
    commands.command()(search)
    app.add_typer(commands, name="index")


def open_index(name: str, embedder_name: str | None = None) -> tuple[TrainingIndex, Embedder]:
    """An index and its embedder.

    Args:
        name: a folder, or a model that an installed package registers with its index.
        embedder_name: the embedder to use, by default the one that the index names.

    Raises:
        IndexMismatch: no index, or one that another embedder built.
        UnknownEmbedder: the embedder is not to be had.
    """
    with uncollected():
        from anechoic.embedders import embedder
        from anechoic.index import TrainingIndex

    index = TrainingIndex.load(index_folder(name))
    made = embedder(embedder_name or index.embedder_name)
    index.check_embedder(made)
    return index, made


def progress_bar() -> Progress:
    """A bar on stderr with the number of clips, the rate and the time left."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
    )
    from rich.progress import TimeRemainingColumn as TimeLeft
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:.3g}/s", style="progress.data.speed")

    counted = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*counted, Rate(), TimeLeft(), console=Console(stderr=True))


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


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout; long cells are folded, never cut, and captions are no markup."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def search(
    index: Annotated[str, typer.Argument(metavar="INDEX", help="Folder of an index, or demo.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Sound file.")],
    k: Annotated[int, typer.Option("-k", help="How many neighbours.")] = 5,
    embedder_name: EmbedderName = None,
    as_json: Json = False,
) -> None:
    """Show the training clips that come nearest to any stretch of a sound file.

    Example: `anechoic index search clips.index take.wav -k 3`
    """
    from anechoic import audio
    from anechoic.detectors import locate

    wav, sample_rate = audio.read(file)
    store, embed = open_index(index, embedder_name)
    matches = locate(wav, sample_rate, store, embed, k)
    if as_json:
        print(json.dumps([describe(store, match) for match in matches], indent=2))
        return
    rows = []
    for rank, match in enumerate(matches, 1):
        clip = match.clip_in(store.clips)
        where = (f"{match.start_s:.2f}", f"{clip.start_s:.2f}")
        rows.append(
            (f"{rank}", f"{match.score:.3f}", clip.caption, clip.id, clip.path or "", *where)
        )
    print_table(("rank", "score", "caption", "clip", "file", "at s", "in clip s"), rows)
