"""The table of a bench: a line for each method and scenario, and the conditions behind it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from anechoic.errors import BadSetting
from anechoic_lab.bench import figures
from anechoic_lab.bench.figures import MEAN, P95, Figure, bounded
from anechoic_lab.bench.frontiers import Frontier, frontiers
from anechoic_lab.bench.run import Results
from anechoic_lab.bench.task import MEMORIZED, BenchPrompt, SampleScore
from anechoic_lab.metrics import Gaussian, KernelReference, warning

BACKGROUND = "training set"  # the line that compares training clips with each other
WITHOUT_REFERENCE = "FAD and KAD are not measured: they need a reference of real sound"


@dataclass(frozen=True)
class Measure:
    """A column of the table."""

    key: str
    label: str
    better: Literal["lower", "higher"]
    format: str = ".2f"


@dataclass(frozen=True)
class Line:
    """One method in one scenario. A missing measure was not measured."""

    scenario: str
    method: str
    label: str
    figures: Mapping[str, Figure]  # by the measure's key
    family: str = ""  # shared by methods that differ in one strength only
    strength: str = ""


@dataclass(frozen=True)
class Table:
    """The results of a bench, and the conditions of the measurement."""

    title: str
    measures: Sequence[Measure]
    lines: Sequence[Line]
    frontiers: Sequence[Frontier]
    about: Mapping[str, str]
    notes: Sequence[str] = field(default_factory=tuple)


def tabulate(results: Results, command: str = "") -> Table:
    """The table of a bench; the same results give the same table.

    Similarity, copies and the judges' scores are computed over the prompts of the group
    "memorized" if there is one, else over all; adherence over each group; the rest over all.

    Args:
        results: results of `run`.
        command: the command line, printed with the table.
    """
    groups = list(dict.fromkeys(p.group for ps in results.layout.prompts.values() for p in ps))
    scores = list(dict.fromkeys(name for rows in results.rows.values()
                                for row in rows for name in row.scores))  # fmt: skip
    notes: dict[str, None] = {}  # distinct, in order
    lines, fronts = [], []
    for scenario in results.layout.prompts:
        quality = _references(results.reference[scenario], notes)
        near = {}
        for method in results.plan.methods:
            rows = results.rows[scenario, method.name]
            near[method.name] = _judged(rows, groups)
            found = dict(_figures(rows, near[method.name], groups, scores, quality, notes))
            lines.append(
                Line(scenario, method.name, method.label, found, method.family, method.strength)
            )
        lines.append(_background(scenario, results.baseline[scenario]))
        fronts += frontiers(scenario, results.plan.methods, near)
    return Table(
        title=results.plan.about or results.plan.name,
        measures=list(_measures(lines, groups, scores)),
        lines=lines,
        frontiers=fronts,
        about=_about(results, command),
        notes=list(notes),
    )


# ---------------------------------------------------------------------------------------- figures


def _judged(rows: Sequence[SampleScore], groups: Sequence[str]) -> Sequence[SampleScore]:
    """The clips over which similarity and copies are computed."""
    return [row for row in rows if row.group == MEMORIZED] if MEMORIZED in groups else rows


def _figures(
    rows: Sequence[SampleScore],
    near: Sequence[SampleScore],
    groups: Sequence[str],
    scores: Sequence[str],
    quality: tuple[Gaussian | None, KernelReference | None],
    notes: dict[str, None],
) -> Iterator[tuple[str, Figure]]:
    gaussian, kernel = quality if all(row.quality for row in rows) else (None, None)
    by_group = {group: [row for row in rows if row.group == group] for group in groups}
    found = {
        "similarity": figures.mean(near, [row.similarity for row in near]),
        "similarity_p95": figures.percentile95(near, [row.similarity for row in near]),
        **{_score(name): figures.mean(near, [row.scores.get(name) for row in near])
           for name in scores},
        "copies": figures.share(near, [row.copied for row in near]),
        **{_adherence(group): figures.mean(part, [row.adherence for row in part])
           for group, part in by_group.items()},
        "fad": figures.fad(gaussian, rows) if gaussian else None,
        "kad": figures.kad(kernel, rows) if kernel else None,
        "seconds": figures.mean(rows, [row.seconds for row in rows]),
        "evaluations": figures.mean(rows, [row.evaluations for row in rows]),
    }  # fmt: skip
    if gaussian and (caveat := warning(len(rows), len(gaussian.mean))):
        notes[caveat] = None
    yield from ((key, figure) for key, figure in found.items() if figure)


def _references(
    embeddings: Sequence[Sequence[float]], notes: dict[str, None]
) -> tuple[Gaussian | None, KernelReference | None]:
    """The references of FAD and KAD, computed once for all methods."""
    if not len(embeddings):
        notes[WITHOUT_REFERENCE] = None
        return None, None
    real = np.array(embeddings)
    gaussian = Gaussian.of(real, "reference embeddings")
    try:
        return gaussian, KernelReference.of(real)
    except BadSetting as error:  # half of its pairs are copies
        notes[f"KAD is not measured: {error}"] = None
        return gaussian, None


def _background(scenario: str, baseline: Sequence[float]) -> Line:
    """How near training clips are to each other, without any copying."""
    clips = range(len(baseline))
    found = {
        "similarity": MEAN.of(baseline, clips),
        "similarity_p95": bounded(P95.of(baseline, clips)),
    }
    known = {key: figure for key, figure in found.items() if figure}
    return Line(scenario, BACKGROUND, "training clips among themselves", known)


def _measures(
    lines: Sequence[Line], groups: Sequence[str], scores: Sequence[str]
) -> Iterator[Measure]:
    near = f", {MEMORIZED}" if MEMORIZED in groups and len(groups) > 1 else ""
    yield Measure("similarity", f"similarity{near}", "lower")
    yield Measure("similarity_p95", f"95th percentile{near}", "lower")
    for name in scores:
        yield Measure(_score(name), f"judge: {name}{near}", "lower")
    yield Measure("copies", f"copies{near}", "lower")
    for group in groups:
        yield Measure(_adherence(group), f"adherence{f', {group}' if group else ''}", "higher")
    yield Measure("fad", "FAD", "lower", ".3g")
    yield Measure("kad", "KAD", "lower", ".3g")
    yield Measure("seconds", "s a clip", "lower")
    yield Measure("evaluations", "evaluations a clip", "lower", ".0f")


def _score(name: str) -> str:
    return f"score_{name}"


def _adherence(group: str) -> str:
    return f"adherence_{group}" if group else "adherence"


# ------------------------------------------------------------------------------------ conditions


def _about(results: Results, command: str) -> dict[str, str]:
    plan, layout = results.plan, results.layout
    clips = len(plan.seeds) * sum(map(len, layout.prompts.values())) * len(plan.methods)
    about = {
        "plan": plan.name,
        "task": layout.name,
        **layout.about,
        "split": plan.split,
        "seeds": ", ".join(map(str, plan.seeds)),
        "prompts": "; ".join(_counted(name, prompts) for name, prompts in layout.prompts.items()),
        "clips": f"{clips}, {plan.batch} at a time",
        "steps": "the task's own" if plan.steps is None else f"{plan.steps}",
        "intervals": "95 %, resampling prompts",
    }
    for number, machine in enumerate(results.machines, 1):
        about[f"machine {number}" if len(results.machines) > 1 else "machine"] = ", ".join(
            f"{key} {value}" for key, value in machine.items()
        )
    return about | ({"command": command} if command else {})


def _counted(scenario: str, prompts: Sequence[BenchPrompt]) -> str:
    """The number of prompts in each group.

    >>> _counted("short", [BenchPrompt("1", "rain", "ordinary"), BenchPrompt("2", "hum")])
    'short: 1 ordinary, 1'
    """
    counts = Counter(prompt.group for prompt in prompts)
    return f"{scenario}: " + ", ".join(f"{n} {group}".strip() for group, n in counts.items())
