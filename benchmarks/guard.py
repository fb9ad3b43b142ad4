"""What guards cost on the demo model, against a recorded baseline: two minutes, for CI.

    python benchmarks/guard.py             # exits with 1 where a guard has become slower
    python benchmarks/guard.py --record    # writes the baseline, after a change that is meant

Plain and guarded generations alternate on one thread, and a pair gives the ratio of their processor
times: a ratio is nearly the same on another machine, and other programs hardly change it. A guard
has become slower if more of its ratios than chance allows (one-sided sign test, 5 %) exceed the
recorded median by a tenth, or if it asks the network for more.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from speed import AUTO, FULL, Clock, targets
from speed_subjects import Subject, demo, generate

BASELINE = Path(__file__).with_suffix(".json")
SLOWER = 1.10  # times the recorded ratio
CHANCE = 0.05
PAIRS = 7
GUARDS = (AUTO, FULL, "opposite guidance", "classifier-free guidance by the guard")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--pairs", type=int, default=PAIRS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    subject, found, slower = demo(), {}, 0
    baseline = {} if options.record else json.loads(BASELINE.read_text())
    print("| guard | prompt | recorded | now | passes, recorded | now | |")
    print("|---|---|---|---|---|---|---|")
    for row in targets():
        if row.guard not in GUARDS:
            continue
        ratios, passes = measure(subject, row, options.pairs)
        name, now = f"{row.guard}, {row.prompt}", statistics.median(ratios)
        found[name] = {"ratio": round(now, 3), "passes": passes}
        known = baseline.get(name, found[name])
        failed = is_slower(ratios, known["ratio"]) or passes > known["passes"]
        slower += failed
        verdict = "**slower**" if failed else "" if name in baseline else "not recorded before"
        print(
            f"| {row.guard} | {row.prompt} | {known['ratio']:.2f} | {now:.2f} "
            f"| {known['passes']:g} | {passes:g} | {verdict} |",
            flush=True,
        )
    if options.record:
        BASELINE.write_text(json.dumps(found, indent=1) + "\n")
    return int(slower > 0)


def measure(subject: Subject, row: Any, pairs: int) -> tuple[list[float], float]:
    """The ratios of guarded generations to the plain ones around them, and a sample's passes
    through the network."""
    guidance, clock = row.make(subject), Clock(subject.pipe, "processor")

    def took(guarded: bool) -> tuple[float, Any]:
        start = clock()
        trace = generate(subject, row.prompt, 1, guidance if guarded else None)
        return clock() - start, trace

    took(guarded=True)  # what is made on first use
    plain, ratios, trace = [took(guarded=False)[0]], [], None
    for _ in range(pairs):
        own, trace = took(guarded=True)
        plain.append(took(guarded=False)[0])
        ratios.append(own / statistics.mean(plain[-2:]))
    assert trace is not None
    return ratios, float(sum(record.passes for record in trace.records))


def is_slower(ratios: Sequence[float], recorded: float) -> bool:
    """Whether chance alone would put as many ratios a tenth over the recorded one in less than one
    case in twenty.

    >>> is_slower([1.2] * 7, 1.0), is_slower([1.2] * 5 + [1.0] * 2, 1.0), is_slower([1.05] * 7, 1.0)
    (True, False, False)
    """
    count = len(ratios)
    over = sum(ratio > SLOWER * recorded for ratio in ratios)
    return sum(math.comb(count, k) for k in range(over, count + 1)) / 2**count < CHANCE


if __name__ == "__main__":
    sys.exit(main())
