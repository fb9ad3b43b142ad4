"""Clips a second of the benchmark and of an audit, with one process and with more.

    python benchmarks/jobs.py --jobs 2

Each process opens the demo model as `anechoic bench --jobs` does, on one thread, warms up, waits
for the others, and then generates and judges the same clips. The wall clock also counts other
programs, so the processor time of a clip is printed beside it: that rises only if processes
disturb each other. An audit generates and examines sounds with `--jobs` processes, after each of
them has opened the model; of it only the wall clock is printed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from multiprocessing import get_context
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from tempfile import TemporaryDirectory

METHODS = ("none", "amg")
CLIPS = 8  # a batch of the bench


def generate(ready: Barrier, told: Queue[dict[str, tuple[float, float]]]) -> None:
    """One process: wall and processor time in seconds for the clips of each method."""
    from anechoic_lab.bench import Plan, Request, Source, open_task

    task = open_task(Source.of("demo"))
    scenario, plan = task.scenarios[0], Plan.load("methods").only(METHODS)
    prompts = task.prompts(scenario, plan.split)[:CLIPS]
    times = {}
    for method in plan.methods:
        task.generate(Request(scenario, prompts, 0, method, 3))
        ready.wait()
        wall, processor = time.perf_counter(), time.process_time()
        task.generate(Request(scenario, prompts, 0, method))
        times[method.name] = (time.perf_counter() - wall, time.process_time() - processor)
    told.put(times)


def measured(jobs: int) -> list[dict[str, tuple[float, float]]]:
    """The times that each of so many processes reports."""
    context = get_context("spawn")
    ready, told = context.Barrier(jobs), context.Queue()
    processes = [context.Process(target=generate, args=(ready, told)) for _ in range(jobs)]
    for process in processes:
        process.start()
    times = [told.get(timeout=600) for _ in processes]
    for process in processes:
        process.join()
    return times


def audited(jobs: int) -> float:
    """Sounds a second that an audit of the demo model makes and examines."""
    from anechoic_lab.demo import assets

    from anechoic.audit import audit
    from anechoic.audit.pipeline import Guarded, Pipeline
    from anechoic.cli.training import open_training
    from anechoic.processes import Processes

    training, embed = open_training("demo", None)
    pipeline = Pipeline(assets.pipeline(), "demo", assets.CFG_SCALE, assets.STEPS)
    prompts = sorted(training.of_caption)[:CLIPS]
    with TemporaryDirectory() as work, Processes(jobs) as pool:

        def sounds(seeds: range) -> float:
            begun = time.perf_counter()
            audit(
                Guarded(pipeline, None), training, embed, prompts=prompts, seeds=seeds,
                threshold=0.9, work=work, pool=pool,
            )  # fmt: skip
            return time.perf_counter() - begun

        sounds(range(100, 101))  # every process opens what it needs
        return 2 * CLIPS / sounds(range(2))


def main() -> None:
    """Measure in turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=2, help="processes side by side")
    parser.add_argument("--rounds", type=int, default=3, help="the median counts")
    asked = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that are started
    rounds = [{n: measured(n) for n in (1, asked.jobs)} for _ in range(asked.rounds)]
    print(
        "| method | processes | clips/s | times one | processor s a clip |\n|---|---|---|---|---|"
    )
    for method in METHODS:
        alone = 0.0
        for n in (1, asked.jobs):
            slowest = [max(one[method][0] for one in each[n]) for each in rounds]
            rate = n * CLIPS / statistics.median(slowest)
            alone = alone or rate
            spent = statistics.median(one[method][1] for each in rounds for one in each[n])
            print(f"| {method} | {n} | {rate:.2f} | {rate / alone:.2f} | {spent / CLIPS:.2f} |")
    rates: dict[int, list[float]] = {1: [], asked.jobs: []}
    for _ in range(asked.rounds):
        for n, found in rates.items():
            found.append(audited(n))
    alone = statistics.median(rates[1])
    for n, found in rates.items():
        rate = statistics.median(found)
        print(f"| an audit | {n} | {rate:.2f} | {rate / alone:.2f} | |")
    load = Path("/proc/loadavg")
    print(f"\nload at the end: {load.read_text().split()[0]}" if load.exists() else "")


if __name__ == "__main__":
    sys.exit(main())
