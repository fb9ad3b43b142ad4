"""What a guard did: records of its evaluations, in words and as a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from anechoic import display
from anechoic.errors import BadSetting
from anechoic.guidance.step import Record

# a note of evaluations at which it was true, and what that means: at {n} of them, first at {first}
WORDS = {
    "gate": "near a training clip at {n}",
    "beside": "beside a second sample at {n}",
    "switched": "transition at number {first}",
    "suspected": "suspected of a copy at {n}",
    "clamped": "its step made smaller at {n}",
}
NEVER = {"gate": "never near a training clip", "switched": "no transition"}


@dataclass
class Trace:
    """What a guard did: for each generation, one record an evaluation of the network."""

    runs: list[list[Record]] = field(default_factory=list)

    @property
    def records(self) -> list[Record]:
        """The records of the latest generation."""
        return self.runs[-1] if self.runs else []

    def summary(self) -> str:
        """What the guard did in the latest generation, in a few words."""
        return summary(self.records)

    def column(self, name: str) -> Tensor:
        """One quantity of the latest generation over its evaluations, [n, b]; NaN where the method
        did not need it.

        `name` is "distance", "scale" or a note of the method, such as "similarity" or "gate".
        """
        return torch.stack(
            [getattr(r, name) if name in ("distance", "scale") else r.notes[name]
             for r in self.records]
        )  # fmt: skip

    def plot(self, sample: int = 0) -> Any:
        """One sample of the latest generation: its similarity to the nearest training clip and the
        guidance scale, over the evaluations. Returns a matplotlib `Figure`.

        Raises:
            BadSetting: there is no such sample, or matplotlib is not installed.

        Example: `trace.plot().savefig("guard.png")`
        """
        batch = len(self.records[0].scale) if self.records else 0
        if not 0 <= sample < batch:
            raise BadSetting(f"expected a sample below {batch}, the number generated, got {sample}")
        compared = "similarity" in self.records[0].notes
        figure, (*above, below) = display.axes(1 + compared, self.summary())
        numbers = torch.arange(1, len(self.records) + 1)
        for axes in above:
            similarity = self.column("similarity")[:, sample]
            known = ~similarity.isnan()
            axes.plot(numbers[known], similarity[known], "o-", color=display.GUARDED)
            axes.set_ylabel("similarity to the\nnearest training clip")
            opened = self.column("gate")[:, sample] if "gate" in self.records[0].notes else ()
            for number in [i + 1 for i, is_open in enumerate(opened) if is_open]:
                axes.axvspan(number - 0.5, number + 0.5, color=display.OPEN, alpha=0.3, linewidth=0)
        below.plot(numbers, self.column("scale")[:, sample], color=display.PLAIN)
        below.set_ylabel("guidance scale")
        below.set_xlabel("evaluation (shaded: the guard acts)" if compared else "evaluation")
        return figure

    def _repr_html_(self) -> str:
        return display.facts_html("What the guard did", {
            f"generation {number}": summary(records) for number, records in enumerate(self.runs, 1)
        })  # fmt: skip


def flags(records: Sequence[Record]) -> dict[str, list[int]]:
    """What a guard recorded as true or false, as an open gate or a transition: at which
    evaluations, from 0, it was true of any sample."""
    notes = records[0].notes.items() if records else ()
    names = [name for name, note in notes if note.dtype == torch.bool]
    return {name: [i for i, r in enumerate(records) if r.notes[name].any()] for name in names}


def summary(records: Sequence[Record]) -> str:
    """What a guard did in a generation, in a few words; of a batch, to any of its samples."""
    parts = [f"{len(records)} evaluations"]
    for name, on in flags(records).items():
        if on:
            words = WORDS.get(name, name + " at {n}")
            parts.append(words.format(n=len(on), first=on[0] + 1))
        elif name in NEVER:
            parts.append(NEVER[name])
    if records and "substitute" in records[-1].notes:  # -1: none
        changed = [i for i, r in enumerate(records, 1) if bool((r.notes["substitute"] != -1).any())]
        parts += [f"another caption from number {changed[0]} on"] if changed else []
    near = [r.notes["similarity"].tolist() for r in records if "similarity" in r.notes]
    if known := [value for values in near for value in values if math.isfinite(value)]:
        parts.append(f"highest similarity to a training clip {max(known):.3f}")
    return ", ".join(parts)
