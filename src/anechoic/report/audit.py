"""An audit as one HTML page, from its own JSON document and the sounds and pictures beside it.

Cases are worst first. The first few stand in the page as they are, so that it can be read without
scripts; the others wait in templates, and their sound and pictures are decoded when a case is
opened. What is over a size budget is left in files beside the page.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anechoic.report.audit_chart import chart_svg
from anechoic.report.media import data_uri
from anechoic.report.page import environment

PLAIN_CASES = 10  # that stand in the page as they are
BUDGET = 12_000_000  # bytes of sound and pictures in the page itself
KINDS = {".flac": "audio/flac", ".png": "image/png"}
Medium = Callable[[str], bytes]


@dataclass(frozen=True)
class Span:
    """A stretch of a time axis, in percent of it."""

    left: float
    width: float


@dataclass(frozen=True)
class Line:
    """Where two sounds run along each other in their similarity matrix, in percent."""

    x1: float  # training clip
    y1: float  # generation
    x2: float
    y2: float


@dataclass(frozen=True)
class Case:
    """One examined sound, ready to be drawn."""

    row: Mapping[str, Any]  # of the document
    data: Mapping[str, str]  # what the page's script sorts, filters and plays by
    first_s: float  # of the common time axis, in the generation's time
    last_s: float
    made: Span
    training: Span | None
    match: Span | None
    line: Line | None

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Places of the time axis in percent, and their labels in seconds of the generation."""
        length = self.last_s - self.first_s
        step = next(s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 1e9) if length / s <= 6)
        found, at = [], -(-self.first_s // step) * step
        while at <= self.last_s + 1e-9:
            label = f"{at:.1f}" if step < 1 else f"{at:.0f}"
            found.append((100 * (at - self.first_s) / length, label.replace("-0.0", "0.0")))
            at += step
        return found


@dataclass(frozen=True)
class Page:
    """The page, and what has to lie beside it."""

    text: str
    beside: Sequence[str]  # keys of sounds and pictures


def render_audit(
    content: Mapping[str, Any], medium: Medium, folder: str = "media", budget: int = BUDGET
) -> Page:
    """The page of an audit's document.

    Args:
        content: as `anechoic.audit.document` makes it.
        medium: the bytes of a sound or picture by its key.
        folder: what the folder beside the page is called, for what is over the budget.
        budget: bytes of sound and pictures in the page itself.
    """
    rows = content["examined"]
    inside = _inside(rows, medium, budget)
    plain = rows[:PLAIN_CASES]
    shared = {key for row in rows[PLAIN_CASES:] for key in _keys(row)} & inside

    def uri(key: str) -> str:
        return data_uri(KINDS[key[key.rindex(".") :]], medium(key))

    guards = [group["guard"] for group in content["guards"]]
    others = [one["name"] for one in content["detectors"] if not one["decides"]]
    charts = [chart_svg(content, group) for group in content["guards"]] if rows else []
    text = (
        environment()
        .get_template("audit.html")
        .render(
            audit=content,
            cases=[_case(row, guards, others) for row in rows],
            guards=guards,
            plain=len(plain),
            inside=inside,
            folder=folder,
            uri=uri,
            store=[(key, base64.b64encode(medium(key)).decode()) for key in sorted(shared)],
            charts=charts,
            others=others,
            decides=next(one["name"] for one in content["detectors"] if one["decides"]),
            percent=percent,
            number=number,
            clock=clock,
            kinds=KINDS,
        )
    )
    beside = sorted({key for row in rows for key in _keys(row)} - inside)
    return Page(text, beside)


def _keys(row: Mapping[str, Any]) -> Iterator[str]:
    shown = row["shown"]
    for picture in (shown["made"], shown["training"]):
        if picture:
            yield picture["sound"]
            yield picture["spectrogram"]
    if shown["matrix"]:
        yield shown["matrix"]


def _inside(rows: Sequence[Mapping[str, Any]], medium: Medium, budget: int) -> set[str]:
    """The keys that go into the page: all of the worst cases, as long as there is room."""
    inside: set[str] = set()
    used = 0
    for row in rows:
        new = set(_keys(row)) - inside
        used += sum(len(medium(key)) for key in new)
        if used > budget:
            break
        inside |= new
    return inside


def _case(row: Mapping[str, Any], guards: Sequence[str], others: Sequence[str]) -> Case:
    shown, match = row["shown"], row["match"]
    made, training = shown["made"], shown["training"]
    lag = match["lag_s"] if match else 0.0
    starts, ends = [made["start_s"]], [made["start_s"] + made["seconds"]]
    if training:
        starts.append(training["start_s"] + lag)
        ends.append(starts[-1] + training["seconds"])
    first, last = min(starts), max(max(ends), min(starts) + 1e-3)

    def span(start_s: float, length_s: float) -> Span:
        left, right = (min(max(t, first), last) for t in (start_s, start_s + length_s))
        return Span(100 * (left - first) / (last - first), 100 * (right - left) / (last - first))

    alike = bool(match and match["length_s"])
    data = {
        **_sorted_by(row, guards, others),
        "data-first": f"{first:.6f}",
        "data-last": f"{last:.6f}",
        "data-made": f"{starts[0]:.6f}",
    }
    if training:
        data["data-training"] = f"{starts[1]:.6f}"
    if match:
        data["data-start"] = f"{match['start_s']:.6f}"
    return Case(
        row=row,
        data=data,
        first_s=first,
        last_s=last,
        made=span(starts[0], made["seconds"]),
        training=span(starts[1], training["seconds"]) if training else None,
        match=span(match["start_s"], match["length_s"]) if alike else None,
        line=_line(made, training, match) if alike and training else None,
    )


def _sorted_by(
    row: Mapping[str, Any], guards: Sequence[str], others: Sequence[str]
) -> dict[str, str]:
    clip, scores = row["training"], {one["detector"]: one["score"] for one in row["findings"]}
    elsewhere = not row["replicates"] and any(one["copy"] for one in row["findings"])
    words = [row["name"], row["prompt"], *([clip["caption"], clip["id"]] if clip else [])]
    known = {f"data-s{n}": scores.get(name) for n, name in enumerate(others)}
    return {
        "data-rank": str(row["rank"]),
        "data-verdict": "copy" if row["replicates"] else "elsewhere" if elsewhere else "clear",
        "data-guard": str(guards.index(row["guard"])),
        "data-prompt": row["prompt"] or row["name"],
        "data-text": " ".join(words).lower(),
        **{name: str(score) for name, score in known.items() if score is not None},
    }


def _line(made: Mapping[str, Any], training: Mapping[str, Any], match: Mapping[str, Any]) -> Line:
    def share(at_s: float, of: Mapping[str, Any]) -> float:
        return min(max(100 * (at_s - of["start_s"]) / of["seconds"], 0.0), 100.0)

    start, other, length = match["start_s"], match["match_start_s"], match["length_s"]
    return Line(
        share(other, training),
        share(start, made),
        share(other + length, training),
        share(start + length, made),
    )


def percent(share: float) -> str:
    """A share in words.

    >>> percent(0.1849), percent(0.001), percent(0.0)
    ('18 %', '0.1 %', '0 %')
    """
    return f"{100 * share:.0f} %" if share == 0 or share >= 0.01 else f"{100 * share:.1g} %"


def number(value: float | None) -> str:
    """A score, or a dash where nothing could be compared.

    >>> number(0.98765), number(None), number(1e-5), number(-0.25)
    ('0.988', '\u2013', '1e-05', '\u22120.250')
    """
    if value is None:
        return "\N{EN DASH}"
    text = f"{value:.1g}" if 0 < abs(value) < 0.0005 else f"{value:.3f}"
    return text.replace("-", "\N{MINUS SIGN}", 1) if value < 0 else text


def clock(seconds: float) -> str:
    """A time in a sound.

    >>> clock(1.024), clock(75.5), clock(7200)
    ('1.02 s', '1:15.5', '2:00:00.0')
    """
    if seconds < 60:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"
