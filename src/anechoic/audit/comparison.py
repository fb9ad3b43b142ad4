"""Compares two audits: which copies went, came and stayed, paired by prompt and seed."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from anechoic.audit.html.report import environment, number, percent
from anechoic.audit.report import PAGE
from anechoic.audit.stored import StoredReport
from anechoic.audit.summary import guard_name
from anechoic.errors import BadSetting, OutputExists, some
from anechoic.metrics import Paired, paired, share_interval
from anechoic.storage import write_whole

Row = Mapping[str, Any]  # of the document of an audit
Key = tuple[str, int | None]  # prompt and seed, or the name of a sound without them


@dataclass(frozen=True)
class Side:
    """One of the two audits, and the guard whose sounds are compared."""

    report: str  # as it was named
    page: str
    guard: str
    label: str
    model: str | None  # None: the sounds were made elsewhere
    copies: int
    share: tuple[float, float, float] | None  # with its 95 % interval; None: a single prompt


@dataclass(frozen=True)
class Change:
    """The same prompt and seed in both audits."""

    prompt: str  # or the sound's name, if its prompt is not known
    seed: int | None
    before: float | None  # score; None: nothing could be compared
    after: float | None
    before_case: int  # its number in the report
    after_case: int
    clip: str  # caption of the nearest training clip where it is a copy, after rather than before


@dataclass(frozen=True)
class Comparison:
    """Two audits of the same prompts and seeds, by the same detector and limit."""

    before: Side
    after: Side
    detector: str
    threshold: float
    pairs: int
    prompts: int
    went: tuple[Change, ...]  # copies before only
    came: tuple[Change, ...]  # copies after only
    stayed: tuple[Change, ...]  # copies in both
    difference: Paired | None  # share of copies after minus before; None: a single prompt
    left_out: tuple[str, ...]  # names of sounds that one of the audits did not examine

    @property
    def sentence(self) -> str:
        """What changed, as one sentence."""
        text = (
            f"Of {self.pairs} sounds, {self.before.copies} are copies before and "
            f"{self.after.copies} after: {len(self.went)} went, {len(self.came)} came, "
            f"{len(self.stayed)} stayed."
        )
        return text.replace(" 0 came", " none came").replace(" 0 went", " none went")

    @property
    def certainty(self) -> str:
        """How sure the difference is, as one sentence."""
        if (found := self.difference) is None:
            return "A single prompt says nothing of others."
        return (
            f"The share of copies changes by {100 * found.difference:+.0f} percentage points "
            f"(95 % interval {100 * found.low:+.0f} to {100 * found.high:+.0f}; p {found.p:.2g}, "
            f"paired over {self.prompts} prompts)."
        )

    def to_dict(self) -> dict[str, Any]:
        """The comparison for JSON."""
        return {"sentence": self.sentence, "certainty": self.certainty, **asdict(self)}


def compare(
    before: StoredReport,
    after: StoredReport,
    guard_before: str | None = None,
    guard_after: str | None = None,
) -> Comparison:
    """Compare two audits, or two guards of one audit, paired by prompt and seed.

    The test takes prompts as independent, and averages the seeds of each first: it is McNemar's
    exact one where every prompt changes as a whole, and permuted signs otherwise
    (`anechoic.metrics.paired`).

    Args:
        before, after: the audits, as from `open_report`.
        guard_before, guard_after: whose sounds; they may be left out where there is one guard.

    Raises:
        BadSetting: the audits were not of the same training set, detector, limit, prompts and
            seeds, something was not judged, or a guard is not there or not named.

    Example:
        compare(open_report("before"), open_report("after")).sentence
    """
    names = [_guard(before, guard_before, "before"), _guard(after, guard_after, "after")]
    rows = [_rows(one, guard) for one, guard in zip((before, after), names, strict=True)]
    lost = [_unexamined(one, guard) for one, guard in zip((before, after), names, strict=True)]
    if differences := _differences(before, after, rows, lost):
        raise BadSetting(
            f"'{before.name}' and '{after.name}' cannot be compared: {'; '.join(differences)}; "
            "audit both with the same index, detector, limit, prompts and seeds"
        )
    both = [key for key in rows[0] if key in rows[1]]
    both.sort(key=lambda key: (-max(_score(side[key]) for side in rows), *map(str, key)))
    if not both:
        raise BadSetting(f"'{before.name}' and '{after.name}' have no sound that both examined")
    hits = [[bool(side[key]["replicates"]) for key in both] for side in rows]
    changes = [_change(key, rows[0][key], rows[1][key]) for key in both]
    prompts = [key[0] for key in both]

    def those(had: bool, has: bool) -> tuple[Change, ...]:
        return tuple(one for one, *hit in zip(changes, *hits, strict=True) if hit == [had, has])

    rule, found = before.content["rule"], None
    with suppress(BadSetting):  # a single prompt
        found = paired([float(x) for x in hits[1]], [float(x) for x in hits[0]], prompts)
    return Comparison(
        before=_side(before, names[0], hits[0], prompts),
        after=_side(after, names[1], hits[1], prompts),
        detector=rule["detector"],
        threshold=rule["threshold"],
        pairs=len(both),
        prompts=len(set(prompts)),
        went=those(True, False),
        came=those(False, True),
        stayed=those(True, True),
        difference=found,
        left_out=tuple((lost[0] | lost[1]).values()),
    )


def write_comparison(found: Comparison, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write a comparison as one HTML page, whose cases link to the two reports.

    Raises:
        OutputExists: the page exists, and `overwrite` is off.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise OutputExists.at(path)
    lists = [("Copies that came", found.came), ("Copies that stayed", found.stayed),
             ("Copies that went", found.went)]  # fmt: skip
    folder = path.parent.absolute()
    pages = [quote(Path(os.path.relpath(side.page, folder)).as_posix())
             for side in (found.before, found.after)]  # fmt: skip
    text = (
        environment()
        .get_template("comparison.html")
        .render(found=found, lists=lists, pages=pages, number=number, percent=percent)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text.encode())
    return path


def _guard(report: StoredReport, named: str | None, when: str) -> str:
    known = report.guards
    guard = known[0] if named is None and len(known) == 1 else named
    if guard in known:
        return str(guard)
    got = "none was named" if guard is None else f"got '{guard}'"
    raise BadSetting(
        f"expected one of the guards {', '.join(map(repr, known))} of '{report.name}', but {got}; "
        f"name it with '--guard-{when}'"
    )


def _rows(report: StoredReport, guard: str) -> dict[Key, Row]:
    found: dict[Key, Row] = {}
    for row in report.content["examined"]:
        if row["guard"] != guard:
            continue
        if found.setdefault(_key(row), row) is not row:
            raise BadSetting(
                f"'{report.name}' has two sounds of '{row['prompt']}' with seed {row['seed']}, "
                "which cannot be paired; audit them with distinct seeds"
            )
    return found


def _unexamined(report: StoredReport, guard: str) -> dict[Key, str]:
    rows = (row for row in report.content["unexamined"] if row["guard"] == guard)
    return {_key(row): row["name"] for row in rows}


def _key(row: Row) -> Key:
    known = row["prompt"] and row["seed"] is not None
    return (row["prompt"], row["seed"]) if known else (row["name"], None)


def _score(row: Row) -> float:
    return -math.inf if row["score"] is None else float(row["score"])


def _differences(
    before: StoredReport,
    after: StoredReport,
    rows: Sequence[Mapping[Key, Row]],
    lost: Sequence[Mapping[Key, str]],
) -> list[str]:
    """In what two audits differ so that they cannot be compared, each as a clause."""
    found = []
    first, second = before.content, after.content
    if first["index"]["sha256"] != second["index"]["sha256"]:
        names = [f"'{one['index']['name']}' ({one['index']['clips']} clips)"
                 for one in (first, second)]  # fmt: skip
        found.append(f"the index is {names[0]} in one and another, {names[1]}, in the other")
    if unjudged := [one.name for one in (before, after) if one.content["rule"] is None]:
        found.append(f"nothing was judged in {some(unjudged)}")
    elif (old := _limit(first)) != (new := _limit(second)):
        found.append(f"a copy is what {old} in one, and {new} in the other")
    keys = [dict.fromkeys([*side, *out]) for side, out in zip(rows, lost, strict=True)]
    asked = [dict.fromkeys(prompt for prompt, _ in side) for side in keys]
    for mine, theirs, name in (
        (asked[0], asked[1], before.name),
        (asked[1], asked[0], after.name),
    ):
        if only := [prompt for prompt in mine if prompt not in theirs]:
            found.append(f"only '{name}' has {some(only)}")
    if not found and keys[0].keys() != keys[1].keys():
        seeds = [sorted({str(seed) for _, seed in side}) for side in keys]
        found.append(f"the seeds are {', '.join(seeds[0])} and {', '.join(seeds[1])}")
    return found


def _limit(content: Mapping[str, Any]) -> str:
    rule = content["rule"]
    how = "over" if rule["held_out"] else "from"
    return f"'{rule['detector']}' scores {how} {rule['threshold']:.6g}"


def _side(report: StoredReport, guard: str, hits: Sequence[bool], prompts: Sequence[str]) -> Side:
    share = None
    with suppress(BadSetting):  # a single prompt
        found = share_interval([float(hit) for hit in hits], prompts)
        share = (found.value, found.low, found.high)
    model = report.content["about"].get("model")
    page = str(report.places[PAGE])
    return Side(report.name, page, guard, guard_name(guard), model, sum(hits), share)


def _change(key: Key, before: Row, after: Row) -> Change:
    named = after if after["replicates"] or not before["replicates"] else before
    clip = named["training"]
    return Change(
        prompt=key[0],
        seed=key[1],
        before=before["score"],
        after=after["score"],
        before_case=before["rank"],
        after_case=after["rank"],
        clip="" if clip is None else clip["caption"] or clip["id"],
    )
