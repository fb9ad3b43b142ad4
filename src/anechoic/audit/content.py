"""A report as data: one JSON document with a published schema, and rows for Parquet."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from importlib.resources import files
from typing import Any

import numpy as np

from anechoic import __version__
from anechoic.audit import summary
from anechoic.audit.caveats import cautions
from anechoic.audit.excerpts import Shown
from anechoic.audit.result import Background, DetectorInfo, Examined, Group, Report
from anechoic.audit.samples import Sample, readable
from anechoic.audit.summary import FALSE_DISCOVERY_RATE
from anechoic.detectors import Calibration, Match
from anechoic.metrics import Similarity, top1_summary

FORMAT = 1
SCHEMA = "report.schema.json"


def schema() -> dict[str, Any]:
    """The JSON schema of `document`, draft 2020-12."""
    return json.loads((files("anechoic.audit") / SCHEMA).read_text("utf-8"))


def document(report: Report, cases: int | None = None) -> dict[str, Any]:
    """A report as JSON holds it; a score that is minus infinity is null.

    Args:
        report: what `audit` found.
        cases: of how many sounds of each guard, the worst, sound and pictures are shown; by
            default of all.
    """
    left = Counter({one.guard: len(report.examined) if cases is None else cases
                    for one in report.groups})  # fmt: skip
    examined = []
    for rank, one in enumerate(report.examined, 1):
        examined.append(_examined(report, rank, one, left[one.take.guard] > 0))
        left[one.take.guard] -= 1
    return {
        "format": FORMAT,
        "anechoic": __version__,
        "sentences": report.sentences,
        "cautions": cautions(report),
        "count": asdict(report.count),
        "rule": {**report.rule.to_dict(), "false_discovery_rate": FALSE_DISCOVERY_RATE},
        "detectors": [_detector(one) for one in report.detectors],
        "guards": [_group(one) for one in report.groups],
        "background": [_background(one, report.rule.threshold) for one in report.background],
        "examined": examined,
        "unexamined": [
            {**_take(one.take), "reason": clean(one.reason)} for one in report.unexamined
        ],
        "about": {clean(name): clean(value) for name, value in report.about.items()},
        "notes": [clean(note) for note in report.notes],
        "citations": list(report.citations),
        "noun": report.noun,
        "supplement": None if report.supplement is None else report.supplement.to_dict(),
    }


def rows(content: Mapping[str, Any]) -> Any:
    """The examined sounds of a document as a table, a row each, flat but for the findings."""
    import pyarrow as pa

    finding = pa.struct(
        [
            ("detector", pa.string()),
            ("score", pa.float64()),
            ("p_value", pa.float64()),
            ("copy", pa.bool_()),
            ("training_id", pa.string()),
            ("start_s", pa.float64()),
            ("match_start_s", pa.float64()),
            ("length_s", pa.float64()),
        ]
    )
    types: dict[str, Any] = {
        **dict.fromkeys(("rank", "seed", "sample_rate", "channels"), pa.int64()),
        **dict.fromkeys(("score", "p_value", "q_value", "seconds", "lag_s"), pa.float64()),
        **dict.fromkeys(("name", "prompt", "guard", "file", "sha256"), pa.string()),
        **dict.fromkeys(
            [f"training_{key}" for key in ("id", "caption", "licence", "source", "url")],
            pa.string(),
        ),
        "replicates": pa.bool_(),
        "findings": pa.list_(finding),
    }
    lines = []
    for row in content["examined"]:
        training = row["training"] or {}
        flat = {key: row.get(key) for key in types}
        told = {f"training_{key}": training.get(key) for key in
                ("id", "caption", "licence", "source", "url")}  # fmt: skip
        lines.append({**flat, **told, "lag_s": row["match"] and row["match"]["lag_s"]})
    return pa.Table.from_pylist(lines, pa.schema(list(types.items())))


def clean(text: str) -> str:
    """Text that every encoding can hold: lone surrogates are spelt out.

    >>> clean("a\\ud800b")
    'a\\\\ud800b'
    """
    return text.encode("utf-8", "backslashreplace").decode()


def _examined(report: Report, rank: int, one: Examined, shown: bool) -> dict[str, Any]:
    found = one.examination
    calibrations = {d.name: d.calibration for d in report.detectors}
    return {
        "rank": rank,
        **_take(one.take),
        "sha256": one.sha256,
        "seconds": round(found.seconds, 6),
        "sample_rate": found.sample_rate,
        "channels": found.channels,
        "replicates": one.replicates,
        "score": _number(one.finding.score),
        "p_value": one.p_value,
        "q_value": one.q_value,
        "training": None if found.clip is None else _clip(report, found.clip),
        "own": None if found.own is None else _clip(report, found.own),
        "match": _match(found.match, found.aligned_by),
        "findings": [
            _finding(report, name, finding, calibrations.get(name), one.copies.get(name))
            for name, finding in found.findings.items()
        ],
        "notes": [clean(note) for note in found.notes],
        "shown": _shown(found.shown) if found.shown and shown else None,
        "detail": _detail(report, one.take),
    }


def _detail(report: Report, take: Sample) -> dict[str, Any] | None:
    known = {} if report.supplement is None else report.supplement.details
    detail = known.get((take.prompt, take.seed, take.guard))
    return None if detail is None else detail.to_dict()


def _shown(shown: Shown) -> dict[str, Any]:
    return {**asdict(shown), "missing": clean(shown.missing)}


def _take(take: Sample) -> dict[str, Any]:
    return {
        "name": clean(take.name),
        "prompt": clean(take.prompt),
        "seed": take.seed,
        "guard": clean(take.guard),
        "file": None if take.file is None else readable(str(take.file)),
        "info": {clean(key): clean(value) for key, value in take.info.items()},
    }


def _clip(report: Report, number: int) -> dict[str, Any]:
    clip = report.training.clips[number]
    info = {clean(key): clean(value) for key, value in clip.info.items()}
    file = report.training.file(number)
    return {
        "id": clean(clip.id),
        "caption": clean(clip.caption),
        "licence": info.pop("licence", info.pop("license", "")),
        "source": info.pop("source", ""),
        "url": info.pop("url", ""),
        "file": None if file is None else readable(str(file)),
        "info": info,
    }


def _match(match: Match, told_by: str) -> dict[str, Any] | None:
    if match.start_s is None or match.match_start_s is None:
        return None
    return {
        "start_s": round(match.start_s, 6),
        "match_start_s": round(match.match_start_s, 6),
        "length_s": None if match.length_s is None else round(match.length_s, 6),
        "lag_s": round(match.start_s - match.match_start_s, 6),
        "told_by": told_by,
    }


def _finding(
    report: Report,
    name: str,
    finding: Match,
    calibration: Calibration | None,
    copy: bool | None,
) -> dict[str, Any]:
    row = finding.row
    place = {
        key: None if value is None else round(value, 6)
        for key, value in (
            ("start_s", finding.start_s),
            ("match_start_s", finding.match_start_s),
            ("length_s", finding.length_s),
        )
    }
    weighed = calibration is not None and finding.compared
    return {
        "detector": name,
        "score": _number(finding.score),
        "p_value": calibration.p_value(finding.score) if weighed and calibration else None,
        "copy": copy,
        "training_id": None if row is None else clean(report.training.clips[row].id),
        "training_caption": None if row is None else clean(report.training.clips[row].caption),
        **place,
    }


def _detector(one: DetectorInfo) -> dict[str, Any]:
    known = one.calibration
    calibration = None
    if known is not None:
        low, high = known.false_positive_interval
        calibration = {
            "held_out": len(known.null),
            "false_positive_rate": known.false_positive_rate,
            "false_positive_interval": [low, high],
            "threshold": _number(known.threshold),
            "null": [_number(score) for score in known.null],
        }
    return {
        "name": one.name,
        "decides": one.decides,
        "about": one.about,
        "source": one.source,
        "calibration": calibration,
    }


def _group(one: Group) -> dict[str, Any]:
    return {
        "guard": clean(one.guard),
        "label": clean(summary.guard_name(one.guard)),
        "examined": one.examined,
        "replications": one.replications,
        "share": None if one.share is None else list(one.share),
        "expected": one.expected,
        "by_chance": one.by_chance,
        "discoveries": one.discoveries,
        "similarity": _similarity(one.similarity),
    }


def _background(one: Background, threshold: float) -> dict[str, Any]:
    found = top1_summary(one.scores, [threshold])
    return {
        "label": one.label,
        "over": found.over[threshold],
        "similarity": _similarity(found),
        "scores": [round(score, 6) for score in one.scores],
    }


def _similarity(found: Similarity) -> dict[str, float]:
    names = ("mean", "p75", "p90", "p95", "maximum")
    return {name: round(getattr(found, name), 6) for name in names}


def _number(value: float) -> float | None:
    """A score as JSON can hold it."""
    return float(np.round(value, 6)) if math.isfinite(value) else None


def media_keys(content: Mapping[str, Any]) -> list[list[str]]:
    """The sounds and pictures of each examined sound, in the order of the document."""
    found: list[list[str]] = []
    for row in content["examined"]:
        if (shown := row["shown"]) is None:
            found.append([])
            continue
        pictures = [one for one in (shown["made"], shown["training"], shown["own"]) if one]
        keys = [key for picture in pictures for key in (picture["sound"], picture["spectrogram"])]
        found.append([*keys, *([shown["matrix"]] if shown["matrix"] else [])])
    return found
