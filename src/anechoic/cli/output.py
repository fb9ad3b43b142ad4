"""What the commands print: tables, progress bars, numbers with their nouns."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from anechoic.errors import printable

if TYPE_CHECKING:
    from rich.progress import Progress


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


@contextmanager
def progress_of(what: str, total: int | None = None) -> Iterator[Callable[[int, int | None], None]]:
    """The bar of one task, drawn by a function of how many are done, and of how many."""
    with progress_bar() as bar:
        task = bar.add_task(what, total=total)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def say(*lines: str, error: bool = False) -> None:
    """Print lines, on stderr if it is an `error`; no name or caption breaks or commands them."""
    for line in lines:
        print(one_line(line), file=sys.stderr if error else sys.stdout)


def one_line(text: str) -> str:
    """Text that stays in its line, and that a terminal does not obey."""
    return " ".join(printable(text).splitlines())


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout; long cells are folded, never cut, and no cell is read as markup."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(one_line(cell)) for cell in row))
    Console().print(table)


def count(number: int, noun: str) -> str:
    """A number with its noun: "1 clip", "2 clips"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
