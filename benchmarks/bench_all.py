"""The bench on all models: every table and figure of docs/evidence/bench.md.

    python benchmarks/bench_all.py --prompts 8          # a look
    python benchmarks/bench_all.py --minutes 60         # as much as that allows, the first first
    python benchmarks/bench_all.py                      # all: first prints how long it will take

Each generation is a line of the work file; a run that was stopped goes on. What is most asked for
comes first: the unguarded model and the guards at a scale of 2 and 50 steps, then what the claims
need, then other scales and numbers of steps.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from anechoic_lab.bench.task import MEMORIZED
from anechoic_lab.instruments import measure, page
from anechoic_lab.instruments.guards import NAMED

from anechoic.environment import machine

PAGE = Path("docs/evidence/bench.md")
SEED = 1000  # none that anything was tuned with
FIRST = ("none", "auto", "amg-tuned", "opposite", "static", "cfg", "projection", "dissimilarity")
SURFACE = 8  # memorized prompts of each model at other scales and steps
SCALES, STEPS = (1.5, 4.0, 7.0), (25, 100)
UNKNOWN = 2.0  # times the unguarded model's time, for a guard that was not measured yet
PROBE, PROBED = 10, 4  # steps and prompts of what tells the time of a model not measured yet


def plan(
    models: Sequence[str], guards: Sequence[str], seeds: Sequence[int], prompts: int | None
) -> list[measure.Unit]:
    """All batches, the most important first."""
    ordered = sorted(guards, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
    units = [
        unit
        for guard in ordered
        for unit in balanced(measure.units(models, [guard], [2.0], [50], seeds, prompts))
    ]
    some = min(SURFACE, prompts or SURFACE)
    return units + [
        unit
        for guard in ("none", "auto")
        for unit in measure.units(models, [guard], SCALES, STEPS, seeds, some)
        if unit.prompts[0].group == MEMORIZED
    ]


def balanced(units: Iterator[measure.Unit]) -> list[measure.Unit]:
    """As many ordinary prompts of a model as it has memorized ones."""
    found = list(units)
    memorized = {}
    for unit in found:
        if unit.prompts[0].group == MEMORIZED:
            memorized[unit.model] = memorized.get(unit.model, 0) + len(unit.prompts)
    kept, count = [], dict.fromkeys(memorized, 0)
    for unit in found:
        if unit.prompts[0].group != MEMORIZED:
            if count[unit.model] >= memorized[unit.model]:
                continue
            count[unit.model] += len(unit.prompts)
        kept.append(unit)
    return kept


def seconds(todo: Sequence[measure.Unit], done: Sequence[measure.Line]) -> float:
    """The processor time that batches will take, by what was measured, or by a short generation."""
    each: dict[tuple[str, str], list[float]] = {}
    for line in done:
        each.setdefault((line.model, line.guard), []).append(line.processor / line.steps)
    for model in {unit.model for unit in todo} - {model for model, _ in each}:
        subject = measure.subject(model)
        some = subject.prompts()[:PROBED]
        subject.measure(some[:1], 0, None, subject.scale, 3)  # the first is slower
        start = time.process_time()
        subject.measure(some, 0, None, subject.scale, PROBE)
        each[model, "none"] = [(time.process_time() - start) / PROBE / len(some)]
    total = 0.0
    for unit in todo:
        plain = each.get((unit.model, "none")) or next(
            v for k, v in each.items() if k[0] == unit.model
        )
        known = each.get((unit.model, unit.guard)) or [UNKNOWN * float(np.mean(plain))]
        total += float(np.mean(known)) * unit.steps * len(unit.prompts)
    return total


def main() -> None:
    """Measure what is missing, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--models", nargs="+", default=list(measure.MODELS))
    parser.add_argument("--guards", nargs="+", default=list(NAMED))
    parser.add_argument("--seeds", nargs="+", type=int, default=[SEED])
    parser.add_argument("--prompts", type=int, help="of each group; by default all")
    parser.add_argument("--minutes", type=float, help="stop after so many")
    parser.add_argument("--work", type=Path, default=Path("bench-all.jsonl"))
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--only-page", action="store_true", help="write it of what there is")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if not chosen.only_page:
        planned = plan(chosen.models, chosen.guards, chosen.seeds, chosen.prompts)
        measure_missing(planned, chosen.work, chosen.minutes)
    lines = measure.read(chosen.work)
    names = [name for name in chosen.models if any(line.model == name for line in lines)]
    honest = _honest(chosen.work.with_suffix(".honest.json"), names)
    where = ", ".join(f"{what} {value}" for what, value in machine("1 of one thread").items())
    page.write(chosen.page, lines, honest, _command(chosen), where)
    print(f"{chosen.page}: written, of {len(lines)} generations")


def _command(chosen: argparse.Namespace) -> str:
    """What makes the page again."""
    given = ["python benchmarks/bench_all.py", "--models", *chosen.models]
    given += ["--prompts", str(chosen.prompts)] if chosen.prompts else []
    return " ".join(given)


def _honest(path: Path, models: Sequence[str]) -> dict[str, measure.HonestTakes]:
    """The judges' false positives, which are measured once for each model."""
    known = json.loads(path.read_text()) if path.exists() else {}
    for name in models:
        if name not in known:
            known[name] = asdict(measure.subject(name).honest())
            path.write_text(json.dumps(known, indent=1) + "\n")
    return {name: measure.HonestTakes(**known[name]) for name in models}


def measure_missing(
    planned: Sequence[measure.Unit], work: Path, minutes: float | None = None
) -> None:
    """Run the batches whose lines are not in the work file, and add these; stop after a time."""
    done = measure.read(work)
    refused = measure.refused(planned)
    for (model, guard), why in refused.items():
        print(f"left out: {guard} on {model}: {why}", flush=True)
    able = [unit for unit in planned if (unit.model, unit.guard) not in refused]
    todo = measure.unfinished(able, done)
    left = seconds(todo, done) / 60
    print(f"{len(todo)} batches, about {left:.0f} minutes of one core", flush=True)
    started = time.monotonic()
    for number, unit in enumerate(todo, 1):
        if minutes and time.monotonic() - started > 60 * minutes:
            print(f"stopped after {number - 1} batches; the same command goes on", flush=True)
            return
        measure.append(work, measure.run(unit))
        print(f"{number} of {len(todo)}: {unit.model}, {unit.guard}", flush=True)


if __name__ == "__main__":
    main()
