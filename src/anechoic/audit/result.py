"""The results of an audit, as frozen records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from anechoic.audit import summary
from anechoic.audit.examine import SampleResult
from anechoic.audit.samples import Sample, Unexamined
from anechoic.audit.summary import FALSE_DISCOVERY_RATE, Count
from anechoic.audit.supplement import Supplement
from anechoic.audit.training import TrainingSet
from anechoic.detectors import Calibration, Match
from anechoic.errors import BadSetting
from anechoic.metrics import Similarity, share_interval, top1_summary
from anechoic.verdict import Rule, without_rule


@dataclass(frozen=True)
class Examined:
    """One examined sound, and the verdict on it."""

    sample: Sample
    sha256: str  # hash of the examined file
    result: SampleResult
    match: Match  # by the deciding detector
    replicates: bool | None  # None: not judged
    p_value: float | None  # None: the detector is not calibrated
    q_value: float | None  # over all sounds of its guard; None: another threshold decides
    copies: Mapping[str, bool]  # by each calibrated detector that could compare


@dataclass(frozen=True)
class DetectorInfo:
    """A detector of the audit."""

    name: str
    decides: bool
    about: str  # what it does, in a sentence
    source: str  # publication of the method; empty: unknown
    calibration: Calibration | None


@dataclass(frozen=True)
class Background:
    """Scores of the deciding detector on sound that was not generated."""

    label: str
    scores: Sequence[float]


@dataclass(frozen=True)
class Group:
    """The sounds of one guard."""

    guard: str
    examined: int
    replications: int | None  # None: not judged
    share: tuple[float, float, float] | None  # with its 95 % interval over prompts
    expected: float | None  # mean number of replications by chance
    by_chance: int | None  # replications by chance, at most, in 95 of 100 such audits
    discoveries: int | None  # replications that hold at the false-discovery rate
    similarity: Similarity  # the distribution of the scores


@dataclass(frozen=True, eq=False)
class Report:
    """All results of an audit; `anechoic.audit.write_report` writes them as a page."""

    examined: Sequence[Examined]  # worst first
    unexamined: Sequence[Unexamined]
    rule: Rule | None  # None: the sounds are ranked, and not judged
    detectors: Sequence[DetectorInfo]  # the deciding one first
    background: Sequence[Background]
    training: TrainingSet
    about: Mapping[str, str]  # all facts needed to repeat it
    notes: Sequence[str]
    citations: Sequence[str]
    media: Path  # folder of the sounds and pictures
    noun: str  # what the sounds are called: "generation" or "file"
    guards: Sequence[str] = ()  # in the requested order
    supplement: Supplement | None = None  # additional figures of a comparison of guards

    @property
    def calibration(self) -> Calibration | None:
        """What the rule is calibrated on; None: it is not, or nothing was judged."""
        return None if self.rule is None else self.rule.calibration

    @property
    def false_positive_rate(self) -> float | None:
        """The rule's share of sound that copies nothing but is called a copy; None: unknown."""
        return None if self.rule is None else self.rule.false_positive_rate

    @property
    def unjudged(self) -> str:
        """Why no sound was judged, as a clause; empty: they were judged."""
        if self.rule is not None:
            return ""
        return without_rule(self.training.index, self.detectors[0].name)

    @cached_property
    def count(self) -> Count:
        """The number of replications, and what chance explains."""
        prompts = {one.sample.prompt for one in self.examined if one.sample.prompt}
        hit = {one.sample.prompt for one in self.examined if one.sample.prompt and one.replicates}
        expected, most = summary.expected_by_chance(len(self.examined), self.false_positive_rate)
        known = self.calibration
        held_out = None if known is None else len(known.null)
        needed = [summary.held_out_needed(g.replications, g.examined) for g in self.groups]
        least = min((n for n in needed if n is not None), default=0)
        others = [
            one.calibration.false_positive_rate
            for one in self.detectors
            if one.calibration is not None and not one.decides
        ]
        clear = sum(not one.replicates for one in self.examined)
        return Count(
            replications=_replications(self.examined),
            examined=len(self.examined),
            unexamined=len(self.unexamined),
            prompts=len(prompts),
            prompts_replicating=len(hit),
            expected=expected,
            by_chance=most,
            discoveries=sum(_stands(one.q_value) for one in self.examined) if known else None,
            only_elsewhere=sum(
                any(one.copies.values()) and not one.replicates for one in self.examined
            ),
            expected_elsewhere=clear * sum(others),
            held_out=held_out,
            held_out_needed=least if held_out is not None and least > held_out else None,
        )

    @property
    def sentences(self) -> list[str]:
        """The verdict and its certainty; sounds that were not examined come first."""
        guards = [(one.guard, one.replications or 0, one.examined) for one in self.groups]
        return summary.sentences(self.count, self.noun, guards, self.unjudged)

    @property
    def sentence(self) -> str:
        """The verdict as one text."""
        return " ".join(self.sentences)

    @cached_property
    def groups(self) -> list[Group]:
        """The guards side by side, the plain generator first."""
        there = {one.sample.guard for one in self.examined}
        asked = dict.fromkeys([*self.guards, *sorted(there)])
        names = [name for name in asked if name in there]
        return [self._group(name) for name in sorted(names, key=_is_guarded)]

    def _group(self, guard: str) -> Group:
        rows = [one for one in self.examined if one.sample.guard == guard]
        over = [float(one.replicates) for one in rows if one.replicates is not None]
        clusters = [one.sample.prompt or one.sample.name for one in rows]
        share = None
        if over:
            with suppress(BadSetting):  # a single prompt
                found = share_interval(over, clusters)
                share = (found.value, found.low, found.high)
        expected, most = summary.expected_by_chance(len(rows), self.false_positive_rate)
        known = self.calibration is not None
        return Group(
            guard=guard,
            examined=len(rows),
            replications=_replications(rows),
            share=share,
            expected=expected,
            by_chance=most,
            discoveries=sum(_stands(one.q_value) for one in rows) if known else None,
            similarity=top1_summary([one.match.score for one in rows]),
        )


def _replications(rows: Sequence[Examined]) -> int | None:
    """How many of them replicate; None if any was not judged."""
    judged = [one.replicates for one in rows if one.replicates is not None]
    return sum(judged) if len(judged) == len(rows) else None


def _stands(q_value: float | None) -> bool:
    return q_value is not None and q_value <= FALSE_DISCOVERY_RATE


def _is_guarded(guard: str) -> bool:
    return guard not in ("", "none")


def examined(
    rows: Sequence[tuple[Sample, str, SampleResult]],
    decides: str,
    rule: Rule | None,
    calibrations: Mapping[str, Calibration],
) -> list[Examined]:
    """The verdicts on sounds that the detector `decides` could compare, worst first.

    The false-discovery rate is controlled within each guard, so that the verdicts on one guard do
    not depend on the others in the audit.
    """
    matches = [result.matches[decides] for _, _, result in rows]
    known = calibrations.get(decides)
    p_values = [None if known is None else known.p_value(match.score) for match in matches]
    q_values: list[float | None] = [None] * len(rows)
    calibrated = rule is not None and rule.calibration is not None
    for guard in {sample.guard for sample, _, _ in rows} if calibrated else ():
        own = [i for i, (sample, _, _) in enumerate(rows) if sample.guard == guard]
        found = summary.q_values([p for i in own if (p := p_values[i]) is not None])
        for i, q_value in zip(own, found, strict=True):
            q_values[i] = q_value
    made = [
        Examined(
            sample=sample,
            sha256=sha256,
            result=result,
            match=match,
            replicates=None if rule is None else rule.is_copy(match.score),
            p_value=p_value,
            q_value=q_value,
            copies=_copies(result, calibrations),
        )
        for (sample, sha256, result), match, p_value, q_value in zip(
            rows, matches, p_values, q_values, strict=True
        )
    ]
    return sorted(made, key=lambda one: (-one.match.score, one.sample.name))


def _copies(result: SampleResult, calibrations: Mapping[str, Calibration]) -> dict[str, bool]:
    return {
        name: calibrations[name].exceeds(match.score)
        for name, match in result.matches.items()
        if name in calibrations and not math.isinf(match.score)
    }
