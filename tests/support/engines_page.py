"""docs/reference/engines.md: what runs under a guard, on every engine, version and sampler.

The page has one table. The tests of each engine run its rows, and write them again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anechoic.errors import AnechoicError
from anechoic.guidance.base import as_guidance
from anechoic.guidance.step import Guided, Step
from support.methods import DISSIMILARITY, METHODS, method

PAGE = Path(__file__).parents[2] / "docs/reference/engines.md"
START, END = "<!-- engines -->", "<!-- /engines -->"
HEAD = (
    "| engine | version | model | sampler | methods that work | moves the latents |",
    "|---|---|---|---|---|---|",
)
ENGINES = ("diffusers", "stable-audio-tools", "ComfyUI")
EVERY = (*METHODS, DISSIMILARITY)


@dataclass(frozen=True)
class Place:
    """Where methods run."""

    engine: str
    version: str
    model: str
    sampler: str

    @property
    def start(self) -> str:
        """How its row begins."""
        return f"| {self.engine} | {self.version} | {self.model} | `{self.sampler}` |"


def row(place: Place, generate: Callable[[Any], Tensor], images: bool = False) -> str:
    """The row of a place: every method acts on it, or is refused in a sentence.

    Args:
        place: the place.
        generate: what is made under a guidance; None: without a guard.
        images: whether it makes images.
    """
    plain, refused = generate(None), []
    for name in EVERY:
        try:
            made = generate(method(name, images))
        except AnechoicError:
            refused.append(name)
        else:
            assert torch.isfinite(made).all(), (place, name)
            assert torch.equal(made, plain) == (name == "cfg"), (place, name)
    try:
        moved = generate(as_guidance(_moves))
    except AnechoicError:
        moves = "refused"
    else:
        assert not torch.equal(moved, plain), place
        moves = "yes"
    works = f"all {len(EVERY)}"
    if refused:
        works = f"{len(EVERY) - len(refused)}, all but {', '.join(f'`{one}`' for one in refused)}"
    return f"{place.start} {works} | {moves} |"


def _moves(step: Step) -> Guided:
    return Guided(7.0, x=step.x + 0.1)


def written(engine: str, version: str | None = None) -> list[str]:
    """The rows of an engine, or of one version of it, as the page has them."""
    start = f"| {engine} |" if version is None else f"| {engine} | {version} |"
    return [line for line in PAGE.read_text().splitlines() if line.startswith(start)]


def write(rows: Sequence[str], engine: str, version: str | None = None) -> None:
    """Put the rows of an engine, or of one version of it, into the page."""
    text = PAGE.read_text()
    before, rest = text.split(START)
    _, after = rest.split(END)
    replaced = written(engine, version)
    others = [line for name in ENGINES for line in written(name) if line not in replaced]
    ordered = sorted([*others, *rows], key=_order)
    lines = "\n".join((*HEAD, *ordered))
    PAGE.write_text(f"{before}{START}\n\n{lines}\n\n{END}{after}")


def _order(line: str) -> tuple[int, str]:
    engine, version = (cell.strip() for cell in line.split("|")[1:3])
    return ENGINES.index(engine), version
