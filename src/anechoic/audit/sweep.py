"""Compares ways to generate: how much each copies, and how well it follows its prompts.

A setting is a checkpoint, the weight of its LoRA, a guidance scale, a number of steps and a guard.
Sounds and results are files in the work folder of an audit, so that a sweep that was stopped goes
on, and an audit of one setting finds the sounds that are there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from anechoic import audio
from anechoic.audit import samples
from anechoic.audit.progress import AuditProgress, ProgressTimer
from anechoic.audit.run import LONGEST_S, WORK, AuditRun
from anechoic.audit.samples import Generate, Sample, Unexamined
from anechoic.audit.training import TrainingSet
from anechoic.cache import Untrusted, identity
from anechoic.detectors import Calibration, NearestStretch
from anechoic.embedders.text import Adherence
from anechoic.errors import BadSetting
from anechoic.metrics import Estimate, share_interval
from anechoic.types import Embedder
from anechoic.verdict import CALIBRATE, Rule, find_rule, without_rule

CLOSE = 0.98  # of the highest adherence: what is no worse by it


@dataclass(frozen=True)
class Setting:
    """One way to generate.

    >>> Setting("my-model", 4.0, 50, "mine.safetensors", 0.7, "auto").label
    'my-model + mine.safetensors at weight 0.7, scale 4, 50 steps, guard auto'
    """

    model: str
    scale: float
    steps: int | None = None  # None: the model's own
    lora: str | None = None  # its file
    weight: float = 1.0  # of the LoRA
    guard: str = samples.PLAIN

    @property
    def checkpoint(self) -> str:
        """The model, and its LoRA at its weight."""
        lora = "" if self.lora is None else f" + {self.lora} at weight {self.weight:g}"
        return self.model + lora

    @property
    def call(self) -> str:
        """What a generation is asked with."""
        steps = "" if self.steps is None else f", {self.steps} steps"
        guard = "" if self.guard == samples.PLAIN else f", guard {self.guard}"
        return f"scale {self.scale:g}{steps}{guard}"

    @property
    def label(self) -> str:
        """All of it in a line."""
        return f"{self.checkpoint}, {self.call}"


@dataclass(frozen=True)
class Cell:
    """What was found at one setting."""

    setting: Setting
    sounds: int  # that were examined
    copies: int
    share: Estimate | None  # of copies, with its 95 % interval over prompts; None: one prompt
    adherence: float | None  # mean; None: not measured
    nearest: Path | None  # the file of the sound that comes nearest to a training clip
    prompt: str  # that it was asked with
    unexamined: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """The cell in a line."""
        interval = "" if self.share is None else f" ({self.share.low:.0%} to {self.share.high:.0%})"
        text = f"{self.setting.label}: {self.copies} copies of {self.sounds}{interval}"
        return text if self.adherence is None else f"{text}, adherence {self.adherence:.3g}"


@dataclass(frozen=True)
class Sweep:
    """All cells, in the order that they were asked for."""

    cells: Sequence[Cell]
    rule: Rule
    index: str
    prompts: int
    seeds: int
    adherence: str  # by what it was measured; empty: it was not

    @property
    def best(self) -> Cell | None:
        """The cell to generate with: of those with the fewest copies in all sounds asked for, the
        one with the largest LoRA weight whose adherence is 98 % of their highest, or higher. None:
        in each cell something could not be examined."""
        whole = [cell for cell in self.cells if not cell.unexamined]
        if not whole:
            return None
        least = min(cell.copies for cell in whole)
        clean = [cell for cell in whole if cell.copies == least]
        highest = max(cell.adherence or 0.0 for cell in clean)
        good = [cell for cell in clean if (cell.adherence or 0.0) >= CLOSE * highest]
        return max(good, key=lambda cell: (cell.setting.weight, cell.adherence or 0.0))

    @property
    def sentence(self) -> str:
        """What the sweep recommends."""
        best = self.best
        if best is None:
            return "NOT JUDGED: in every cell something could not be examined"
        text = best.sentence
        known = [cell.adherence for cell in self.cells if cell.adherence is not None]
        if best.adherence is not None and (highest := max(known)) > 0:
            text += f", {best.adherence / highest:.0%} of the highest here"
        if best.copies:
            return f"Every setting copies; the least {text}"
        return text

    def to_dict(self) -> dict[str, Any]:
        """The sweep for JSON."""
        best = self.best
        return {
            "sentence": self.sentence,
            "recommended": None if best is None else list(self.cells).index(best),
            "index": self.index,
            "rule": self.rule.to_dict(),
            "prompts": self.prompts,
            "seeds": self.seeds,
            "adherence": self.adherence or None,
            "cells": [
                {
                    **asdict(cell.setting),
                    "sounds": cell.sounds,
                    "copies": cell.copies,
                    "share": None if cell.share is None else asdict(cell.share),
                    "adherence": cell.adherence,
                    "nearest": None if cell.nearest is None else str(cell.nearest),
                    "unexamined": list(cell.unexamined),
                }
                for cell in self.cells
            ],
        }


def sweep(
    settings: Iterable[Setting],
    load: Callable[[Setting], Generate],
    training: TrainingSet,
    embedder: Embedder,
    prompts: Sequence[str],
    seeds: Sequence[int] = (0,),
    *,
    calibrations: dict[str, Calibration] | None = None,
    threshold: float | None = None,
    adherence: Adherence | None = None,
    measured_by: str = "",
    work: str | Path = WORK,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Sweep:
    """Generate the same prompts at each setting, and judge all sounds by one rule.

    Args:
        settings: each is loaded when its turn comes, so let the checkpoint change least often.
        load: puts the weights of a setting into place and returns a generator with an `identity`,
            such as `anechoic.audit.pipeline.Guarded`.
        training: the training clips.
        embedder: the one that built their index.
        prompts: asked at each setting, such as the captions of the training clips.
        seeds: of each prompt.
        calibrations, threshold: as `anechoic.audit.audit` has them; one of them is needed.
        adherence: how well a sound fits its prompt; None where that is not known, or for all.
        measured_by: the name of `adherence`, under which its figures are stored.
        work: folder of finished work.
        progress: called with the number of examined sounds, and of all.

    Raises:
        BadSetting: nothing to judge by, no setting, no prompts, or a work folder in use.
        AnechoicError: a setting cannot be loaded.

    Example:
        found = sweep(settings, load, TrainingSet(index), embedder("magmel"), captions)
        print(found.sentence)
    """
    asked = list(settings)
    if not asked or len(set(asked)) < len(asked):
        raise BadSetting(f"expected settings to compare, each once, got {len(asked)}; correct them")
    if bool(adherence) != bool(measured_by):
        raise BadSetting("expected a measure of adherence with its name; give both, or neither")
    decides = NearestStretch(training.index, embedder)
    rule = find_rule(decides.name, training.index, calibrations or {}, threshold)
    if rule is None:
        raise BadSetting(f"{without_rule(training.index)}, so no sound is a copy; {CALIBRATE}")
    plan = samples.generated([samples.PLAIN], prompts, seeds).samples
    plain = AuditRun.over(training, [decides], (), Path(work), LONGEST_S)
    cells = list[Cell]()

    def show(now: AuditProgress) -> None:
        progress(len(cells) * len(plan) + now.done, len(asked) * len(plan))

    with plain.cache.alone():
        for setting in asked:
            run = replace(plain, generators={samples.PLAIN: load(setting)})
            timer = ProgressTimer([run.kinds(sample) for sample in plan], show)
            rows, lost = run.examine(plan, timer, pictures=False)
            scored = [
                (sample, sha256, result.matches[decides.name].score)
                for sample, sha256, result in rows
            ]
            cells.append(_cell(setting, run, scored, lost, rule, adherence, measured_by))
    names = len({sample.prompt for sample in plan})
    return Sweep(cells, rule, training.index.name, names, len(seeds), measured_by)


def _cell(
    setting: Setting,
    run: AuditRun,
    scored: Sequence[tuple[Sample, str, float]],
    lost: Sequence[Unexamined],
    rule: Rule,
    adherence: Adherence | None,
    measured_by: str,
) -> Cell:
    hits = [float(rule.is_copy(score)) for _, _, score in scored]
    share = None
    with suppress(BadSetting):  # fewer than two prompts
        share = share_interval(hits, [sample.prompt for sample, _, _ in scored])
    known = [
        value
        for sample, sha256, _ in scored
        if adherence is not None
        and (value := _adherence(run, sample, sha256, adherence, measured_by)) is not None
    ]
    nearest = max(scored, key=lambda row: row[2], default=None)
    return Cell(
        setting,
        len(scored),
        int(sum(hits)),
        share,
        math.fsum(known) / len(known) if known else None,
        None if nearest is None else run.file(nearest[0]),
        "" if nearest is None else nearest[0].prompt,
        tuple(f"{one.sample.name}: {one.reason}" for one in lost),
    )


def _adherence(
    run: AuditRun, sample: Sample, sha256: str, measure: Adherence, name: str
) -> float | None:
    """How well one sound fits its prompt, measured once."""
    key = identity("adherence", name, sha256, sample.prompt)
    with suppress(Untrusted, TypeError, KeyError):
        known = run.cache.get(key)
        if known is not None:
            value: float | None = known["adherence"]
            return value
    value = measure(*audio.read(run.file(sample)), sample.prompt)
    run.cache.put(key, {"adherence": value})
    return value
