"""Calibrates the detectors on the demo's corpus and model, and writes a page of the results.

`python -m anechoic_lab.demo.calibrate -o docs/evidence/calibration.md` takes about six minutes on
a core.
"""

from __future__ import annotations

import argparse
import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from anechoic.environment import processor
from anechoic_lab.demo import assets, pairs
from anechoic_lab.demo.detection import (
    ORDINARY,
    DetectionStudy,
    DetectorScore,
    fit,
    measure,
    measure_prompts,
)
from anechoic_lab.demo.pairs import Split
from anechoic_lab.metrics import ConfidenceInterval

COPIES, UNRELATED, SIBLINGS, BEDS, FRAGMENTS = 60, 250, 120, 100, 30


def table(measured: DetectionStudy, show: Callable[[DetectorScore], str]) -> str:
    """Markdown table: a row for each set of copies, a column for each detector."""
    names = list(measured.null)
    lines = [" | ".join(["", "copies", *names, ""]), "|" + "---|" * (len(names) + 1)]
    for copied, cells in measured.cells.items():
        lines.append(" | ".join(["", copied, *(show(cells[name]) for name in names), ""]))
    return "\n".join(line.strip() for line in lines)


def format_interval(estimate: ConfidenceInterval) -> str:
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def place(cell: DetectorScore) -> str:
    lag = "" if cell.lag_s is None else f", {1000 * cell.lag_s:.1f} ms"
    return f"{cell.right:.2f}{lag}"


def thresholds(measured: DetectionStudy) -> str:
    """Markdown: each detector's threshold."""
    lines = ["| detector | threshold | its 95 % interval | held-out clips |", "|---|---|---|---|"]
    for calibration in measured.null.values():
        low, high = calibration.threshold_interval
        above = f"{high:.3f}" if math.isfinite(high) else "not bounded"
        lines.append(
            f"| {calibration.detector} | {calibration.threshold:.3f} | {low:.3f} to {above} | "
            f"{len(calibration.null)} |"
        )
    return "\n".join(lines)


def rate(measured: DetectionStudy) -> str:
    low, high = next(iter(measured.null.values())).false_positive_interval
    return f"{100 * low:.1f} % to {100 * high:.1f} %"


def page(
    parts: Split,
    short: Mapping[str, DetectionStudy],
    long: DetectionStudy,
    by_prompt: Sequence[tuple[str, int, ConfidenceInterval, ConfidenceInterval]],
    seed: int,
) -> str:
    """The document."""
    unrelated, siblings = short["unrelated"], short["siblings"]
    asked = "\n".join(
        f"| {name} | {count} | {format_interval(mean)} | {format_interval(one)} |"
        for name, count, mean, one in by_prompt
    )
    return TEXT.format(
        seed=seed,
        machine=machine(),
        catalogue=len(parts.catalogue),
        copies=len(parts.copies),
        unrelated=len(parts.unrelated),
        siblings=len(parts.siblings),
        beds=BEDS,
        fragments=FRAGMENTS,
        thresholds=thresholds(unrelated),
        aucs=table(unrelated, lambda c: format_interval(c.auc)),
        tprs=table(unrelated, lambda c: format_interval(c.tpr)),
        rate=rate(unrelated),
        sibling_aucs=table(siblings, lambda c: format_interval(c.auc)),
        sibling_tprs=table(siblings, lambda c: format_interval(c.tpr)),
        sibling_rate=rate(siblings),
        places=table(unrelated, place),
        long_aucs=table(long, lambda c: format_interval(c.auc)),
        long_tprs=table(long, lambda c: format_interval(c.tpr)),
        long_rate=rate(long),
        long_places=table(long, place),
        ordinary=ORDINARY,
        prompts=asked,
    )


def machine() -> str:
    """Processor and versions."""
    packages = ("torch", "diffusers", "numpy", "scipy", "soundfile", "soxr", "python-stretch")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    python, threads = platform.python_version(), torch.get_num_threads()
    return f"{processor()}, {threads} thread(s), Python {python}, {versions}"


TEXT = """\
# Calibration: what the detectors are worth

Written by `python -m anechoic_lab.demo.calibrate`, seed {seed}: {machine}.

## How it was measured

All sound is real and ships with the demo. `anechoic_lab.demo.pairs` splits it by source: the
Freesound contributor of a recording, the instrument of a note. No caption and no source is on both
sides.

- The detectors are fitted to {catalogue} clips of one half of the sources.
- {copies} of these, half of them recordings, are altered: the copies to be found.
- {unrelated} clips of the other half are *unrelated*: the null that thresholds are taken from.
- {siblings} other renderings of the catalogue's notes were left out of it. These *siblings* have
  the pitch and the instrument of a training clip but are not copies: the hardest null there is.

Clips last 1.024 s at 16 kHz. AUC has Newcombe's interval, true-positive rates (TPR) at a
false-positive rate of 1 % have Clopper and Pearson's, both 95 %. The threshold is the conformal one
of `anechoic.detectors.Calibration`. With {unrelated} held-out clips the true false-positive rate
lies within {rate}.

{thresholds}

## How to read it

- *cosine* and *nearest ratio* compare whole clips from start to end: they see a loop that starts
  elsewhere as another clip, and a fragment too.
- *segments* and *correlation* find half a second at any place. Many clips share half a second of
  one tone, so the thresholds are high, and a small change of the sound puts a copy under them.
- *landmarks* are peaks of the spectrum. Level, equaliser, codec, tempo and added sound hardly move
  them; a change of pitch moves them all.
- No threshold here holds for other sound, other lengths or a larger training set: calibrate
  (`anechoic.detectors.calibrate`).

## Against unrelated sound

AUC:

{aucs}

TPR at 1 %:

{tprs}

The share of copies for which the detector named the right training clip, and, if it did and gives a
lag between the two starts, the median error of that lag:

{places}

## Against siblings

AUC:

{sibling_aucs}

TPR at 1 % (true rate within {sibling_rate}):

{sibling_tprs}

## Fragments in longer sound

0.75 s of {fragments} training clips, in beds of five unrelated clips end to end, 5.12 s, against
{beds} such beds without a fragment. The fragment replaces the bed, or is mixed into it as loud.
The detectors of whole clips compare 1.024 s and do not apply.

AUC:

{long_aucs}

TPR at 1 % (true rate within {long_rate}):

{long_tprs}

The right training clip, and the median error of the lag:

{long_places}

## Prompts, before anything is generated

The demo model's 24 duplicated prompts against {ordinary} ordinary ones, as many notes as
recordings. "Pure noise at" is one evaluation of the denoiser, which gets noise as if it were a
sample at that level.

| score | seeds | AUC, mean over the seeds | AUC, one seed |
|---|---|---|---|
{prompts}
"""


def main() -> None:
    """Measure, and write the document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=assets.SHIPPED)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()

    def report(line: str) -> None:
        print(line, flush=True)

    start = time.perf_counter()
    clips, sound = assets.training_set(chosen.data)
    parts = pairs.split(clips, chosen.seed, COPIES, UNRELATED, SIBLINGS)
    detectors = fit(clips, sound, parts.catalogue)
    nulls = {"unrelated": sound[parts.unrelated], "siblings": sound[parts.siblings]}
    short = measure(detectors, nulls, pairs.altered(sound, parts, chosen.seed), report)
    few = Split(parts.catalogue, parts.copies[:FRAGMENTS], parts.unrelated, parts.siblings)
    empty = pairs.beds(sound, parts, BEDS + FRAGMENTS, chosen.seed)
    hidden = pairs.fragments(sound, few, empty[BEDS:], chosen.seed)
    searching = {name: detectors[name] for name in ("segments", "correlation", "landmarks")}
    long = measure(searching, {"beds": empty[:BEDS]}, hidden, report)["beds"]
    by_prompt = measure_prompts(assets.pipeline(chosen.data), clips, chosen.seed, report)
    seconds = time.perf_counter() - start
    chosen.output.write_text(page(parts, short, long, by_prompt, chosen.seed), "utf-8")
    report(f"written: {chosen.output} ({seconds:.0f} s)")


if __name__ == "__main__":
    main()
