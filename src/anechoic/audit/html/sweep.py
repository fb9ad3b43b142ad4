"""Renders a sweep as one HTML page: a map of copies and adherence, and both against each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from markupsafe import Markup, escape

from anechoic.audit.html.media import data_uri
from anechoic.audit.html.report import BUDGET, environment, percent
from anechoic.audit.sweep import Cell, Sweep

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 420, 260, 48, 12, 12, 44


def render_sweep(
    found: Sweep, command: str = "", read: Callable[[Path], bytes] = Path.read_bytes
) -> str:
    """The page of a sweep.

    Args:
        found: the sweep.
        command: that made it, for its foot.
        read: the bytes of a sound, FLAC; up to 12 MB of them go into the page.
    """
    checkpoints = list(dict.fromkeys(cell.setting.checkpoint for cell in found.cells))
    calls = list(dict.fromkeys(cell.setting.call for cell in found.cells))
    heard, used = list[tuple[Cell, str]](), 0
    for cell in sorted(found.cells, key=lambda cell: cell is not found.best):
        sound = b"" if cell.nearest is None else read(cell.nearest)
        used += len(sound)
        if sound and used <= BUDGET:
            heard.append((cell, data_uri("audio/flac", sound)))
    return (
        environment()
        .get_template("sweep.html")
        .render(
            sweep=found,
            checkpoints=checkpoints,
            calls=calls,
            cell={(cell.setting.checkpoint, cell.setting.call): cell for cell in found.cells},
            chart=chart(found) if len({c.adherence for c in found.cells} - {None}) > 1 else "",
            heard=heard,
            unheard=len(found.cells) - len(heard),
            tint=tint,
            percent=percent,
            command=command,
        )
    )


def tint(cell: Cell) -> int:
    """How much of a cell's colour is that of copies, in percent.

    A few copies can be seen at a glance, and 90 % still differ from all.
    """
    return round(80 * (cell.copies / cell.sounds) ** 0.5) if cell.sounds else 0


def chart(found: Sweep) -> Markup:
    """Copy rate against adherence, a dot for each cell; the way to the right and down is better."""
    known = [(cell, cell.adherence) for cell in found.cells if cell.adherence is not None]
    low, high = min(value for _, value in known), max(value for _, value in known)
    pad = (high - low) * 0.08
    low, high = low - pad, high + pad

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - low) / (high - low)

    def y(share: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - share)

    parts = [
        f'<path class="grid" d="M{LEFT} {y(share):.1f}H{WIDTH - RIGHT}"/>'
        f'<text class="end" x="{LEFT - 6}" y="{y(share) + 4:.1f}">{share:.0%}</text>'
        for share in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    parts += [
        f'<text class="mid" x="{x(value):.1f}" y="{HEIGHT - BOTTOM + 18}">{value:.3g}</text>'
        for value in (low + pad, (low + high) / 2, high - pad)
    ]
    for cell, value in known:
        at = f'cx="{x(value):.1f}" cy="{y(cell.copies / max(cell.sounds, 1)):.1f}"'
        best = ' class="best"' if cell is found.best else ""
        parts.append(f'<circle{best} {at} r="6"><title>{escape(cell.sentence)}</title></circle>')
    parts.append(
        f'<text class="mid" x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 6}">adherence</text>'
    )
    said = f"Copy rate against adherence, {len(known)} settings. {found.sentence}"
    return Markup(
        f'<svg class="dots" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(said)}">{"".join(parts)}</svg>'
    )
