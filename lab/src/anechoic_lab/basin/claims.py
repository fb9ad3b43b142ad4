"""Reads a sweep: similarity curves, where the basin ends, which of the paper's claims hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean

import numpy as np

from anechoic_lab.basin.sweep import ORDINARY, Course, Scorer, Sweep, SweptSample
from anechoic_lab.bench.figures import MEAN, SHARE, Figure
from anechoic_lab.bench.task import MEMORIZED
from anechoic_lab.metrics import difference_interval

BAND = (10, 90)  # percentiles of prompts x seeds
HIGH, LOW = 0.8, 0.2  # the fall of a course is measured between these shares of its maximum
COPIED, FREE = 0.9, 0.1  # shares of copies before and after the fall that reproduce claim (g)

REPRODUCED, PARTLY = "reproduced", "reproduced in part"
NOT_REPRODUCED, NOT_TESTABLE = "not reproduced", "not testable here"
TOO_FEW = "too few prompts to tell"
PROMPTS = 4  # a group needs this many for a meaningful interval over prompts


@dataclass(frozen=True)
class Band:
    """A mean over prompts and seeds, and the range of the middle 80 %."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, and the verdict on it."""

    text: str
    verdict: str
    rule: str  # how the verdict is decided
    evidence: Sequence[str]


# ------------------------------------------------------------------------------------------- curves


def groups(sweep: Sweep) -> list[str]:
    """The groups of prompts that were swept, memorized first."""
    known = {prompt.group for prompt in sweep.prompts}
    return [group for group in (MEMORIZED, ORDINARY) if group in known]


def band(values: Sequence[float]) -> Band:
    """The mean and the middle 80 %.

    >>> band([0.0, 0.5, 1.0])
    Band(mean=0.5, low=0.1, high=0.9)
    """
    low, high = np.percentile(values, BAND)
    return Band(float(np.mean(values)), float(low), float(high))


def curve(sweep: Sweep, judge: str, group: str, before: float) -> list[Band]:
    """Similarity at each sampled step, over the prompts of a group and all seeds."""
    return [
        band([take.scores[judge] for take in sweep.takes
              if (take.group, take.before, take.step) == (group, before, step)])
        for step in sweep.steps
    ]  # fmt: skip


def called(before: float) -> str:
    """The paper's name for the guidance before the start.

    >>> called(0.0), called(-1.0), called(1.0)
    ('zero CFG', 'opposite guidance -1', 'guidance 1')
    """
    if before == 0:
        return "zero CFG"
    return f"{'opposite guidance' if before < 0 else 'guidance'} {before:g}"


def at(sweep: Sweep, step: int) -> str:
    """A step and its noise level, as text."""
    if step == len(sweep.log_snr):
        return f"step {step} (it never does)"
    return f"step {step} (log-SNR {sweep.log_snr[step]:.1f})"


# ------------------------------------------------------------------------------- where a basin ends


def basin_end(sweep: Sweep, judge: Scorer, before: float) -> int | None:
    """The first sampled step at which guidance can start without copying, on average.

    Returns:
        The first step such that at it and at every later one the mean similarity of the memorized
        prompts is below the judge's threshold; None if it stays above, or without a threshold.
    """
    if judge.threshold is None:
        return None
    means = [point.mean for point in curve(sweep, judge.name, MEMORIZED, before)]
    near = [i for i, value in enumerate(means) if judge.is_copy(value)]
    first = near[-1] + 1 if near else 0
    return sweep.steps[first] if first < len(means) else None


def sentence(sweep: Sweep, judge: Scorer, before: float) -> str:
    """Where the basin of the memorized prompts ends, in words."""
    means = [point.mean for point in curve(sweep, judge.name, MEMORIZED, before)]
    who = f"After {called(before)}, the mean similarity ({judge.name}) of the memorized prompts"
    if judge.threshold is None:
        drops = [a - b for a, b in pairwise(means)]
        i = int(np.argmax(drops))
        return (
            f"{who} falls most, from {means[i]:.2f} to {means[i + 1]:.2f}, as the start of CFG "
            f"moves from {at(sweep, sweep.steps[i])} to {at(sweep, sweep.steps[i + 1])}; what is a "
            "copy cannot be told, as the index has no calibrated threshold."
        )
    copy = f"the copy threshold of {judge.threshold:g}"
    end = basin_end(sweep, judge, before)
    if end is None:
        return f"{who} reaches {copy} even if CFG starts at {at(sweep, sweep.steps[-1])}."
    single = _last_copies(sweep, judge, before)
    if end == 0:
        return f"{who} is under {copy} wherever CFG starts. {single}"
    before_end = list(sweep.steps).index(end) - 1
    never = end == len(sweep.log_snr)
    start = "only if CFG never starts" if never else f"if CFG starts at {at(sweep, end)} or later"
    return (
        f"{who}, {means[0]:.2f} under plain CFG, is under {copy} {start}; at the sampled step "
        f"before, {sweep.steps[before_end]}, it is {means[before_end]:.2f}. {single}"
    )


def _last_copies(sweep: Sweep, judge: Scorer, before: float) -> str:
    """The last step at which single generations are still copies, which the mean hides."""
    takes = [t for t in sweep.takes if (t.group, t.before) == (MEMORIZED, before)]
    last = max((t.step for t in takes if judge.is_copy(t.scores[judge.name])), default=None)
    if last is None:
        return "No single generation is a copy."
    there = [judge.is_copy(t.scores[judge.name]) for t in takes if t.step == last]
    return f"The last copies are made from step {last}: {sum(there)} of {len(there)}."


# ------------------------------------------------------------------------------------------- claims


def claims(sweep: Sweep, judge: Scorer) -> list[Claim]:
    """The paper's claims about the basin, each with a verdict and the rule behind it.

    Source: Jain et al., 2025 (arXiv:2411.16738).
    """
    return [_fall(sweep), _transition(sweep, judge), _opposite(sweep, judge)]


def _fall(sweep: Sweep) -> Claim:
    """Is the norm high, and does it fall sharply, for memorized prompts only?"""
    evidence, holds = [], []
    for guidance in (sweep.scale, sweep.befores[0]):
        run = "plain CFG" if guidance == sweep.scale else called(guidance)
        for name, measure, sign in _MEASURES:
            if not sign and guidance != sweep.scale:
                continue  # all runs start alike
            found = {}
            for group in groups(sweep):
                courses = [c for c in sweep.courses if (c.guidance, c.group) == (guidance, group)]
                known = [(v, c.prompt) for c in courses
                         if (v := measure(c, sweep.log_snr)) is not None]  # fmt: skip
                found[group] = MEAN.of([v for v, _ in known], [prompt for _, prompt in known])
            text = ", ".join(f"{group} {_format(figure)}" for group, figure in found.items())
            if sign:
                holds.append(_apart(list(found.values()), sign))
                text += "; holds" if holds[-1] else "; does not hold"
            evidence.append(f"{run}, {name}: {text}")
    return Claim(
        "The norm of c - u is high and falls sharply for memorized prompts only.",
        _verdict(sweep, (MEMORIZED, ORDINARY), holds),
        f"in plain runs and under {called(sweep.befores[0])}, the memorized prompts' interval lies "
        "wholly above the ordinary ones' for the highest ||c - u||, and wholly below it for the "
        'log-SNR in which it falls; "in part" if some of these four hold',
        evidence,
    )


def _transition(sweep: Sweep, judge: Scorer) -> Claim:
    """Does guidance replicate if it starts before the fall, and not if it starts after it?"""
    text = "CFG that is switched on after that fall does not replicate; before it, it does."
    rule = (
        f"of the memorized prompts and seeds that plain CFG copies, {COPIED:.0%} or more are "
        "copies if CFG started before their own fall (found while the guidance before it was "
        f'held) and {FREE:.0%} or fewer after it, for each guidance; "in part" if more before '
        "than after, by intervals that do not overlap"
    )
    if judge.threshold is None:
        return Claim(text, NOT_TESTABLE, rule, ["The index has no calibrated threshold."])
    plain = {(t.prompt, t.seed): judge.is_copy(t.scores[judge.name]) for t in sweep.takes
             if t.step == 0 and t.group == MEMORIZED}  # fmt: skip
    if not any(plain.values()):
        return Claim(text, NOT_TESTABLE, rule, ["Plain CFG copies none of these prompts."])
    evidence, holds = [], []
    for before in sweep.befores:
        takes = [t for t in sweep.takes if t.before == before and plain.get((t.prompt, t.seed))]
        edges = {(c.prompt, c.seed): c.fall for c in sweep.courses if c.guidance == before}
        early, late = [
            _copies([t for t in takes if _is_after(t, edges[t.prompt, t.seed]) is after], judge)
            for after in (False, True)
        ]
        evidence.append(f"{called(before)}, share of copies: {_format(early)} before the fall, "
                        f"{_format(late)} after it")  # fmt: skip
        clean = bool(early and late and early.value >= COPIED and late.value <= FREE)
        holds += [clean, clean or _apart([early, late], 1)]
    return Claim(text, _verdict(sweep, (MEMORIZED,), holds), rule, evidence)


def _opposite(sweep: Sweep, judge: Scorer) -> Claim:
    """Does opposite guidance bring the transition earlier?"""
    text = "Opposite guidance brings the transition earlier than zero CFG."
    rule = (
        "by the fall of ||c - u|| under half its maximum, the interval of the mean paired "
        'difference in steps lies wholly under 0; "in part" if the mean does'
    )
    opposite = [before for before in sweep.befores if before < 0]
    if 0.0 not in sweep.befores or not opposite:
        return Claim(text, NOT_TESTABLE, rule, ["Zero and opposite guidance were not both swept."])
    evidence, verdicts = [], []
    for before in opposite:
        for name in ("fall", "minimum"):
            comparison, holds = _earlier(sweep, before, name)
            evidence.append(f"{called(before)}, {RULES[name]}: {comparison}")
            verdicts += holds if name == "fall" else []
        ends = [basin_end(sweep, judge, b) for b in (0.0, before)]
        if all(end is not None for end in ends):
            evidence.append(
                "the mean similarity is under the copy threshold where CFG starts at "
                f"{at(sweep, int(ends[0] or 0))} or later after zero CFG, at "
                f"{at(sweep, int(ends[1] or 0))} or later after {called(before)}"
            )
    verdict = _verdict(sweep, (MEMORIZED,), verdicts) if verdicts else NOT_TESTABLE
    return Claim(text, verdict, rule, evidence)


RULES = {
    "fall": "by the fall of ||c - u||",
    "minimum": "by the paper's rule, the first local minimum of d_t",
}


def _earlier(sweep: Sweep, before: float, name: str) -> tuple[str, list[bool]]:
    """Compare the transitions of memorized prompts under one guidance with those of zero CFG."""
    zero, other = (
        {(c.prompt, c.seed): getattr(c, name) for c in sweep.courses
         if (c.guidance, c.group) == (guidance, MEMORIZED)}
        for guidance in (0.0, before)
    )  # fmt: skip
    both = [key for key in zero if zero[key] is not None and other[key] is not None]
    if not both:
        return f"none of {len(zero)} runs has one under both", []
    steps = [other[key] - zero[key] for key in both]
    text = (
        f"mean {at(sweep, round(mean(zero[key] for key in both)))} after zero CFG, "
        f"{at(sweep, round(mean(other[key] for key in both)))} here; earlier in "
        f"{sum(step < 0 for step in steps)}, later in {sum(step > 0 for step in steps)} of "
        f"{len(both)} runs that have one under both (of {len(zero)})"
    )
    prompts = [prompt for prompt, _ in both]
    if len(set(prompts)) < 2:
        return text, [mean(steps) < 0, False]
    found = difference_interval([other[k] for k in both], [zero[k] for k in both], prompts)
    spread = f"; difference {found.value:.1f} [{found.low:.1f}, {found.high:.1f}] steps"
    return text + spread, [found.value < 0, found.high < 0]


def fall_width(course: Course, log_snr: Sequence[float]) -> float | None:
    """The width in log-SNR of the final fall of ||c - u|| from 80 % to 20 % of its maximum.

    Measured from the last evaluation above 80 % to the first one after it below 20 %; None if the
    run ends before that.

    >>> course = Course("a", "ordinary", 0, 2.0, [], [1.0, 5.0, 4.5, 3.0, 0.5], None, 3)
    >>> fall_width(course, [-4.0, -3.0, -2.0, -1.0, 0.0])
    2.0
    """
    top = max(course.norm)
    start = max(i for i, value in enumerate(course.norm) if value >= HIGH * top)
    rest = range(start + 1, len(course.norm))
    end = next((i for i in rest if course.norm[i] < LOW * top), None)
    return None if end is None else log_snr[end] - log_snr[start]


# name, measure of a course, whether the paper claims more (1) or less (-1) for memorized prompts
_MEASURES: Sequence[tuple[str, Callable[[Course, Sequence[float]], float | None], int]] = (
    ("d_t at the first evaluation", lambda course, log_snr: course.distance[0], 0),
    ("highest ||c - u||", lambda course, log_snr: max(course.norm), 1),
    (f"log-SNR in which it falls from {HIGH:.0%} to {LOW:.0%} of that", fall_width, -1),
)


def _is_after(take: SweptSample, edge: int | None) -> bool:
    return edge is not None and take.step >= edge


def _copies(takes: Sequence[SweptSample], judge: Scorer) -> Figure | None:
    hits = [float(judge.is_copy(take.scores[judge.name])) for take in takes]
    return SHARE.of(hits, [take.prompt for take in takes])


def _apart(figures: Sequence[Figure | None], sign: int) -> bool:
    """Whether the first interval lies above the second; with sign -1, below."""
    first, second = figures if len(figures) == 2 else (None, None)
    if sign < 0:
        first, second = second, first
    if first is None or second is None or first.low is None or second.high is None:
        return False
    return first.low > second.high


def _verdict(sweep: Sweep, involved: Sequence[str], holds: Sequence[bool]) -> str:
    counts = Counter(prompt.group for prompt in sweep.prompts)
    if min(counts[group] for group in involved) < PROMPTS:
        return TOO_FEW
    if all(holds):
        return REPRODUCED
    return PARTLY if any(holds) else NOT_REPRODUCED


def _format(figure: Figure | None) -> str:
    """A figure with its interval and its counts."""
    if figure is None:
        return "none (0 runs)"
    spread = "" if figure.low is None else f" [{figure.low:.2f}, {figure.high:.2f}]"
    prompts, runs = (f"{n} {word}{'s' * (n != 1)}" for n, word in
                     ((figure.prompts, "prompt"), (figure.clips, "run")))  # fmt: skip
    return f"{figure.value:.2f}{spread} ({prompts}, {runs})"
