"""The papers' claims, decided from a work file by one rule.

A claim is one or several comparisons of two guards on the same models, prompts and seeds. Each is
decided by its difference, signed so that what the claim says is positive, and that difference's
95 % interval and test (`anechoic.metrics.paired`):

- *greater*: reproduced if the difference is positive at a p-value under `LEVEL`; not reproduced if
  its interval lies under `MARGIN`, as an advantage of that size is then excluded; otherwise not
  decided.
- *no worse*: reproduced if the interval lies over -`MARGIN`; not reproduced if the difference is
  negative at a p-value under `LEVEL` and its interval does not lie over -`MARGIN`; otherwise not
  decided.
- *tells apart* (an area under the curve, not a difference): reproduced if its interval lies over
  `APART`, not reproduced if it lies under, otherwise not decided.

A claim is reproduced if all of its comparisons are, not reproduced if one of them is not, and
otherwise not decided. A comparison of which nothing was measured is not decided.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from anechoic.metrics import Paired, paired
from anechoic_lab.bench.task import MEMORIZED
from anechoic_lab.instruments.measure import ORDINARY, UNGUARDED, Line, place, table
from anechoic_lab.metrics import auc
from anechoic_lab.metrics.rates import ConfidenceInterval

LEVEL = 0.05
MARGIN = 0.1
APART = 0.9
LEAST = 4  # pairs that a comparison needs

REPRODUCED, NOT_REPRODUCED, NOT_DECIDED = "reproduced", "not reproduced", "not decided"
Kind = Literal["greater", "no worse"]


def copied(line: Line) -> float:
    """Whether it is a copy of its own clip: two judges say so, or ranks, or a second of it is."""
    return float(line.confirmed or bool(line.by_rank) or bool(line.in_part))


def adherence(line: Line) -> float:
    """The share of the prompt that is right."""
    return line.adherence


def work(line: Line) -> float:
    """Passes, over twice the unguarded ones: a figure between 0 and 1."""
    return min(1.0, line.passes / (4 * line.steps))


@dataclass(frozen=True)
class Finding:
    """A comparison, and what it says of its claim."""

    what: str
    found: Paired | ConfidenceInterval | None  # None: too little was measured
    n: int
    verdict: str


@dataclass(frozen=True)
class Comparison:
    """One guard against another.

    Args:
        what: the comparison in words.
        figure: of a line, in [0, 1].
        better, worse: the guards; the claim is that the first has more of the figure.
        group: the prompts.
        kind: "greater" or "no worse".
        less: the claim is that `better` has less of the figure, as of copies.
        model: None: all models together.
    """

    what: str
    figure: Callable[[Line], float]
    better: str
    worse: str
    group: str = MEMORIZED
    kind: Kind = "greater"
    less: bool = False
    model: str | None = None

    def decide(self, lines: Sequence[Line]) -> Finding:
        """The verdict of the lines of a work file."""
        pairs = list(self._pairs(lines))
        if len({prompt for _, _, prompt in pairs}) < LEAST:
            return Finding(self.what, None, len(pairs), NOT_DECIDED)
        ours, theirs, prompts = zip(*pairs, strict=True)
        first, second = (theirs, ours) if self.less else (ours, theirs)
        found = paired(first, second, prompts, effect=MARGIN)
        return Finding(self.what, found, found.n, _verdict(self.kind, found))

    def _pairs(self, lines: Sequence[Line]) -> Iterator[tuple[float, float, str]]:
        other = {place(one): one for one in lines if one.guard == self.worse}
        for one in lines:
            where = place(one)
            asked = (one.guard, one.group) == (self.better, self.group)
            if asked and where in other and self.model in (None, one.model):
                prompt = f"{one.model}/{one.prompt}"
                yield self.figure(one), self.figure(other[where]), prompt


@dataclass(frozen=True)
class Separation:
    """Whether a number that is recorded along the run tells memorized prompts from ordinary ones.

    Memorized are those that are copied unguarded.
    """

    what: str
    score: Callable[[Line], float | None]
    guard: str

    def decide(self, lines: Sequence[Line]) -> Finding:
        """The verdict of the lines of a work file: the least of the models' areas decides."""
        names = sorted({one.model for one in lines})
        areas = {name: separation(lines, name, self.guard, self.score) for name in names}
        found = {name: area for name, area in areas.items() if area is not None}
        if not found:
            return Finding(self.what, None, 0, NOT_DECIDED)
        model, (area, n) = min(found.items(), key=lambda item: item[1][0].value)
        verdict = NOT_DECIDED
        if area.low > APART:
            verdict = REPRODUCED
        elif area.high < APART:
            verdict = NOT_REPRODUCED
        return Finding(f"{self.what}: area under the curve, least of all on {model}", area, n,
                       verdict)  # fmt: skip


def separation(
    lines: Sequence[Line], model: str, guard: str, score: Callable[[Line], float | None]
) -> tuple[ConfidenceInterval, int] | None:
    """The area under the curve of a score on one model, and the number of samples; None if one
    side has fewer than `LEAST`."""
    plain = {place(one) for one in lines if one.guard == UNGUARDED and copied(one)}
    sides: dict[bool, list[float]] = {True: [], False: []}
    for one in lines:
        value = score(one) if (one.model, one.guard) == (model, guard) else None
        if value is None or (one.group == MEMORIZED and place(one) not in plain):
            continue
        sides[one.group == MEMORIZED].append(value)
    if min(map(len, sides.values())) < LEAST:
        return None
    return auc(sides[True], sides[False]), len(sides[True]) + len(sides[False])


def _verdict(kind: Kind, found: Paired) -> str:
    if kind == "greater":
        if found.difference > 0 and found.p < LEVEL:
            return REPRODUCED
        return NOT_REPRODUCED if found.high < MARGIN else NOT_DECIDED
    if found.low > -MARGIN:
        return REPRODUCED
    return NOT_REPRODUCED if found.difference < 0 and found.p < LEVEL else NOT_DECIDED


@dataclass(frozen=True)
class Claim:
    """A claim, and what decides it."""

    letter: str  # in design notes and on the page
    paper: str
    text: str
    parts: Sequence[Comparison | Separation]

    def decide(self, lines: Sequence[Line]) -> tuple[str, list[Finding]]:
        """The verdict, and those of its comparisons."""
        found = [part.decide(lines) for part in self.parts]
        verdicts = {one.verdict for one in found}
        if NOT_REPRODUCED in verdicts:
            return NOT_REPRODUCED, found
        return (REPRODUCED if verdicts == {REPRODUCED} else NOT_DECIDED), found


FULL, ALONE = "amg-tuned", "dissimilarity"
TERMS: Mapping[str, str] = {
    ALONE: "dissimilarity alone",
    "despecification": "despecification alone",
    "deduplication": "caption deduplication alone",
    "without-dissimilarity": "both terms without a gradient",
    "without-despecification": "caption deduplication and dissimilarity",
    "without-deduplication": "despecification and dissimilarity",
}


def _fewer(better: str, worse: str, what: str, model: str | None = None) -> Comparison:
    return Comparison(f"fewer copies than {what}", copied, better, worse, less=True, model=model)


def first_distance(line: Line) -> float | None:
    """Of the predictions with and without the prompt, at the first evaluation."""
    return line.distances[0] if line.distances else None


def mean_distance(line: Line) -> float | None:
    """The mean of that distance over the run."""
    known = [value for value in line.distances or () if value is not None]
    return sum(known) / len(known) if known else None


def claims(models: Sequence[str]) -> list[Claim]:
    """All claims; those of one method in each scenario take each of these models as one."""
    return [
        Claim("a", "AMG for sound", "dissimilarity is the strongest single term", [
            _fewer(ALONE, "despecification", TERMS["despecification"]),
            _fewer(ALONE, "deduplication", TERMS["deduplication"]),
        ]),
        Claim("b", "AMG for sound", "full AMG beats every single term and pair",
              [_fewer(FULL, name, what) for name, what in TERMS.items()]),
        Claim("c", "AMG for sound", "adherence is not significantly worse", [
            Comparison(f"adherence, {group} prompts, against unguarded", adherence, FULL,
                       UNGUARDED, group, "no worse")
            for group in (MEMORIZED, ORDINARY)
        ]),
        Claim("d", "AMG", "the other terms lower the strength that dissimilarity needs",
              [_fewer("amg-weak", "dissimilarity-weak", "dissimilarity alone at c3 = 100")]),
        Claim("e", "AMG", "the gate beats an open one on adherence, and a constant threshold", [
            Comparison("more adherence, ordinary prompts, than with an open gate", adherence,
                       FULL, "amg-open", ORDINARY),
            _fewer(FULL, "amg-constant", "with a constant threshold"),
        ]),
        Claim("f", "Basin", "the norm of c - u is high for memorized prompts only",
              [Separation("its mean over the run", mean_distance, "cfg")]),
        Claim("g", "Basin", "guidance from after the fall on does not replicate, from before does",
              [_fewer("static", "early", "with guidance from before the fall on")]),
        Claim("h", "Basin", "opposite guidance keeps more adherence than zero guidance", [
            Comparison(f"adherence, {group} prompts", adherence, "opposite", "static", group)
            for group in (MEMORIZED, ORDINARY)
        ]),
        Claim("i", "Basin", "the same method works on each model",
              [_fewer("opposite", UNGUARDED, f"unguarded, on {name}", name) for name in models]),
        Claim("j", "Basin", "no extra cost", [
            Comparison(f"passes, {name}, against unguarded", work, name, UNGUARDED, kind="no worse",
                       less=True)
            for name in ("static", "dynamic", "opposite")
        ]),
        Claim("k", "Wen", "the first step alone tells memorized prompts apart",
              [Separation("the norm of c - u at the first step", first_distance, "cfg")]),
    ]  # fmt: skip


def claims_table(lines: Sequence[Line]) -> str:
    """The verdict on each claim, with the figures of each comparison."""
    rows = []
    for claim in claims(sorted({line.model for line in lines})):
        verdict, found = claim.decide(lines)
        for number, one in enumerate(found):
            head = (f"({claim.letter}) {claim.paper}: {claim.text}", f"**{verdict}**")
            rows.append((*(("", "") if number else head), one.what, *_cells(one)))
    return table(
        ("claim", "verdict", "comparison", "difference", "p", "power to see .1", "prompts",
         "of itself"),
        rows,
    )  # fmt: skip


def _cells(one: Finding) -> tuple[str, str, str, str, str]:
    if one.found is None:
        return "not measured", "", "", str(one.n), one.verdict
    p, power = "", ""
    if isinstance(one.found, Paired):
        value, p, power = one.found.difference, f"{one.found.p:.2g}", f"{one.found.power:.2f}"
    else:
        value = one.found.value
    shown = f"{value:.2f} [{one.found.low:.2f}, {one.found.high:.2f}]"
    return shown, p, power, str(one.n), one.verdict
