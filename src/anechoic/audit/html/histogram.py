"""Draws the scores of an audit and of sound that copies nothing, as inline SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 420, 200, 42, 10, 26, 44
BINS = 40


def chart_svg(content: Mapping[str, Any], group: Mapping[str, Any]) -> Markup:
    """A histogram of one guard's scores, with outlines of the backgrounds and the threshold.

    The text contains only our own numbers, so nothing needs to be escaped.
    """
    scores = _scores(content, group["guard"])
    edges = _edges(content)
    shares = _shares(scores, edges)
    outlines = [_shares(one["scores"], edges) for one in content["background"]]
    every = [_shares(_scores(content, one["guard"]), edges) for one in content["guards"]]
    top = max([1e-9, *(drawn.max(initial=0.0) for drawn in [*every, *outlines])])
    limit = _threshold(content)

    def x(value: float) -> float:
        span = edges[-1] - edges[0]
        place = min(max((value - edges[0]) / span, 0.0), 1.0)
        return LEFT + (WIDTH - LEFT - RIGHT) * float(place)

    def y(share: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * float(1 - share / top)

    parts = [_grid(y, top)]
    for share, left, right in zip(shares, edges[:-1], edges[1:], strict=True):
        if share:
            over = " over" if limit is not None and left >= limit - 1e-9 else ""
            parts.append(
                f'<rect class="made{over}" x="{x(left):.1f}" y="{y(share):.1f}" '
                f'width="{max(x(right) - x(left) - 1, 1):.1f}" height="{y(0) - y(share):.1f}"/>'
            )
    for number, outline in enumerate(outlines):
        path = "".join(
            f"L{x(left):.1f} {y(share):.1f}H{x(right):.1f}"
            for share, left, right in zip(outline, edges[:-1], edges[1:], strict=True)
        )
        parts.append(f'<path class="back back-{number}" d="M{LEFT} {y(0):.1f}{path}V{y(0):.1f}"/>')
    if limit is not None and edges[0] <= limit <= edges[-1]:
        at = x(limit)
        side, anchor = (at - 6, "end") if at > WIDTH / 2 else (at + 6, "start")
        parts.append(f'<path class="limit" d="M{at:.1f} {TOP - 8}V{y(0):.1f}"/>')
        parts.append(
            f'<text class="{anchor}" x="{side:.1f}" y="{TOP - 8}">threshold {limit:.3g}</text>'
        )
    parts.append(_axis(edges, x))
    return Markup(
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{describe_chart(content, group)}">{"".join(parts)}</svg>'
    )


def describe_chart(content: Mapping[str, Any], group: Mapping[str, Any]) -> str:
    """The chart in a sentence, for readers who cannot see it."""
    limit, similarity = _threshold(content), group["similarity"]
    over = f"{group['examined']} scores, not judged"
    if limit is not None:
        over = f"{group['replications']} of {group['examined']} scores are over the threshold of "
        over += f"{limit:.3g}"
    words = [
        f"{over}; the mean is {similarity['mean']:.3f}, 95 % are under {similarity['p95']:.3f}."
    ]
    for number, one in enumerate(content["background"], 1):
        known = one["similarity"]
        words.append(
            f"Background {number}: mean {known['mean']:.3f}, 95 % under {known['p95']:.3f}, of "
            f"{len(one['scores'])}."
        )
    return " ".join(words)


def _threshold(content: Mapping[str, Any]) -> float | None:
    """The threshold; None: nothing was judged."""
    return None if content["rule"] is None else content["rule"]["threshold"]


def _scores(content: Mapping[str, Any], guard: str | None = None) -> list[float]:
    return [
        row["score"]
        for row in content["examined"]
        if row["score"] is not None and guard in (None, row["guard"])
    ]


def _edges(content: Mapping[str, Any]) -> np.ndarray:
    """The edges of the bins, shared by all guards; the threshold is one of them."""
    limit = _threshold(content)
    values = [*_scores(content), *([] if limit is None else [limit])]
    for one in content["background"]:
        values += one["scores"]
    low, high = min(values), max(values)
    limit = low if limit is None else limit
    width = max(high - low, 1e-6) / BINS
    below, above = np.ceil((limit - low) / width), max(np.ceil((high - limit) / width), 1)
    return np.asarray(limit + width * np.arange(-below, above + 1))


def _shares(scores: Sequence[float], edges: np.ndarray) -> np.ndarray:
    counts = np.histogram(np.clip(scores, edges[0], edges[-1]), edges)[0]
    return counts / max(len(scores), 1)


def _grid(y: Any, top: float) -> str:
    parts = []
    for share in (0.0, top / 2, top):
        parts.append(f'<path class="grid" d="M{LEFT} {y(share):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(
            f'<text class="end" x="{LEFT - 6}" y="{y(share) + 4:.1f}">{100 * share:.0f} %</text>'
        )
    return "".join(parts)


def _axis(edges: np.ndarray, x: Any) -> str:
    base = HEIGHT - BOTTOM
    step = next(
        s
        for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 50, 1e9)
        if (edges[-1] - edges[0]) / s <= 9
    )
    parts, at = [], np.ceil(edges[0] / step) * step
    while at <= edges[-1]:
        label = f"{at:.2f}" if step < 0.1 else f"{at:.1f}" if step < 1 else f"{at:.0f}"
        label = label.replace("-0.0", "0.0").replace("-", "&minus;")
        parts.append(f'<path class="tick" d="M{x(at):.1f} {base}v4"/>')
        parts.append(f'<text class="mid" x="{x(at):.1f}" y="{base + 17}">{label}</text>')
        at += step
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text class="mid" x="{middle:.0f}" y="{base + 36}">score of the deciding detector</text>'
    )
    return "".join(parts)
