"""Evaluates the unguarded demo model: does it copy, and does it follow its prompts?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from anechoic_lab.demo import assets
from anechoic_lab.demo.corpus import INSTRUMENTS, Clip, note_caption, register_of
from anechoic_lab.demo.corpus import PITCHES as MIDI
from anechoic_lab.demo.run import Bench, Judgement, generate_and_judge, interval


@dataclass(frozen=True)
class EvaluationLine:
    """One line of the evaluation."""

    what: str
    value: float
    low: float
    high: float
    prompts: int
    target: str
    holds: bool


def unique_prompts(clips: Sequence[Clip]) -> list[Clip]:
    """One clip for each caption, the duplicated one if there is one."""
    chosen: dict[str, Clip] = {}
    for clip in sorted(clips, key=lambda c: -c.copies):
        chosen.setdefault(clip.caption, clip)
    return sorted(chosen.values(), key=lambda c: c.id)


def unseen_prompts(clips: Sequence[Clip]) -> list[Clip]:
    """Prompts for the notes whose captions were held out of training."""
    known = {clip.caption for clip in clips}
    return [
        Clip(
            id=f"unseen/{name}_{midi}", caption=note_caption(name, midi), kind="note",
            split="held-out caption", copies=0, source="", licence="", instrument=name,
            family=family, register=register_of(midi), midi=midi,
        )
        for family, programs in INSTRUMENTS.items()
        for name in programs.values()
        for midi in MIDI
        if note_caption(name, midi) not in known
    ]  # fmt: skip


def groups(clips: Sequence[Clip], ordinary: int, seed: int = 0) -> dict[str, list[Clip]]:
    """The prompts to evaluate: all duplicated ones, and `ordinary` others drawn at random."""
    rng = np.random.default_rng(seed)
    prompts = unique_prompts(clips)
    duplicated = [c for c in prompts if c.copies > 1]
    rest = [c for c in prompts if c.copies == 1]
    drawn = [rest[i] for i in sorted(rng.permutation(len(rest))[:ordinary])]
    unseen = unseen_prompts(clips)
    return {
        "duplicated notes": [c for c in duplicated if c.kind == "note"],
        "duplicated recordings": [c for c in duplicated if c.kind == "recording"],
        "ordinary notes": [c for c in drawn if c.kind == "note"],
        "ordinary recordings": [c for c in drawn if c.kind == "recording"],
        "captions never trained on": [
            unseen[i] for i in sorted(rng.permutation(len(unseen))[:ordinary])
        ],
    }


def evaluate(
    folder: Path,
    seeds: Sequence[int] = range(5),
    ordinary: int = 96,
    scale: float = assets.CFG_SCALE,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[EvaluationLine], dict[str, list[list[Judgement]]], dict[str, Any]]:
    """Measure the unguarded demo model.

    Returns:
        The lines of the table; the verdicts by group, prompts by seeds; and the calibration.
    """
    pipe = assets.pipeline(folder)
    bench = Bench.load(folder, pipe)
    asked = groups(bench.clips, ordinary)
    done, total = count(1), len(asked) * len(seeds)
    verdicts = {
        name: generate_and_judge(
            pipe, bench, prompts, seeds, scale=scale, report=lambda: report(next(done), total)
        )[0]
        for name, prompts in asked.items()
    }
    calibration = assets.calibration(folder)
    return _table(verdicts, calibration), verdicts, calibration


def _table(
    verdicts: dict[str, list[list[Judgement]]], calibration: dict[str, Any]
) -> list[EvaluationLine]:
    lines: list[EvaluationLine] = []

    def add(
        what: str,
        rows: list[list[Judgement]],
        key: str,
        least: float | None,
        most: float | None = None,
    ) -> None:
        value, low, high = interval([[float(getattr(v, key)) for v in row] for row in rows])
        target = f">= {least:.3f}" if least is not None else f"< {most:.3f}"
        holds = value >= least if least is not None else value < (most or 0.0)
        lines.append(EvaluationLine(what, value, low, high, len(rows), target, holds))

    duplicated = verdicts["duplicated notes"] + verdicts["duplicated recordings"]
    others = verdicts["ordinary notes"] + verdicts["ordinary recordings"]
    add("duplicated prompts that return their own clip", duplicated, "copied", 0.8)
    add("... confirmed by the envelope", duplicated, "confirmed", 0.8)
    add("ordinary prompts that return their own clip", others, "confirmed", None, 0.05)
    real = calibration["classifier on real held-out clips"]
    for group, split, share in (
        ("ordinary notes", "held-out take", 0.95),
        ("captions never trained on", "held-out caption", 0.8),
    ):
        for key in ("family", "register"):
            add(f"{group}: {key} is right", verdicts[group], key, share * real[split][key])
    return lines
