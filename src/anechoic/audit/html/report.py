"""Renders an audit as one HTML page, from its JSON document, sounds and pictures.

The worst cases come first. The first few are plain HTML, so that the page can be read without
scripts; the others are templates, and their sound and pictures are decoded when a case is opened.
Sound and pictures beyond a size budget are files next to the page.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from anechoic.audit.html.curves import curve_svg
from anechoic.audit.html.histogram import chart_svg
from anechoic.audit.html.media import data_uri
from anechoic.audit.supplement import Curve, Figure

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

PLAIN_CASES = 10  # cases in plain HTML
MOST_PROMPTS = 40  # prompts listed one by one
BUDGET = 12_000_000  # bytes of sound and pictures in the page itself
KINDS = {".flac": "audio/flac", ".png": "image/png"}
Medium = Callable[[str], bytes]


@dataclass(frozen=True)
class Span:
    """A part of a time axis, in percent."""

    left: float
    width: float


@dataclass(frozen=True)
class Line:
    """The match of two sounds in their similarity matrix, in percent."""

    x1: float  # training clip
    y1: float  # generation
    x2: float
    y2: float


@dataclass(frozen=True)
class Timeline:
    """Two sounds on a common time axis."""

    first_s: float  # start of the common time axis, in the generation's time
    last_s: float
    starts: Mapping[str, float]  # of each excerpt on it
    made: Span
    training: Span | None
    own: Span | None
    match: Span | None
    line: Line | None

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Positions on the time axis in percent, with labels in seconds of the generation."""
        length = self.last_s - self.first_s
        step = next(s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 1e9) if length / s <= 6)
        found, at = [], -(-self.first_s // step) * step
        while at <= self.last_s + 1e-9:
            shown = round(at, 1) + 0.0  # minus zero becomes zero
            label = f"{shown:.1f}" if step < 1 else f"{shown:.0f}"
            found.append((100 * (at - self.first_s) / length, label))
            at += step
        return found


@dataclass(frozen=True)
class Case:
    """One examined sound, ready to be drawn."""

    row: Mapping[str, Any]  # its row of the document
    data: Mapping[str, str]  # used by the page's script to sort, filter and play
    time: Timeline | None  # None: its sound and pictures were left out


@dataclass(frozen=True)
class Page:
    """The page, and the files that it needs."""

    text: str
    beside: Sequence[str]  # keys of the sounds and pictures next to the page


def render_audit(
    content: Mapping[str, Any], medium: Medium, folder: str = "media", budget: int = BUDGET
) -> Page:
    """The page of an audit's document.

    Args:
        content: the document, as from `anechoic.audit.document`.
        medium: returns the bytes of a sound or picture by its key.
        folder: name of the folder next to the page, for files beyond the budget.
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
    extra = content.get("supplement")
    described = {row["guard"]: row["label"] for row in extra["guards"]} if extra else {}
    curves = _curves(rows)
    charts = [chart_svg(content, group) for group in content["guards"]] if rows else []
    text = (
        environment()
        .get_template("report.html")
        .render(
            audit=content,
            cases=[_case(row, guards, others) for row in rows],
            guards=guards,
            label={group["guard"]: group["label"] for group in content["guards"]} | described,
            prompts=_prompts(rows, every=extra is not None),
            kinds=list(dict.fromkeys(kind for row in rows if (kind := _detail(row, "kind")))),
            extra=extra,
            best=best_values(extra),
            figure=lambda content: Figure(**content),
            curves=curves,
            most_prompts=MOST_PROMPTS,
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
            lag=lag,
            short=short,
            calls=_calls(rows),
            types=KINDS,
        )
    )
    beside = sorted({key for row in rows for key in _keys(row)} - inside)
    return Page(text, beside)


def _keys(row: Mapping[str, Any]) -> Iterator[str]:
    if (shown := row["shown"]) is None:
        return
    for picture in (shown["made"], shown["training"], shown.get("own")):
        if picture:
            yield picture["sound"]
            yield picture["spectrogram"]
    for picture in (shown["matrix"], shown.get("melodies")):
        if picture:
            yield picture


def _inside(rows: Sequence[Mapping[str, Any]], medium: Medium, budget: int) -> set[str]:
    """The keys that go into the page: those of the worst cases, up to the budget."""
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
    data = _sorted_by(row, guards, others)
    if row["shown"] is None:
        return Case(row, data, None)
    time = timeline(row)
    times = {"first": time.first_s, "last": time.last_s, **time.starts}
    times |= {"start": row["match"]["start_s"]} if row["match"] else {}
    return Case(row, {**data, **{f"data-{key}": f"{at:.6f}" for key, at in times.items()}}, time)


def timeline(row: Mapping[str, Any]) -> Timeline:
    """Where the excerpts of a row lie on their common time axis; the row has to show them."""
    made, training, own = (row["shown"].get(name) for name in ("made", "training", "own"))
    match = row["match"]
    lag = match["lag_s"] if match else 0.0
    starts, ends = {"made": made["start_s"]}, [made["start_s"] + made["seconds"]]
    if training:
        starts["training"] = training["start_s"] + lag
        ends.append(starts["training"] + training["seconds"])
    first = min(starts.values())
    if own:
        starts["own"] = starts["made"]
        ends.append(starts["own"] + own["seconds"])
    last = max(max(ends), first + 1e-3)

    def span(start_s: float, length_s: float) -> Span:
        left, right = (min(max(t, first), last) for t in (start_s, start_s + length_s))
        return Span(100 * (left - first) / (last - first), 100 * (right - left) / (last - first))

    alike = bool(match and match["length_s"])
    return Timeline(
        first_s=first,
        last_s=last,
        starts=starts,
        made=span(starts["made"], made["seconds"]),
        training=span(starts["training"], training["seconds"]) if training else None,
        own=span(starts["own"], own["seconds"]) if own else None,
        match=span(match["start_s"], match["length_s"]) if alike else None,
        line=_line(made, training, match) if alike and training else None,
    )


def _calls(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, int]]:
    """For each calibrated detector, the number of copies and of compared sounds."""
    found: dict[str, tuple[int, int]] = {}
    for one in (finding for row in rows for finding in row["findings"]):
        if one["copy"] is not None:
            hits, all_ = found.get(one["detector"], (0, 0))
            found[one["detector"]] = (hits + one["copy"], all_ + 1)
    return found


Rows = list[Mapping[str, Any]]


def _prompts(rows: Sequence[Mapping[str, Any]], every: bool) -> list[tuple[str, dict[str, Rows]]]:
    """The samples of each prompt by guard, worst prompt first; only prompts that replicate, unless
    `every` is set."""
    found: dict[str, dict[str, Rows]] = {}
    for row in rows:
        found.setdefault(row["prompt"], {}).setdefault(row["guard"], []).append(row)
    total = {
        prompt: sum(bool(row["replicates"]) for group in own.values() for row in group)
        for prompt, own in found.items()
    }
    shown = [prompt for prompt in found if prompt and (every or total[prompt])]
    return [(prompt, found[prompt]) for prompt in sorted(shown, key=lambda p: (-total[p], p))]


def _detail(row: Mapping[str, Any], name: str) -> Any:
    """A detail of a sample from the supplement, or None."""
    return (row.get("detail") or {}).get(name)


def _curves(rows: Sequence[Mapping[str, Any]]) -> dict[int, tuple[Curve, Markup]]:
    """The drawn curves by rank; those of one prompt and seed share their axis."""
    found = {
        row["rank"]: (row, Curve.from_dict(curve))
        for row in rows
        if (curve := _detail(row, "curve"))
    }
    tops: dict[tuple[str, int | None], float] = {}
    for row, curve in found.values():
        case = row["prompt"], row["seed"]
        finite = curve.distance[np.isfinite(curve.distance)]
        tops[case] = max(tops.get(case, 0.0), float(finite.max(initial=0.0)))
    return {
        rank: (curve, curve_svg(curve, tops[row["prompt"], row["seed"]]))
        for rank, (row, curve) in found.items()
    }


def best_values(extra: Mapping[str, Any] | None) -> dict[str, set[str]]:
    """The guards with the best value of each column, after rounding."""
    found: dict[str, set[str]] = {}
    for column in extra["columns"] if extra else ():
        key, spec = column["key"], column["format"]
        values = {row["guard"]: row["figures"][key]["value"] for row in extra["guards"]
                  if key in row["figures"]} if extra else {}  # fmt: skip
        finite = {guard: value for guard, value in values.items() if np.isfinite(value)}
        if column["better"] is None or not finite:
            found[key] = set()
            continue
        pick = min if column["better"] == "lower" else max
        best = format(pick(finite.values()), spec)
        found[key] = {guard for guard, value in finite.items() if format(value, spec) == best}
    return found


def _sorted_by(
    row: Mapping[str, Any], guards: Sequence[str], others: Sequence[str]
) -> dict[str, str]:
    clip, scores = row["training"], {one["detector"]: one["score"] for one in row["findings"]}
    copy = row["replicates"]
    elsewhere = not copy and any(one["copy"] for one in row["findings"])
    kind = _detail(row, "kind") or ""
    words = [row["name"], row["prompt"], kind, *([clip["caption"], clip["id"]] if clip else [])]
    known = {f"data-s{n}": scores.get(name) for n, name in enumerate(others)}
    return {
        "data-rank": str(row["rank"]),
        "data-verdict": "copy"
        if copy
        else "elsewhere"
        if elsewhere
        else "unjudged"
        if copy is None
        else "clear",
        "data-guard": str(guards.index(row["guard"])),
        "data-prompt": row["prompt"] or row["name"],
        "data-kind": kind,
        "data-text": " ".join(words).lower(),
        **{name: str(score) for name, score in known.items() if score is not None},
    }


def _line(made: Mapping[str, Any], training: Mapping[str, Any], match: Mapping[str, Any]) -> Line:
    def share(at_s: float, of: Mapping[str, Any]) -> float:
        return min(max(100 * float((at_s - of["start_s"]) / of["seconds"]), 0.0), 100.0)

    start, other, length = match["start_s"], match["match_start_s"], match["length_s"]
    return Line(
        share(other, training),
        share(start, made),
        share(other + length, training),
        share(start + length, made),
    )


@cache
def environment() -> Environment:
    """The templates of this folder, with all text escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader("anechoic.audit", "html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(web_link=web_link, csp_hash=csp_hash, together=together)
    return templates


def web_link(url: str) -> str:
    """The address if it is a plain web page, else an empty string.

    >>> web_link("https://example.org/a"), web_link("javascript:alert(1)"), web_link("http:/x")
    ('https://example.org/a', '', '')
    """
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        return ""
    return url.strip() if parts.scheme in ("http", "https") and parts.netloc else ""


def together(text: str) -> str:
    """Text with no line break between a number and its percent sign.

    >>> together("up to 5 % of 12")
    'up to 5\xa0% of 12'
    """
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def csp_hash(script: str) -> str:
    """The hash with which the page's policy allows only its own script."""
    digest = hashlib.sha256(str(script).encode()).digest()
    return "sha256-" + base64.b64encode(digest).decode()


def percent(share: float) -> str:
    """A share in percent, as text.

    >>> percent(0.1849), percent(0.001), percent(0.0)
    ('18\xa0%', '0.1\xa0%', '0\xa0%')
    """
    text = f"{100 * share:.0f} %" if share == 0 or share >= 0.01 else f"{100 * share:.1g} %"
    return together(text)


def number(value: float | None) -> str:
    """A score as text, or a dash if nothing could be compared.

    >>> number(0.98765), number(None), number(1e-5), number(-0.25)
    ('0.988', '\u2013', '1e-05', '\u22120.250')
    """
    if value is None:
        return "\N{EN DASH}"
    text = f"{value:.1g}" if 0 < abs(value) < 0.0005 else f"{value:.3f}"
    return text.replace("-", "\N{MINUS SIGN}", 1) if value < 0 else text


def short(detector: str) -> str:
    """A detector's name without its settings.

    >>> short("correlation (8000 Hz, window 0.5 s), the matched clip")
    'correlation, the matched clip'
    """
    return re.sub(r" \([^()]*\)", "", detector)


def lag(seconds: float) -> str:
    """A time lag as text.

    >>> lag(0.25), lag(-0.0131), lag(-1e-9)
    ('+0.250 s', '\u22120.013 s', '0.000 s')
    """
    text = f"{seconds:+.3f} s"
    return text[1:] if text[1:] == "0.000 s" else text.replace("-", "\N{MINUS SIGN}")


def clock(seconds: float) -> str:
    """A time as text.

    >>> clock(1.024), clock(75.5), clock(7200)
    ('1.02 s', '1:15.5', '2:00:00.0')
    """
    if seconds < 60:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"
