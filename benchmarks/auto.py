"""Guards without a setting by hand, on all models: copies, adherence and time.

    python benchmarks/auto.py --guards none amg --scales 2 --steps 50 --prompts 12
    python benchmarks/auto.py                        # all: hours

Each generation is a line of the work file; a run that was stopped goes on. A guard whose settings
changed is measured anew; if only its code changed, name another work file. Prints the tables, and
writes them beside the work file.
"""

from __future__ import annotations

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import torch
from anechoic_lab.instruments import measure

from anechoic.environment import machine


def main() -> None:
    """Measure what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--models", nargs="+", default=list(measure.MODELS))
    parser.add_argument("--guards", nargs="+", default=["none", "auto", "amg"])
    parser.add_argument("--scales", nargs="+", type=float, default=[1.5, 2.0, 4.0, 7.0])
    parser.add_argument("--steps", nargs="+", type=int, default=[25, 50, 100])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--prompts", type=int, help="of each group; by default all")
    parser.add_argument("--jobs", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--work", type=Path, default=Path("auto.jsonl"))
    parser.add_argument("--tables", action="store_true", help="print what there is")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    every = list(measure.units(chosen.models, chosen.guards, chosen.scales, chosen.steps,
                               chosen.seeds, chosen.prompts))  # fmt: skip
    todo = [] if chosen.tables else measure.unfinished(every, measure.read(chosen.work))
    print(f"{len(todo)} of {len(every)} batches are to be made", flush=True)
    _run(todo, chosen.work, chosen.jobs)
    asked = {(u.model, u.guard, u.scale, u.steps, u.seed, p.id) for u in every for p in u.prompts}
    lines = [
        line for line in measure.read(chosen.work) if (*line.cell, line.seed, line.prompt) in asked
    ]
    honest = {name: measure.subject(name).honest() for name in chosen.models}
    described = machine(f"{chosen.jobs} of one thread")
    where = ", ".join(f"{what} {value}" for what, value in described.items())
    text = "\n\n".join((
        f"Written by `python benchmarks/auto.py`; {where}; {len(lines)} generations.",
        measure.copies_table(lines), measure.honest_table(honest), measure.cost_table(lines),
        measure.cells_table(lines), measure.degrees_table(lines),
    ))  # fmt: skip
    print(text)
    chosen.work.with_suffix(".md").write_text(text + "\n", "utf-8")


def _run(todo: list[measure.Unit], work: Path, jobs: int) -> None:
    if jobs == 1:
        for done, unit in enumerate(todo, 1):
            measure.append(work, measure.run(unit))
            print(f"{done} of {len(todo)}", flush=True)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, spawn, torch.set_num_threads, (1,)) as pool:
        running = [pool.submit(measure.run, unit) for unit in todo]
        for done, future in enumerate(as_completed(running), 1):
            measure.append(work, future.result())
            print(f"{done} of {len(todo)}", flush=True)


if __name__ == "__main__":
    main()
