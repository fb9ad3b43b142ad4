"""Describes an audit so that it can be repeated, and cites its methods."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

from anechoic.audit.examine import SampleResult, Scorer
from anechoic.audit.excerpts import similarity_matrix
from anechoic.audit.result import DetectorInfo
from anechoic.audit.samples import AuditPlan, Generate, Sample
from anechoic.audit.summary import q_values
from anechoic.audit.training import TrainingSet
from anechoic.detectors import Calibration, Detector
from anechoic.detectors.sound import FittedToSome, underlying
from anechoic.environment import machine, versions
from anechoic.types import Embedder
from anechoic.verdict import Rule

__all__ = ["about", "citations", "detectors", "source_of", "versions"]


def source_of(thing: Any) -> str:
    """The source named in a docstring, on one line; empty if there is none.

    >>> source_of(q_values)
    'Benjamini and Hochberg, 1995; Bates et al., 2023 (arXiv:2104.08279).'
    """
    found = re.search(r"^Source: (.+?)(?:\n\s*\n|\Z)", inspect.getdoc(thing) or "", re.M | re.S)
    return " ".join(found[1].split()) if found else ""


def detectors(
    searching: Sequence[Detector],
    scorers: Sequence[Scorer],
    rows: Sequence[tuple[Sample, str, SampleResult]],
    calibrations: Mapping[str, Calibration],
) -> list[DetectorInfo]:
    """The detectors of an audit, the deciding one first, and the scorers that were used."""
    used = dict.fromkeys(name for _, _, found in rows for name in found.matches)
    own: dict[str, Any] = {detector.name: type(underlying(detector)) for detector in searching}
    left_out = {one.name: len(one.left_out) for one in searching if isinstance(one, FittedToSome)}
    for name in used:
        for scorer in scorers:
            if name not in own and name.startswith(scorer.starts):
                own[name] = scorer.kind
    return [
        DetectorInfo(
            name=name,
            decides=name == searching[0].name,
            about=_first_sentence(kind) + _without(left_out.get(name, 0)),
            source=source_of(kind),
            calibration=calibrations.get(name),
        )
        for name, kind in own.items()
    ]


def _without(count: int) -> str:
    return f"; without {count} training clips that are silent, too short or too bare for it" * bool(
        count
    )


def about(
    training: TrainingSet,
    embedder: Embedder,
    plan: AuditPlan,
    generators: Mapping[str, Generate],
    model: str,
    facts: Mapping[str, str],
) -> dict[str, str]:
    """All facts needed to repeat an audit, by name."""
    index = training.index
    revision = f" at {index.revision}" if index.revision else ""
    rows = "whole clips"
    if index.window_s is not None:
        rows = f"windows of {index.window_s:g} s every {index.hop_s or index.window_s:g} s"
    found = dict(facts)
    if generators:
        found.setdefault("model", model)
        seeds = sorted({sample.seed for sample in plan.samples if sample.seed is not None})
        found["prompts"] = f"{len({sample.prompt for sample in plan.samples})}"
        found["seeds"] = _seeds(seeds)
        for guard, generate in generators.items():
            found[f"guard {guard}"] = getattr(generate, "about", "as its function does it")
    else:
        found["files"] = f"{len(plan.samples)} to examine"
    return {
        **found,
        "index": f"{index.name}: {len(training.clips)} clips, {len(index)} rows ({rows}), "
        f"{'centred, ' if index.centred else ''}exact duplicates not merged",
        "index hash": training.fingerprint,
        "embedder": f"{embedder.name}{revision}, {embedder.dim} dimensions, {embedder.sample_rate} "
        "Hz, mean of the channels",
        **{name: value for name, value in machine("").items() if name != "processes"},
    }


def citations(
    searching: Sequence[Detector],
    scorers: Sequence[Scorer],
    generators: Mapping[str, Generate],
    rule: Rule | None,
) -> list[str]:
    """The distinct sources of the methods that were computed."""
    things: list[Any] = [type(detector) for detector in searching]
    things += [scorer.kind for scorer in scorers]
    things += [TrainingSet.among_themselves, similarity_matrix]
    things += [] if rule is None or rule.calibration is None else [Calibration, q_values]
    found = [source_of(thing) for thing in things]
    found += [getattr(generate, "source", "") for generate in generators.values()]
    return [text for text in dict.fromkeys(found) if text]


def _first_sentence(kind: Any) -> str:
    text = " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())
    return re.sub(r" \(`[^`]*`\)", "", text.partition(". ")[0].rstrip("."))


def _seeds(seeds: Sequence[int]) -> str:
    """Seeds in a few words.

    >>> _seeds([0, 1, 2, 3]), _seeds([1, 5])
    ('0 to 3', '1, 5')
    """
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))
