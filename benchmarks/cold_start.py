"""How long a command takes to begin: fresh interpreters, wall and processor time, against targets.

    python benchmarks/cold_start.py --runs 5

Each is run once before, so that the disk has been read, and bytecode is written. A check is set
against `import torch`, and against all that it needs of others, imported as it imports them: the
least that it can take. Prints a table in Markdown, and exits with 1 where the median misses its
target: run it while nothing else runs, or compare the processor time (`--of processor`).
"""

from __future__ import annotations

import argparse
import os
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
# what a check loads of others, as it does: the garbage collector is off
OTHERS = (
    "import atexit, gc; gc.disable(); atexit.register(gc.freeze); "
    "import torch, typer, importlib.metadata, fsspec, pyarrow.parquet, soundfile, rich.table"
)
TORCH = "import torch"


@dataclass(frozen=True)
class Start:
    """What is run, and how long it may take, if that is ours to say."""

    name: str
    arguments: tuple[str, ...]
    target_s: float | None = None
    target_torch: float | None = None  # in times of `import torch`
    status: int = 0


@dataclass(frozen=True)
class Time:
    """One run, in seconds."""

    wall: float
    processor: float


def starts(file: Path) -> list[Start]:
    """Of imports and commands; `file` is a clip of the demo's training set."""
    check = ("check", str(file), "--index", "demo")
    return [
        Start("import anechoic", ("-c", "import anechoic"), 0.1),
        Start(TORCH, ("-c", TORCH)),
        Start("all that a check needs of others", ("-c", OTHERS)),
        Start("anechoic --help", ("-c", MAIN, "--help"), 0.2),
        Start("anechoic index info demo", ("-c", MAIN, "index", "info", "demo"), target_torch=1.3),
        Start("anechoic check FILE --index demo", ("-c", MAIN, *check), None, 1.3, status=1),
    ]


def timed(start: Start) -> Time:
    """Run it once.

    Raises:
        RuntimeError: it did not end as it should.
    """
    environment = dict(os.environ)
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # our modules would be compiled each time
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, *start.arguments], capture_output=True, text=True, env=environment
    )
    wall = time.perf_counter() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != start.status:
        raise RuntimeError(f"'{start.name}' ended with {done.returncode}: {done.stderr}")
    spent = (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)
    return Time(wall, spent)


def measure(all_starts: list[Start], runs: int) -> dict[Start, Time]:
    """The medians of each: run one after the other, so that a busy minute falls on all of them."""
    for start in all_starts:
        timed(start)
    times: dict[Start, list[Time]] = {start: [] for start in all_starts}
    for _ in range(runs):
        for start in all_starts:
            times[start].append(timed(start))
    return {
        start: Time(
            statistics.median(one.wall for one in found),
            statistics.median(one.processor for one in found),
        )
        for start, found in times.items()
    }


def main() -> int:
    """Measure, print, and tell whether a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="of each; the median counts")
    parser.add_argument(
        "--of", choices=["wall", "processor"], default="wall", help="what the targets are set for"
    )
    options = parser.parse_args()
    _, sound = assets.training_set()
    with tempfile.TemporaryDirectory() as folder:
        file = audio.write(Path(folder) / "clip.flac", sound[:1], 16_000)
        times = measure(starts(file), options.runs)
    torch = next(time for start, time in times.items() if start.name == TORCH)
    missed = False
    print(f"| seconds, median of {options.runs} | wall | processor | target of {options.of} |")
    print("|---|---|---|---|")
    for start, found in times.items():
        target, taken = start.target_s, getattr(found, options.of)
        shown = "" if target is None else f"{target:g}"
        if start.target_torch is not None:
            target = start.target_torch * getattr(torch, options.of)
            shown = f"{start.target_torch:g} times torch: {target:.2f}"
        late = target is not None and taken > target
        missed |= late
        verdict = f"{shown}, missed" if late else shown
        print(f"| `{start.name}` | {found.wall:.2f} | {found.processor:.2f} | {verdict} |")
    print("\n" + ", ".join(f"{key} {value}" for key, value in machine("1").items()))
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
