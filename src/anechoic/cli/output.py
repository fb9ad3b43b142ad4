"""What the commands print: tables, progress bars, JSON, numbers with their nouns."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anechoic.errors import printable

if TYPE_CHECKING:
    from rich.progress import Progress

TEXT = 24  # characters that a column of free text is given at least, if it has so many
QUIET = "ANECHOIC_QUIET"  # the variable of the environment that `--quiet` sets
SILENT = {  # what each library reads as it is imported, in this process and in those it starts
    QUIET: "1",
    "NO_COLOR": "1",
    "PYTHONWARNINGS": "ignore",
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "DIFFUSERS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}


@contextmanager
def quietly() -> Iterator[None]:
    """No bar, colour or warning inside the block: only the result, and errors."""
    before = {name: os.environ.get(name) for name in SILENT}
    disabled = logging.root.manager.disable
    os.environ.update(SILENT)
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def progress_bar(*fields: str) -> Progress:
    """A bar on stderr with the number of clips, the rate and the time left.

    Args:
        fields: what the task itself tells in place of the time left, as `left`.
    """
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
            shown = "" if speed is None else f"{speed:,.0f}/s" if speed >= 100 else f"{speed:.3g}/s"
            return Text(shown, style="progress.data.speed")

    counted = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate())
    told: list[ProgressColumn] = [TextColumn(f"{{task.fields[{name}]}}") for name in fields]
    console = Console(stderr=True, quiet=os.environ.get(QUIET) == "1")
    return Progress(*counted, *(told or [TimeLeft()]), console=console)


@contextmanager
def progress_of(what: str, total: int | None = None) -> Iterator[Callable[[int, int | None], None]]:
    """The bar of one task, drawn by a function of how many are done, and of how many."""
    with progress_bar() as bar:
        task = bar.add_task(what, total=total)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def numbered(output: Path, count: int) -> list[Path]:
    """What stands for an output of which there are several.

    >>> [str(one) for one in numbered(Path("out.wav"), 2)]
    ['out-1.wav', 'out-2.wav']
    """
    width = len(str(count))
    numbers = [f"-{i:0{width}}" for i in range(1, count + 1)] if count > 1 else [""]
    return [output.with_name(f"{output.stem}{number}{output.suffix}") for number in numbers]


def say(*lines: str, error: bool = False) -> None:
    """Print lines, on stderr if it is an `error`; no name or caption breaks or commands them."""
    for line in lines:
        print(one_line(line), file=sys.stderr if error else sys.stdout)


def print_json(content: Any) -> None:
    """Print what `--json` promises: JSON by the command's schema (`anechoic schema`).

    JSON has no NaN and no infinity: they are null. A setting that it has no type for is text.
    """
    text = json.dumps(content, default=str)
    plain = json.loads(text, parse_constant=lambda constant: None)
    print(json.dumps(plain, indent=2))


def one_line(text: str) -> str:
    """Text that stays in its line, and that a terminal does not obey."""
    return " ".join(printable(text).splitlines())


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], text: Sequence[str] | None = None
) -> None:
    """A table on stdout; no cell is cut, or read as markup.

    The columns named in `text`, by default the last, hold free text, which is folded. Where the
    terminal is too narrow for them, they stand on lines of their own, above a row if the first
    column is text, and below it. Names and numbers are not broken: where they take more than the
    terminal is wide, so does the table.
    """
    from rich.box import SIMPLE
    from rich.cells import cell_len
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    text = columns[-1:] if text is None else text
    lines = [[one_line(cell) for cell in row] for row in rows]
    cells = dict(zip(columns, zip(*lines, strict=True), strict=True)) if lines else {}
    width = {name: max(map(cell_len, (name, *cells.get(name, ())))) for name in columns}
    fixed = [name for name in columns if name not in text]
    needed = 1 + sum(3 + width[name] for name in fixed)
    wanted = needed + sum(3 + min(width[name], TEXT) for name in columns if name in text)
    console = Console()
    console.width = max(console.width, needed)
    below = wanted > console.width and bool(fixed)
    table = Table(box=SIMPLE, pad_edge=not below)
    for name in fixed if below else columns:
        table.add_column(
            name, overflow="fold", no_wrap=name not in text, min_width=below * width[name]
        )
    if not below:
        for line in lines:
            table.add_row(*map(Text, line))
        console.print(table)
        return
    for line in lines:
        named = dict(zip(columns, line, strict=True))
        table.add_row(*(Text(named[name]) for name in fixed))
    with console.capture() as captured:
        console.print(table)
    _, *head, body = captured.get().split("\n", 3)
    console.print(Text.from_ansi("\n".join(["", *head])))
    for line, row in zip(lines, body.splitlines(), strict=False):
        named = dict(zip(columns, line, strict=True))
        if columns[0] in text:
            console.print(Text(" " + named.pop(columns[0])))
        console.print(Text.from_ansi(row.rstrip()))
        for name in columns:
            if name in text and named.get(name):
                free = Text(f"{name}: {named[name]}")
                console.print(Padding(free, (0, 0, 0, 4), expand=False))
    console.print()


def count(number: int, noun: str) -> str:
    """A number with its noun: "1 clip", "2 clips"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
