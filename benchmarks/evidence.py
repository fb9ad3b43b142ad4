"""What each detector finds of a clip that was altered, against sound that copies nothing.

    python benchmarks/evidence.py                     # the demo's clips
    python benchmarks/evidence.py --copies 4 --nulls 30 --work small.jsonl --page small.md

Each sound is a line of the work file; a run that was stopped goes on. Writes the page when all is
measured.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from anechoic_lab.demo import assets, pairs
from anechoic_lab.demo.alterations import ALTERATIONS, EDITS
from anechoic_lab.demo.corpus import SAMPLE_RATE, Clip
from anechoic_lab.metrics import ConfidenceInterval, auc, true_positive_rate
from scipy.stats import binomtest
from torch import Tensor

from anechoic.detectors import (
    Calibration,
    Correlation,
    Detector,
    Landmarks,
    NearestStretch,
    Transposed,
)
from anechoic.detectors.calibration import family_p_value
from anechoic.embedders import embedder
from anechoic.environment import machine
from anechoic.index import Sound, TrainingIndex

ROOT = Path(__file__).parents[1]
RATES = (0.01, 0.001)
DRAWN = (60, 400, 200)  # copies, unrelated, siblings: those asked for are the first of them
EVERY = {**ALTERATIONS, **EDITS}
WEAK = 0.2  # a detector that finds fewer copies than this finds none to speak of
TARGETS = {  # at 1 % of false positives, by the best single detector
    **dict.fromkeys(
        (
            "2 semitones up",
            "2 semitones down",
            "10 % slower",
            "10 % faster",
            "half",
            "loop",
            "one channel",
            "high-pass 500 Hz",
            "low-pass 2 kHz",
        ),
        0.95,
    ),
    "mixed": 0.8,
    "reversed": 0.6,
}


@dataclass(frozen=True, eq=False)
class Sounds:
    """The sounds of a measurement, by set: the alterations, and the nulls."""

    catalogue: list[Sound]
    waves: Mapping[tuple[str, int], Tensor]  # [c, t]
    right: Sequence[int]  # the catalogue's clip that each copy is made of


def sounds(catalogue: int, copies: int, nulls: int, seed: int) -> Sounds:
    """The demo's clips, split by source: half of them is the catalogue.

    The catalogue is cut to `catalogue` clips, the altered ones among them.

    - *unrelated*: recordings and notes of the other half;
    - *same genre*: its notes of an instrument family that the catalogue has;
    - *siblings*: other renderings of the catalogue's own notes.
    """
    clips, sound = assets.training_set(assets.SHIPPED)
    split = _cut(pairs.split(clips, seed, *DRAWN), clips, catalogue, copies)
    waves = {
        ("unrelated", i): sound[row][None] for i, row in enumerate(split.unrelated[: 4 * nulls])
    }
    waves |= {("siblings", i): sound[row][None] for i, row in enumerate(split.siblings[:nulls])}
    genre = _same_genre(clips, split, np.random.default_rng(seed), nulls)
    waves |= {("same genre", i): sound[row][None] for i, row in enumerate(genre)}
    draws = {name: np.random.default_rng(seed) for name in EVERY}
    for i, row in enumerate(split.copies):
        for name, alteration in EVERY.items():
            other = sound[split.unrelated[i % len(split.unrelated)]].numpy()
            made = alteration(sound[row].numpy(), SAMPLE_RATE, draws[name], other)
            waves[name, i] = torch.from_numpy(np.atleast_2d(made).copy())
    places = {row: place for place, row in enumerate(split.catalogue)}
    catalogue = [
        Sound(clips[i].id, clips[i].caption, sound[i][None], SAMPLE_RATE) for i in split.catalogue
    ]
    return Sounds(catalogue, waves, [places[row] for row in split.copies])


def _cut(split: pairs.Split, clips: Sequence[Clip], count: int, copies: int) -> pairs.Split:
    """The split with fewer clips in its catalogue, the first copies, and the siblings left."""
    chosen = split.copies[:copies]
    others = [i for i in split.catalogue if i not in set(chosen)]
    step = max(len(others) / max(count - len(chosen), 1), 1.0)
    spread = [others[int(i * step)] for i in range(min(count - len(chosen), len(others)))]
    kept = sorted([*chosen, *spread])
    captions = {clips[i].caption for i in kept}
    siblings = [i for i in split.siblings if clips[i].caption in captions]
    return pairs.Split(kept, chosen, split.unrelated, siblings)


def _same_genre(
    clips: Sequence[Clip], split: pairs.Split, rng: np.random.Generator, count: int
) -> list[int]:
    families = {clips[i].family for i in split.catalogue if clips[i].kind == "note"}
    ours = {pairs.source(clips[i]) for i in split.catalogue}
    drawn = set(split.unrelated)
    rows = [
        i
        for i, clip in enumerate(clips)
        if clip.kind == "note" and clip.family in families and i not in drawn
        and pairs.source(clip) not in ours
    ]  # fmt: skip
    return [rows[i] for i in rng.permutation(len(rows))[:count].tolist()]


def detectors(catalogue: Sequence[Sound]) -> Iterator[tuple[str, Detector]]:
    """The detectors, fitted to the catalogue; `Segments` has the embeddings of the nearest stretch,
    and docs/evidence/calibration.md has its figures."""
    whole = embedder("magmel")
    yield "nearest", NearestStretch(TrainingIndex.build(catalogue, whole), whole)
    yield "correlation", Correlation.fit(catalogue)
    yield "landmarks", Landmarks.fit(catalogue)
    yield "transposed", Transposed.fit(catalogue)


# ------------------------------------------------------------------------------------ measuring


Scores = dict[tuple[str, int], dict[str, tuple[float, int | None]]]  # by sound, then detector


def read(work: Path) -> Scores:
    """What was measured; a line that was cut off is measured again."""
    found: Scores = {}
    for line in work.read_text("utf-8").splitlines() if work.exists() else ():
        try:
            one = json.loads(line)
        except json.JSONDecodeError:
            continue
        scores = {name: (float(score), row) for name, (score, row) in one["scores"].items()}
        found.setdefault((one["set"], one["number"]), {}).update(scores)
    return found


def measure(given: Sounds, work: Path) -> Scores:
    """Score what is missing in the work file, which has the full names of the detectors, so that a
    changed one is measured again."""
    found, judges = read(work), dict(detectors(given.catalogue))
    todo = [(key, judge) for key in given.waves for judge in judges.values()
            if judge.name not in found.get(key, {})]  # fmt: skip
    print(f"{len(todo)} scores of {len(given.waves)} sounds are missing", flush=True)
    with work.open("a", encoding="utf-8") as file:
        for number, (key, judge) in enumerate(todo):
            (match,) = judge(given.waves[key][None], SAMPLE_RATE)
            score = (match.score if match.compared else -1.0, match.row)
            found.setdefault(key, {})[judge.name] = score
            line = {"set": key[0], "number": key[1], "scores": {judge.name: score}}
            file.write(f"{json.dumps(line)}\n")
            file.flush()
            if number % 200 == 0:
                print(f"{number} of {len(todo)}: {key[0]}", flush=True)
    return {
        key: {name: found[key][judge.name] for name, judge in judges.items()} for key in given.waves
    }


# ---------------------------------------------------------------------------------- the figures


def combined(null: Mapping[str, Sequence[float]], scores: Mapping[str, float]) -> float:
    """-p of all detectors together, as `check` has it with several."""
    p_values = [Calibration(name, tuple(null[name]), 0.5).p_value(scores[name]) for name in null]
    return -family_p_value(p_values)


@dataclass(frozen=True, eq=False)
class Table:
    """The figures against one null."""

    null: str
    held_out: int
    cells: Mapping[str, Mapping[str, tuple[ConfidenceInterval, list[ConfidenceInterval | None]]]]

    def best(self, alteration: str) -> tuple[float, str]:
        """The share at 1 % of the best single detector, and its name."""
        cells = self.cells[alteration]
        shares = [(tprs[0].value, name) for name, (_, tprs) in cells.items()
                  if name != "combined" and tprs[0] is not None]  # fmt: skip
        return max(shares, default=(math.nan, "none"))


def table(found: Scores, null: str) -> Table:
    """AUC and true-positive rates of each detector and of the combination against one null."""
    rows = [scores for (name, _), scores in sorted(found.items()) if name == null]
    columns = {name: [row[name][0] for row in rows] for name in rows[0]}

    def all_of(row: Mapping[str, tuple[float, int | None]], other: Sequence[int]) -> float:
        against = {name: [scores[i] for i in other] for name, scores in columns.items()}
        return combined(against, {name: row[name][0] for name in columns})

    every = range(len(rows))
    chance = [all_of(row, [i for i in every if i != number]) for number, row in enumerate(rows)]
    cells: dict[str, dict[str, tuple[ConfidenceInterval, list[ConfidenceInterval | None]]]] = {}
    for alteration in EVERY:
        copies = [scores for (name, _), scores in sorted(found.items()) if name == alteration]
        cells[alteration] = {}
        for name, scores in columns.items():
            own = [row[name][0] for row in copies]
            rates = [
                true_positive_rate(own, Calibration(name, tuple(scores), rate))
                if len(scores) + 1 >= 1 / rate
                else None
                for rate in RATES
            ]
            cells[alteration][name] = (auc(own, scores), rates)
        own = [all_of(row, every) for row in copies]
        rates = [
            _share(sum(-p <= rate for p in own), len(own))
            if len(rows) + 1 >= len(columns) / rate
            else None
            for rate in RATES
        ]
        cells[alteration]["combined"] = (auc(own, chance), rates)
    return Table(null, len(rows), cells)


def _share(found: int, of: int) -> ConfidenceInterval:
    """A share with its Clopper-Pearson interval."""
    share = binomtest(found, of)
    low, high = share.proportion_ci()
    return ConfidenceInterval(float(share.statistic), float(low), float(high))


def named_right(found: Scores, right: Sequence[int], alteration: str, name: str) -> float:
    """The share of copies for which a detector names the clip that they are made of."""
    rows = {number: scores[name][1] for (made, number), scores in found.items()
            if made == alteration}  # fmt: skip
    return float(np.mean([row == right[number] for number, row in rows.items()]))


# -------------------------------------------------------------------------------------- the page


def _value(estimate: ConfidenceInterval | None) -> str:
    return "-" if estimate is None else f"{estimate.value:.2f}"


def _interval(estimate: ConfidenceInterval | None) -> str:
    if estimate is None:
        return "-"
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def _grid(one: Table, show: int | None) -> str:
    """Markdown: a row for each alteration, a column for each detector.

    `show` is the number of the rate; None: AUC.
    """
    names = list(next(iter(one.cells.values())))
    lines = [f"| | {' | '.join(names)} |", "|" + "---|" * (len(names) + 1)]
    for alteration, cells in one.cells.items():
        values = [cells[name][0] if show is None else cells[name][1][show] for name in names]
        lines.append(f"| {alteration} | {' | '.join(map(_interval, values))} |")
    return "\n".join(lines)


def _targets(one: Table, copies: int) -> str:
    lines = ["| alteration | target | best detector | found | interval | met | combined |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for alteration, target in TARGETS.items():
        share, name = one.best(alteration)
        _, low, high = _share(round(share * copies), copies)
        met = "yes" if share >= target else "**no**"
        lines.append(f"| {alteration} | {target:g} | {name} | {share:.2f} | "
                     f"{low:.2f} to {high:.2f} | {met} | "
                     f"{_value(one.cells[alteration]['combined'][1][0])} |")  # fmt: skip
    return "\n".join(lines)


def _missed(one: Table) -> str:
    missed = [(name, *one.best(name)) for name in EVERY if one.best(name)[0] < WEAK]
    if not missed:
        return f"None: of each alteration some detector finds {WEAK:.0%} or more."
    return "\n".join(
        f"- **{name}** ({EVERY[name].description}): the best, {best}, finds {share:.0%}."
        for name, share, best in missed
    )


def page(found: Scores, given: Sounds, command: str) -> str:
    """The document."""
    tables = [table(found, null) for null in ("unrelated", "same genre", "siblings")]
    main, copies = tables[0], len(given.right)
    described = ", ".join(f"{what} {value}" for what, value in machine("1 of one thread").items())
    right = "\n".join(
        f"| {alteration} | " + " | ".join(
            f"{named_right(found, given.right, alteration, name):.2f}"
            for name in main.cells[alteration] if name != "combined"
        ) + " |"
        for alteration in EVERY
    )  # fmt: skip
    names = [name for name in next(iter(main.cells.values())) if name != "combined"]
    kinds = "\n".join(f"- *{name}*: {one.description}" for name, one in EVERY.items())
    parts = []
    for one in tables:
        fine = one.held_out + 1 >= 1 / RATES[1]
        parts.append(
            f"## Against {one.null} sound: {one.held_out} clips\n\nShare found at 1 % of false "
            f"positives:\n\n{_grid(one, 0)}\n\n"
            + (f"Share found at 0.1 %:\n\n{_grid(one, 1)}\n\n" if fine else
               f"At 0.1 % nothing can be said: that takes 999 clips, and there are "
               f"{one.held_out}.\n\n")
            + f"AUC:\n\n{_grid(one, None)}"
        )  # fmt: skip
    return TEXT.format(
        command=command,
        machine=described,
        catalogue=len(given.catalogue),
        copies=copies,
        count=len(EVERY),
        targets=_targets(main, copies),
        missed=_missed(main),
        weak=f"{WEAK:.0%}",
        tables="\n\n".join(parts),
        names=" | ".join(names),
        rule="---|" * (len(names) + 1),
        right=right,
        kinds=kinds,
    )


TEXT = """\
# Detectors against alterations: what is found, and what is not

Written by `{command}`; {machine}.

{copies} clips of a catalogue of {catalogue} are altered in {count} ways, and each detector searches
the whole catalogue for them. Three kinds of sound that copies nothing say what chance does:
*unrelated* clips, of other sources; the *same genre*, notes of other instruments of the same
families; and *siblings*, other renderings of the catalogue's own notes, which are as like as sounds
get without being copies. Thresholds are calibrated on each of them (`anechoic calibrate`); square
brackets hold 95 % intervals. All clips are real and last 1.024 s. A half or a quarter that is 40 dB
under its clip is replaced by another one, since nothing can be found in silence.

*Combined* is what `anechoic check` says with all detectors: a copy if one of them says so, at a
quarter of the rate for each of the four, so its rate of false alarms is that of the whole family.
At 1 % that takes 399 held-out clips.

Melodies that another instrument plays are measured apart, with the detector `notes`:
[melodies](melodies.md).

## The targets, against unrelated sound at 1 %

{targets}

## What no detector finds

Alterations of which the best single detector finds less than {weak} at 1 %, against unrelated
sound:

{missed}

{tables}

## Whether the right clip is named

The share of copies for which the nearest clip is the one that they are made of, whatever the score:

| | {names} |
|{rule}
{right}

## The alterations

{kinds}
"""


def main() -> None:
    """Measure what is missing, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--catalogue", type=int, default=661, help="clips that are searched")
    parser.add_argument("--copies", type=int, default=24, help="clips that are altered")
    parser.add_argument("--nulls", type=int, default=100, help="clips of a null; 4 times unrelated")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("evidence.jsonl"))
    parser.add_argument("--page", type=Path, default=ROOT / "docs/evidence/detectors.md")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    given = sounds(chosen.catalogue, chosen.copies, chosen.nulls, chosen.seed)
    found = measure(given, chosen.work)
    command = (
        f"python benchmarks/evidence.py --catalogue {chosen.catalogue} --copies {chosen.copies} "
        f"--nulls {chosen.nulls} --seed {chosen.seed}"
    )
    chosen.page.write_text(page(found, given, command), "utf-8")
    print(f"written: {chosen.page}")


if __name__ == "__main__":
    main()
