"""Peak memory of a generation, plain and under full AMG with its gradient stopped at x0.

    python benchmarks/speed_memory.py --subjects demo shaped --batches 1

`speed.py` writes it below its tables. The third figure is with all that autograd stores of a
decoder, where a guard stores two fifths. Each figure is of a fresh process, whose allocator gives
memory back as it is freed. Otherwise the peak would contain earlier requests, and differ by a fifth
from run to run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from speed_subjects import MAKERS, MEMORIZED, amg, generate

from anechoic.diffusers import connection

TARGET = 1.3
WAYS = ("plain", "guarded", "kept")  # without a guard, with one, with all that autograd stores


def peak(subject: str, batch: int, way: str) -> float:
    """Peak memory of one generation in this process, in MiB: resident, or of the GPU.

    Of ten steps: the gate opens by the noise level, so all that more steps have is in them.
    """
    made = MAKERS[subject]().of_steps(10)
    guidance = None if way == "plain" else amg(made, MEMORIZED)
    if way == "kept":
        connection.memory_efficient = lambda modules: []
    generate(made.of_steps(2), MEMORIZED, batch, None)
    if made.pipe.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        generate(made, MEMORIZED, batch, guidance)
        return torch.cuda.max_memory_allocated() / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew (Linux)
    generate(made, MEMORIZED, batch, guidance)
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 2**10


def memory(subject: str, batch: int) -> dict[str, Any]:
    """The peaks of all ways, each in a fresh process, and the verdict."""
    found = {way: _elsewhere(subject, batch, way) for way in WAYS}
    ratio = found["guarded"] / found["plain"]
    verdict = "holds" if ratio <= TARGET else "MISSED"
    return {"subject": subject, "batch": batch, **found, "ratio": ratio, "verdict": verdict}


def _elsewhere(subject: str, batch: int, way: str) -> float:
    asked = ["--subjects", subject, "--batches", str(batch), "--way", way]
    run = subprocess.run(
        [sys.executable, __file__, *asked],
        capture_output=True,
        text=True,
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20)},
    )
    if run.returncode:
        raise SystemExit(run.stderr)
    return float(run.stdout.splitlines()[-1])


def table(peaks: list[dict[str, Any]]) -> str:
    """The peaks as Markdown."""
    lines = [
        "| subject | batch | plain MiB | full AMG at x0 MiB | ratio | target | verdict "
        "| with all that autograd stores MiB | ratio |",
        "|" + "---|" * 9,
    ]
    for p in peaks:
        sizes = f"{p['plain']:.0f} | {p['guarded']:.0f} | {p['ratio']:.2f} | {TARGET}"
        without = f"{p['kept']:.0f} | {p['kept'] / p['plain']:.2f}"
        lines.append(f"| {p['subject']} | {p['batch']} | {sizes} | {p['verdict']} | {without} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subjects", nargs="+", choices=MAKERS, default=["demo", "shaped"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.way:
        warnings.filterwarnings("ignore")
        torch.set_num_threads(1)
        print(peak(asked.subjects[0], asked.batches[0], asked.way))
        return 0
    peaks = [memory(subject, batch) for subject in asked.subjects for batch in asked.batches]
    print(table(peaks))
    return int(any(p["verdict"] == "MISSED" for p in peaks))


if __name__ == "__main__":
    raise SystemExit(main())
