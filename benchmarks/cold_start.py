"""How long a command takes to begin: fresh interpreters, wall and processor time, against targets.

    python benchmarks/cold_start.py --runs 5

Each is run once before, so that the disk has been read, and bytecode is written. `import torch` is
the floor under every command that hears or compares. Prints a table in Markdown, and exits with 1
where the median of the wall times misses its target: run it while nothing else runs.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from anechoic_lab.demo import assets

from anechoic import audio
from anechoic.environment import machine

MAIN = "from anechoic.cli import main; main()"


@dataclass(frozen=True)
class Start:
    """What is run, and within how many seconds it should be done, if that is ours to say."""

    name: str
    arguments: tuple[str, ...]
    target_s: float | None = None
    status: int = 0


@dataclass(frozen=True)
class Time:
    """One run."""

    wall_s: float
    processor_s: float


def starts(file: Path) -> list[Start]:
    """Of imports and commands; `file` is a clip of the demo's training set."""
    check = ("check", str(file), "--index", "demo")
    return [
        Start("import anechoic", ("-c", "import anechoic"), 0.3),
        Start("import torch", ("-c", "import torch")),
        Start("anechoic --help", ("-c", MAIN, "--help"), 0.5),
        Start("anechoic index info demo", ("-c", MAIN, "index", "info", "demo"), 2.0),
        Start("anechoic check FILE --index demo", ("-c", MAIN, *check), 2.0, status=1),
    ]


def timed(start: Start) -> Time:
    """Run it once.

    Raises:
        RuntimeError: it did not end as it should.
    """
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, *start.arguments], capture_output=True, text=True)
    wall_s = time.perf_counter() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != start.status:
        raise RuntimeError(f"'{start.name}' ended with {done.returncode}: {done.stderr}")
    spent = (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)
    return Time(wall_s, spent)


def measure(all_starts: list[Start], runs: int) -> dict[Start, list[Time]]:
    """Each so often, one after the other, so that a busy minute falls on all of them."""
    for start in all_starts:
        timed(start)
    times: dict[Start, list[Time]] = {start: [] for start in all_starts}
    for _ in range(runs):
        for start in all_starts:
            times[start].append(timed(start))
    return times


def main() -> int:
    """Measure, print, and tell whether a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="of each; the median counts")
    runs = parser.parse_args().runs
    _, sound = assets.training_set()
    missed = False
    print(f"| seconds, median of {runs} | wall | processor | target |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        file = audio.write(Path(folder) / "clip.flac", sound[:1], 16_000)
        for start, times in measure(starts(file), runs).items():
            wall_s = statistics.median(one.wall_s for one in times)
            processor_s = statistics.median(one.processor_s for one in times)
            late = start.target_s is not None and wall_s > start.target_s
            missed |= late
            target = "" if start.target_s is None else f"{start.target_s:g}"
            verdict = f"{target}, missed" if late else target
            print(f"| `{start.name}` | {wall_s:.2f} | {processor_s:.2f} | {verdict} |")
    print("\n" + ", ".join(f"{key} {value}" for key, value in machine("1").items()))
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
