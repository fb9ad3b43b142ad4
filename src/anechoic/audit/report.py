"""Writes a report as a page, and its content as JSON and Parquet."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from anechoic import __version__
from anechoic.audit import summary
from anechoic.audit.excerpts import Shown
from anechoic.audit.html.report import BUDGET, render_audit
from anechoic.audit.result import Background, DetectorInfo, Examined, Group, Report
from anechoic.audit.samples import Sample
from anechoic.audit.summary import FALSE_DISCOVERY_RATE
from anechoic.detectors import Calibration, Match
from anechoic.errors import OutputExists
from anechoic.metrics import Similarity, top1_summary
from anechoic.parsing import readable
from anechoic.storage import whole_file, whole_folder, write_whole
from anechoic.verdict import CALIBRATE, Rule

FORMAT = 1
SCHEMA = "report.schema.json"
PAGE, DATA, ROWS, MEDIA = "report.html", "report.json", "report.parquet", "report-media"
FEW = 0.1  # caution if nothing was found and the share may still be higher than this
LOOSE = 2.0  # caution if a threshold's true rate may be this many times its nominal one
LONGER = 1.25  # caution if lengths differ from the held-out sound's by this factor


def schema() -> dict[str, Any]:
    """The JSON schema of `document`, draft 2020-12."""
    read: dict[str, Any] = json.loads((files("anechoic.audit") / SCHEMA).read_text("utf-8"))
    return read


def document(report: Report, cases: int | None = None) -> dict[str, Any]:
    """A report as a JSON document; a score of minus infinity becomes null.

    Args:
        report: what `audit` found.
        cases: the worst sounds of each guard that get sound and pictures; by default all.
    """
    left = Counter({one.guard: len(report.examined) if cases is None else cases
                    for one in report.groups})  # fmt: skip
    examined = []
    for rank, one in enumerate(report.examined, 1):
        examined.append(_examined(report, rank, one, left[one.sample.guard] > 0))
        left[one.sample.guard] -= 1
    return {
        "format": FORMAT,
        "anechoic": __version__,
        "sentences": report.sentences,
        "cautions": cautions(report),
        "count": asdict(report.count),
        "rule": None
        if report.rule is None
        else {**report.rule.to_dict(), "false_discovery_rate": FALSE_DISCOVERY_RATE},
        "detectors": [_detector(one) for one in report.detectors],
        "guards": [_group(one) for one in report.groups],
        "background": [_background(one, report.rule) for one in report.background],
        "examined": examined,
        "unexamined": [
            {**_sample(one.sample), "reason": clean(one.reason)} for one in report.unexamined
        ],
        "index": _index(report),
        "about": {clean(name): clean(value) for name, value in report.about.items()},
        "notes": [clean(note) for note in report.notes],
        "citations": list(report.citations),
        "noun": report.noun,
        "supplement": None if report.supplement is None else report.supplement.to_dict(),
    }


def rows(content: Mapping[str, Any]) -> Any:
    """The examined sounds of a document as a table, one row each, flat except the findings."""
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
        clip = {f"training_{key}": training.get(key) for key in
                ("id", "caption", "licence", "source", "url")}  # fmt: skip
        lines.append({**flat, **clip, "lag_s": row["match"] and row["match"]["lag_s"]})
    return pa.Table.from_pylist(lines, pa.schema(list(types.items())))


def clean(text: str) -> str:
    """Text that can be encoded: lone surrogates are escaped.

    >>> clean("a\\ud800b")
    'a\\\\ud800b'
    """
    return text.encode("utf-8", "backslashreplace").decode()


def _examined(report: Report, rank: int, one: Examined, shown: bool) -> dict[str, Any]:
    found = one.result
    calibrations = {d.name: d.calibration for d in report.detectors}
    return {
        "rank": rank,
        **_sample(one.sample),
        "sha256": one.sha256,
        "seconds": round(found.seconds, 6),
        "sample_rate": found.sample_rate,
        "channels": found.channels,
        "replicates": one.replicates,
        "score": _number(one.match.score),
        "p_value": one.p_value,
        "q_value": one.q_value,
        "training": None if found.clip is None else _clip(report, found.clip),
        "own": None if found.own is None else _clip(report, found.own),
        "match": _match(found.match, found.aligned_by),
        "findings": [
            _finding(report, name, finding, calibrations.get(name), one.copies.get(name))
            for name, finding in found.matches.items()
        ],
        "notes": [clean(note) for note in found.notes],
        "shown": _shown(found.shown) if found.shown and shown else None,
        "detail": _detail(report, one.sample),
    }


def _index(report: Report) -> dict[str, Any]:
    index = report.training.index
    return {
        "name": clean(index.name),
        "clips": len(report.training.clips),
        "rows": len(index),
        "seconds": round(index.seconds, 3) or None,
        "sha256": report.training.fingerprint,
    }


def _detail(report: Report, take: Sample) -> dict[str, Any] | None:
    known = {} if report.supplement is None else report.supplement.details
    detail = known.get((take.prompt, take.seed, take.guard))
    return None if detail is None else detail.to_dict()


def _shown(shown: Shown) -> dict[str, Any]:
    return {**asdict(shown), "missing": clean(shown.missing)}


def _sample(sample: Sample) -> dict[str, Any]:
    return {
        "name": clean(sample.name),
        "prompt": clean(sample.prompt),
        "seed": sample.seed,
        "guard": clean(sample.guard),
        "file": None if sample.file is None else readable(str(sample.file)),
        "info": {clean(key): clean(value) for key, value in sample.info.items()},
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


def _match(match: Match, located_by: str) -> dict[str, Any] | None:
    if match.start_s is None or match.match_start_s is None:
        return None
    return {
        "start_s": round(match.start_s, 6),
        "match_start_s": round(match.match_start_s, 6),
        "length_s": None if match.length_s is None else round(match.length_s, 6),
        "lag_s": round(match.start_s - match.match_start_s, 6),
        "located_by": located_by,
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
        "semitones": finding.semitones,
        "tempo": finding.tempo,
        "backwards": finding.backwards,
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


def _background(one: Background, rule: Rule | None) -> dict[str, Any]:
    found = top1_summary(one.scores, [] if rule is None else [rule.threshold])
    return {
        "label": one.label,
        "over": None if rule is None else found.over[rule.threshold],
        "similarity": _similarity(found),
        "scores": [round(score, 6) for score in one.scores],
    }


def _similarity(found: Similarity) -> dict[str, float]:
    names = ("mean", "p75", "p90", "p95", "maximum")
    return {name: round(getattr(found, name), 6) for name in names}


def _number(value: float) -> float | None:
    """A score for JSON; None unless it is finite."""
    return float(np.round(value, 6)) if math.isfinite(value) else None


# ------------------------------------------------------------------------------------- caveats


def cautions(report: Report) -> list[str]:
    """A sentence for each reason why a verdict is less certain than it looks: few sounds, or
    held-out sound of another length."""
    if not report.examined:
        return []
    known = report.calibration
    found = [_unknown_rate(report)] if known is None else [_few_held_out(known)]
    if known is not None and known.seconds is not None:
        lengths = [one.result.seconds for one in report.examined]
        found.append(_another_length(known.seconds, median(lengths), report.noun))
    return [text for text in [*found, _few_prompts(report)] if text]


def _unknown_rate(report: Report) -> str:
    if report.rule is None:
        return (
            f"To have it judged, {CALIBRATE}, and audit again: finished work is not done again. "
            "Or give '--held-out FOLDER' or '--threshold' to 'anechoic audit'."
        )
    if report.false_positive_rate is not None:
        return ""
    return (
        "How often sound that copies nothing is over this threshold is not known: give held-out "
        "sound, or calibrate the index."
    )


def _few_held_out(known: Calibration) -> str:
    low, high = known.false_positive_interval
    if high <= LOOSE * known.false_positive_rate:
        return ""
    return (
        f"{len(known.null)} held-out sounds are few: the true rate of false positives lies within "
        f"{100 * low:.2g} % and {100 * high:.2g} %."
    )


def _another_length(held_out: float, examined: float, noun: str) -> str:
    if 1 / LONGER < examined / held_out < LONGER:
        return ""
    more = "more" if examined > held_out else "less"
    return (
        f"The held-out sounds last {held_out:.3g} s and these {noun}s {examined:.3g} s (medians): "
        f"longer sound has more places to resemble something, so chance makes {more} of it than "
        "this report says."
    )


def _few_prompts(report: Report) -> str:
    """A caution if nothing was found among few sounds; the guard with the fewest decides."""
    open_ends: Sequence[float] = [
        group.share[2] for group in report.groups if group.share and not group.replications
    ]
    if not open_ends or max(open_ends) <= FEW:
        return ""
    prompts = "prompts" if report.count.prompts else f"{report.noun}s"
    return (
        f"Few {prompts} exclude little: where nothing was found, up to "
        f"{100 * max(open_ends):.0f} % of such {report.noun}s may still replicate (95 %)."
    )


# ------------------------------------------------------------------------------------- on disk


def parts(output: str | Path) -> dict[str, Path]:
    """The files of a report.

    Args:
        output: a folder, or the name of the page, which ends in .html.

    >>> [str(path) for path in parts("a/page.html").values()]
    ['a/page.html', 'a/page.json', 'a/page.parquet', 'a/page-media']
    """
    output = Path(output)
    names = [PAGE, DATA, ROWS, MEDIA]
    if output.suffix.lower() not in (".html", ".htm"):
        return {name: output / name for name in names}
    files = [output.name, f"{output.stem}.json", f"{output.stem}.parquet", f"{output.stem}-media"]
    return {name: output.parent / file for name, file in zip(names, files, strict=True)}


def require_free(output: str | Path, overwrite: bool = False) -> None:
    """Refuse to replace anything but a report.

    Raises:
        OutputExists: a part of the report exists, and `overwrite` is off; or the output is a file,
            or a folder with anything else than a report in it.
    """
    output = Path(output)
    known = parts(output)
    if known[PAGE] != output:
        if output.exists() and not output.is_dir():
            raise OutputExists(f"'{output}' is a file; name a folder, or a page that ends in .html")
        if output.is_dir():
            strange = sorted({path.name for path in output.iterdir()} - {PAGE, DATA, ROWS, MEDIA})
            if strange:
                raise OutputExists(
                    f"'{output}' holds '{strange[0]}', which is not part of a report; name another "
                    "folder"
                )
    there = [path for path in known.values() if path.exists()]
    if there and not overwrite:
        raise OutputExists.at(there[0])


def write_report(
    report: Report,
    output: str | Path,
    *,
    overwrite: bool = False,
    budget: int = BUDGET,
    cases: int | None = None,
) -> Path:
    """Write the page, the JSON document and the Parquet rows.

    Everything is written under other names first; the page, which needs the rest, comes last.

    Args:
        report: what `audit` found.
        output: a folder, or the name of the page, which ends in .html; the rest is put next to it.
        overwrite: replace an existing report.
        budget: bytes of sound and pictures in the page itself; the rest goes into a folder next
            to it. Pages of up to 25 MB open in a few seconds.
        cases: the worst sounds of each guard that are shown with sound and pictures; the others
            have only figures. By default all.

    Returns:
        The page.

    Raises:
        OutputExists: as `require_free`.
    """
    import pyarrow.parquet

    require_free(output, overwrite)
    places = parts(output)
    places[PAGE].parent.mkdir(parents=True, exist_ok=True)
    content = document(report, cases)
    page = render_audit(
        content, lambda key: (report.media / key).read_bytes(), places[MEDIA].name, budget
    )
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    with (
        whole_file(places[PAGE]) as new_page,
        whole_file(places[DATA]) as new_data,
        whole_file(places[ROWS]) as new_rows,
    ):
        new_page.write_text(page.text, "utf-8")
        new_data.write_text(text + "\n", "utf-8")
        pyarrow.parquet.write_table(rows(content), new_rows)
        if page.beside:
            with whole_folder(places[MEDIA]) as new_media:
                for key in page.beside:
                    shutil.copyfile(report.media / key, new_media / key)
        else:
            shutil.rmtree(places[MEDIA], ignore_errors=True)
    return places[PAGE]


def write_page(report: Report, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write only the page: one file that contains all sound and pictures.

    Raises:
        OutputExists: `path` exists, and `overwrite` is off.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise OutputExists.at(path)
    content = document(report)
    page = render_audit(content, lambda key: (report.media / key).read_bytes(), budget=sys.maxsize)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page.text.encode())
    return path
