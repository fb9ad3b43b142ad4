"""One cell of a bench: one method on one batch of prompts of one scenario under one seed.

Finished cells are stored in the work folder (`anechoic.cache`) under a hash of all that determines
them. Their prompts and seeds are checked again when they are read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from anechoic.cache import ResultCache, Untrusted, identity
from anechoic.environment import versions
from anechoic.errors import AnechoicError, BadSetting
from anechoic.guidance import registry
from anechoic_lab.bench.plan import Method
from anechoic_lab.bench.task import BenchPrompt, Request, SampleScore

Kind = Literal["rows", "reference", "baseline"]
FORMAT = 2


@dataclass(frozen=True)
class Trial:
    """The unit of computation and storage."""

    kind: Kind
    scenario: str
    fingerprint: str  # fingerprint of the task in this scenario
    method: Method | None = None  # this and all fields below: only for rows
    seed: int = 0
    prompts: tuple[BenchPrompt, ...] = ()
    steps: int | None = None

    @cached_property
    def identity(self) -> str:
        """A hash of all that determines the result; the name of a method does not."""
        method = self.method and {
            "guard": self.method.guard,
            "settings": {**_defaults(self.method.guard), **self.method.settings},
        }
        about = {
            "format": FORMAT,
            "versions": versions(),
            "method": method,
            "prompts": [asdict(prompt) for prompt in self.prompts],
            **{key: getattr(self, key) for key in ("kind", "scenario", "fingerprint", "seed",
                                                   "steps")},
        }  # fmt: skip
        return identity(about)

    @property
    def request(self) -> Request | None:
        """The request to the task; None except for rows."""
        if self.method is None:
            return None
        return Request(self.scenario, self.prompts, self.seed, self.method, self.steps)

    def __str__(self) -> str:
        if self.method is None:
            return f"the {self.kind} of scenario '{self.scenario}'"
        first, last = self.prompts[0].id, self.prompts[-1].id
        span = f"prompt '{first}'" if first == last else f"prompts '{first}' to '{last}'"
        return f"method '{self.method.name}', scenario '{self.scenario}', seed {self.seed}, {span}"


def _defaults(guard: str) -> dict[str, str]:
    """What a method's class has for the settings that are not given. Of an unknown guard nothing:
    the subject refuses it."""
    try:
        known = registry.settings(registry.method(guard)) if guard else []
    except BadSetting:
        return {}
    return {one.name: str(one.default) for one in known if one.default is not MISSING}


@dataclass(frozen=True)
class Finished:
    """The content of a cell's file."""

    rows: Sequence[SampleScore] = ()
    values: Sequence[Sequence[float]] = ()  # reference embeddings [m, d], or a baseline [n, 1]
    machine: Mapping[str, str] = field(default_factory=dict)  # the machine that computed it


def require_rows(request: Request, rows: Sequence[SampleScore]) -> Sequence[SampleScore]:
    """Check that the rows belong to the prompts and that all their figures are finite.

    Raises:
        AnechoicError: they do not, so the task is at fault.
    """
    if _keys(rows) != request.keys:
        raise AnechoicError(f"expected {len(request.prompts)} rows, in the order of the prompts")
    for row in rows:
        figures = [row.similarity, row.seconds, row.evaluations, *row.scores.values(), *row.quality]
        if not all(map(math.isfinite, figures)) or not math.isfinite(row.adherence or 0.0):
            raise AnechoicError(f"the figures of prompt '{row.prompt}' are not all finite")
    return rows


def cache_of(work: Path) -> ResultCache:
    """The finished cells of a work folder."""
    return ResultCache(work, "bench")


def write(work: Path, cell: Trial, finished: Finished) -> None:
    """Write a cell, whole or not at all."""
    rows = [asdict(row) for row in finished.rows]
    content = {"rows": rows, "values": finished.values, "machine": finished.machine}
    cache_of(work).put(cell.identity, content, str(cell))


def read(work: Path, cell: Trial) -> Finished | str | None:
    """The content of a cell's file; None if there is no file, or why it cannot be trusted."""
    try:
        content = cache_of(work).get(cell.identity)
        if content is None:
            return None
        rows = [SampleScore(**row) for row in content["rows"]]
        finished = Finished(rows, content["values"], content["machine"])
    except Untrusted as error:
        return str(error)
    except (KeyError, TypeError) as error:
        return f"it is damaged ({error!r})"
    expected = cell.request.keys if cell.request else []
    return finished if _keys(rows) == expected else "its rows do not belong to its prompts"


def _keys(rows: Sequence[SampleScore]) -> list[tuple[str, str, str, int]]:
    return [(row.prompt, row.caption, row.group, row.seed) for row in rows]
