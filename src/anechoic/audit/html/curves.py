"""Draws the curves of one generation as inline SVG, with colours from the page's CSS variables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from anechoic.audit.supplement import Curve

_WIDTH, _LEFT, _RIGHT = 400, 40, 10
_PANEL, _TITLE, _AXIS = 92, 22, 46  # heights of a panel, its title above it, the axis at the end


@dataclass(frozen=True)
class _Panel:
    """A plot area below `top`, for values from `low` to `high`."""

    top: float
    low: float
    high: float

    def y(self, value: float | np.ndarray) -> float | np.ndarray:
        share = (np.clip(value, self.low, self.high) - self.low) / (self.high - self.low)
        return self.top + _PANEL * (1 - share)


def describe(curve: Curve) -> str:
    """The curves in a sentence, for readers who cannot see them.

    >>> flat = np.array([9.0, 2.0])
    >>> describe(Curve(np.array([0.0, 1.0]), np.array([-5.0, 5.0]), flat, transition=0.5))
    'Pull of the prompt from 9.0 at the start to 2.0 at the end. Guidance was switched on at 50 %.'
    """
    if len(curve.progress) == 0:
        return "No curve was recorded."
    words = [
        f"Pull of the prompt from {_number(curve.distance[0])} at the start "
        f"to {_number(curve.distance[-1])} at the end."
    ]
    if curve.similarity is not None and np.isfinite(curve.similarity).any():
        words.append(f"Highest similarity on the way {np.nanmax(curve.similarity):.2f}.")
    if curve.gate is not None:
        words.append(f"The guard acted in {int(np.sum(curve.gate))} of {len(curve.gate)} steps.")
    if curve.transition is not None:
        words.append(f"Guidance was switched on at {100 * curve.transition:.0f} %.")
    return " ".join(words)


def curve_svg(curve: Curve, highest_distance: float) -> Markup:
    """Distance above and similarity, if recorded, below, over the same steps.

    The text contains only our own numbers, so nothing needs to be escaped.

    Args:
        curve: the recorded curve.
        highest_distance: top of the upper axis, shared by all curves to compare.
    """
    if len(curve.progress) == 0:
        return Markup("")
    panels = [_Panel(_TITLE, 0.0, _round_up(highest_distance))]
    body = [_frame(panels[0], "Pull of the prompt, |ε(prompt) &minus; ε(no prompt)|")]
    if curve.similarity is not None:
        low = min(0.0, float(np.nanmin([0.0, *curve.similarity])))
        panels.append(_Panel(2 * _TITLE + _PANEL + 6, -1.0 if low < -0.25 else low, 1.0))
        body.append(_frame(panels[1], "Similarity to the nearest training clip"))
    body += [_gates(curve, panel) for panel in panels]
    body.append(_line("distance", curve.progress, panels[0].y(curve.distance)))
    if curve.similarity is not None:
        if curve.threshold is not None:
            body.append(_line("threshold", curve.progress, panels[1].y(curve.threshold)))
        body.append(_line("similarity", curve.progress, panels[1].y(curve.similarity)))
    body += [_transition(curve, panels), _axis(curve, panels[-1])]
    height = panels[-1].top + _PANEL + _AXIS
    return Markup(
        f'<svg class="curve" viewBox="0 0 {_WIDTH} {height:.0f}" role="img" '
        f'aria-label="{describe(curve)}">{"".join(body)}</svg>'
    )


def _x(progress: float | np.ndarray) -> float | np.ndarray:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * np.clip(progress, 0, 1)


def _frame(panel: _Panel, title: str) -> str:
    parts = [f'<text class="title" x="{_LEFT}" y="{panel.top - 8:.0f}">{title}</text>']
    for value in (panel.low, (panel.low + panel.high) / 2, panel.high):
        y = panel.y(value)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text class="end" x="{_LEFT - 6}" y="{y + 4:.1f}">{_number(value)}</text>')
    return "".join(parts)


def _gates(curve: Curve, panel: _Panel) -> str:
    """A band over every run of steps with an open gate, half a step beyond its ends."""
    if curve.gate is None:
        return ""
    p = np.asarray(curve.progress, dtype=float)
    edges = np.concatenate([p[:1], (p[1:] + p[:-1]) / 2, p[-1:]])
    flips = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(curve.gate, dtype=int), [0]])))
    bands = []
    for start, stop in zip(flips[::2], flips[1::2], strict=True):
        left, right = _x(edges[start]), _x(edges[stop])
        bands.append(
            f'<rect class="gate" x="{left:.1f}" y="{panel.top:.1f}" '
            f'width="{max(right - left, 1):.1f}" height="{_PANEL}"/>'
        )
    return "".join(bands)


def _line(name: str, progress: np.ndarray, y: float | np.ndarray) -> str:
    """A polyline, broken where a value is missing (NaN)."""
    pen, path = "M", []
    for px, py in zip(np.atleast_1d(_x(progress)), np.atleast_1d(y), strict=True):
        if not np.isfinite(py):
            pen = "M"
            continue
        path.append(f"{pen}{px:.1f} {py:.1f}")
        pen = "L"
    return f'<path class="{name}" d="{"".join(path)}"/>'


def _transition(curve: Curve, panels: list[_Panel]) -> str:
    if curve.transition is None:
        return ""
    x, top = _x(curve.transition), panels[0].top
    rules = "".join(f"M{x:.1f} {panel.top:.0f}v{_PANEL}" for panel in panels)
    return (
        f'<path class="transition" d="{rules}"/>'
        f'<path class="transition-head" d="M{x - 5:.1f} {top - 4:.0f}h10l-5 8z"/>'
    )


def _axis(curve: Curve, panel: _Panel) -> str:
    base = panel.top + _PANEL
    order = np.argsort(curve.progress)
    progress, log_snr = curve.progress[order], np.asarray(curve.log_snr)[order]
    reach = 1.5 / len(progress)  # ticks further from any step have no known ratio
    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        snr = np.interp(tick, progress, log_snr)
        known = np.isfinite(snr) and progress[0] - reach <= tick <= progress[-1] + reach
        anchor = "end" if tick == 1 else "mid" if tick else "start"
        x = _x(tick) + (0 if tick else -8)
        parts.append(f'<path class="tick" d="M{_x(tick):.1f} {base:.0f}v4"/>')
        parts.append(f'<text class="{anchor}" x="{x:.1f}" y="{base + 15:.0f}">{tick:.0%}</text>')
        if known:
            words = f"{snr:+.0f}".replace("-", "&minus;")
            parts.append(
                f'<text class="{anchor} faint" x="{x:.1f}" y="{base + 28:.0f}">{words}</text>'
            )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(
        f'<text class="mid" x="{middle:.0f}" y="{base + 42:.0f}">'
        'progress from noise to sound (%), <tspan class="faint">in grey the log SNR</tspan></text>'
    )
    return "".join(parts)


def _round_up(value: float) -> float:
    """The next of 1, 2, 5 times a power of ten.

    >>> _round_up(37.2), _round_up(0.0)
    (50.0, 1.0)
    """
    if not np.isfinite(value) or value <= 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(value))
    return float(next(m * power for m in (1, 2, 5, 10) if value <= m * power * (1 + 1e-9)))


def _number(value: float) -> str:
    if value == 0 or abs(value) >= 10:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 1 else f"{value:.2g}"
