"""The plot of a bench: the methods on the left, the frontiers of varied ones on the right."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anechoic.errors import AnechoicError, BadSetting
from anechoic.storage import write_whole
from anechoic_lab.bench.figures import Figure
from anechoic_lab.bench.frontiers import Frontier
from anechoic_lab.bench.labels import Label, Segment, place
from anechoic_lab.bench.table import BACKGROUND, Line, Measure, Table
from anechoic_lab.bench.task import MEMORIZED
from anechoic_lab.bench.write import require_writable
from anechoic_lab.metrics import staircase

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

Drawn = tuple[list[Label], list[Segment]]  # points to label, lines not to cover
Panel = Callable[["Axes"], Drawn]

LEAVE_OUT = ", or leave '--plot' out"
SUFFIXES = (".png", ".svg")
# Okabe and Ito's colours, distinct to all eyes; their yellow is too pale on white
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
STYLE: Any = {
    "axes.spines.right": False, "axes.spines.top": False, "font.size": 9.5,
    "svg.hashsalt": "anechoic", "text.parse_math": False,  # labels are plain text
}  # fmt: skip


def require_plot(path: Path, overwrite: bool, otherwise: str = "") -> None:
    """Refuse a plot that cannot be drawn or written, before any work is done.

    Args:
        path: ends in .png or .svg.
        overwrite: replace an existing file.
        otherwise: the alternative to installing matplotlib, for the error message.

    Raises:
        AnechoicError: matplotlib is not installed.
        BadSetting: the suffix is not .png or .svg.
        OutputExists: the file exists and `overwrite` is off.
    """
    from importlib.util import find_spec

    require_writable([path], SUFFIXES, overwrite)
    if find_spec("matplotlib") is None:
        raise AnechoicError(
            "a plot needs matplotlib, which is not installed; pip install 'anechoic-lab[plot]'"
            f"{otherwise}"
        )


def save_plot(path: Path, figure: Canvas, dpi: int) -> Path:
    """Write a figure, whole or not at all; the same figure makes the same bytes."""
    sink, suffix = io.BytesIO(), path.suffix.lower()
    undated = {"Date": None} if suffix == ".svg" else {}
    figure.savefig(sink, format=suffix[1:], dpi=dpi, metadata=undated)
    write_whole(path, sink.getvalue())
    return path


def plot(path: str | Path, table: Table, *, overwrite: bool = False) -> Path:
    """Draw similarity against adherence, a row of panels for each scenario.

    Args:
        path: ends in .png or .svg.
        table: a table with adherence.
        overwrite: replace an existing file.

    Raises:
        BadSetting: adherence was not measured.
        AnechoicError: as `require_plot`.
    """
    path = Path(path)
    require_plot(path, overwrite, LEAVE_OUT)
    from matplotlib import rc_context
    from matplotlib.figure import Figure as Canvas

    measure = _adherence(table)
    scenarios = dict.fromkeys(line.scenario for line in table.lines)
    panels = [list(_panels(table, scenario, measure)) for scenario in scenarios]
    columns = max(map(len, panels))
    with rc_context(STYLE):
        figure = Canvas((5.6 * columns + 0.4, 4.6 * len(panels) + 0.3), layout="constrained")
        grid: Any = figure.subplots(len(panels), columns, squeeze=False)
        drawn: dict[Axes, Drawn] = {}
        for row, wanted in zip(grid, panels, strict=True):
            drawn |= {axes: panel(axes) for axes, panel in zip(row, wanted, strict=False)}
            for axes in row[len(wanted) :]:
                axes.set_axis_off()
        figure.draw_without_rendering()  # fixes the panels' places before labels are placed
        for axes, (labels, segments) in drawn.items():
            place(axes, labels, segments)
        return save_plot(path, figure, dpi=160)


def _adherence(table: Table) -> Measure:
    """The adherence column to draw: that of the prompts whose similarity is reported."""
    measured = {key for line in table.lines for key in line.figures}
    found = [m for m in table.measures if m.key.startswith("adherence") and m.key in measured]
    if not found:
        raise BadSetting(
            "the plot shows similarity against adherence, but adherence was not measured; measure "
            "it ('--adherence clap'), or leave '--plot' out"
        )
    return next((m for m in found if m.key.endswith(MEMORIZED)), found[0])


def _panels(table: Table, scenario: str, measure: Measure) -> Iterator[Panel]:
    """The panels of a scenario, each a function of its axes."""
    lines = [line for line in table.lines if line.scenario == scenario]
    fronts = [front for front in table.frontiers if front.scenario == scenario]
    shown = [line for line in lines if {"similarity", measure.key} <= line.figures.keys()]
    alone = [line for line in shown if not line.family]
    near = next(line for line in lines if line.method == BACKGROUND).figures.get("similarity")
    where = f"{scenario}: " if len({line.scenario for line in table.lines}) > 1 else ""
    if len(alone) > 1 or not fronts:
        yield partial(_methods, f"{where}methods", alone, near, measure)
    if fronts:
        unguarded = alone if len(alone) == 1 else []
        yield partial(_frontiers, f"{where}frontiers", fronts, unguarded, near, measure)


def _methods(
    title: str, lines: Sequence[Line], near: Figure | None, measure: Measure, axes: Axes
) -> Drawn:
    labels, segments = [], _finish(axes, title, measure, near)
    for number, line in enumerate(lines):
        x, y = line.figures[measure.key], line.figures["similarity"]
        colour = COLOURS[number % len(COLOURS)]
        marker = MARKERS[(number + number // len(COLOURS)) % len(MARKERS)]
        axes.errorbar(
            x.value, y.value, xerr=_error(x), yerr=_error(y), fmt=marker, color=colour, ms=7,
            elinewidth=1, alpha=0.9,
        )  # fmt: skip
        labels.append(Label(line.label, x.value, y.value, colour))
        if x.low is not None and x.high is not None:
            segments.append(((x.low, y.value), (x.high, y.value)))
        if y.low is not None and y.high is not None:
            segments.append(((x.value, y.low), (x.value, y.high)))
    _limit(axes, near)
    return labels, segments


def _frontiers(
    title: str,
    fronts: Sequence[Frontier],
    unguarded: Sequence[Line],
    near: Figure | None,
    measure: Measure,
    axes: Axes,
) -> Drawn:
    labels, segments = [], _finish(axes, title, measure, near)
    for line in unguarded:
        x, y = line.figures[measure.key].value, line.figures["similarity"].value
        axes.plot(x, y, "*", color="0.25", ms=11)
        labels.append(Label(line.label, x, y, "0.25"))
    for number, front in enumerate(fronts):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        points = np.array([(s.protection, s.adherence) for s in front.settings])
        corners = [(adherence, 1 - protection) for protection, adherence in staircase(points)]
        segments += pairwise(corners)
        axes.plot(*zip(*corners, strict=True), color=colour, lw=1.2, alpha=0.6)
        area, low, high = front.area.value, front.area.low, front.area.high
        spread = "" if low is None else f" [{low:.2f}, {high:.2f}]"
        varied = front.settings[0].strength.partition("=")[0]
        name = f"{front.family}, {varied}: area {area:.2f}{spread}"
        axes.plot(points[:, 1], 1 - points[:, 0], marker, color=colour, ms=6, label=name)
        for setting in front.settings:
            if setting.best:
                value = setting.strength.partition("=")[2].rpartition(":")[2]  # "LogSNR:-1"
                y = 1 - setting.protection
                labels.append(Label(value, setting.adherence, y, colour, size=8))
    _limit(axes, near)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False, fontsize=8.5,
                ncols=2 if len(fronts) > 2 else 1)  # fmt: skip
    return labels, segments


def _finish(axes: Axes, title: str, measure: Measure, near: Figure | None) -> list[Segment]:
    """Draw titles, grid, and a line at the similarity of training clips to each other."""
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel(f"{measure.label} \N{RIGHTWARDS ARROW} better")
    axes.set_ylabel("similarity to the training set, lower is up \N{RIGHTWARDS ARROW} better")
    axes.grid(color="0.92", lw=0.8)
    axes.set_axisbelow(True)
    if near is None:
        return []
    axes.axhline(near.value, color="0.55", lw=1, ls="--", zorder=0.9)
    axes.annotate(
        "training clips among themselves", (0.01, near.value), (0, 2),
        xycoords=("axes fraction", "data"), textcoords="offset points", va="bottom",
        color="0.4", fontsize=8,
    )  # fmt: skip
    return [((0.0, near.value), (1.0, near.value))]


def _limit(axes: Axes, near: Figure | None) -> None:
    """Set limits with room for labels, upside down, so that up and right are better."""
    axes.margins(0.14)
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, -0.03), min(high, 1.03))
    low, high = axes.get_ylim()
    background = [] if near is None else [near.value - 0.05, near.value + 0.05]
    axes.set_ylim(min(max([high, *background]), 1.03), min([low, *background]))


def _error(figure: Figure) -> list[list[float]] | None:
    """An interval as matplotlib expects it: lengths below and above."""
    if figure.low is None or figure.high is None:
        return None
    return [[max(figure.value - figure.low, 0.0)], [max(figure.high - figure.value, 0.0)]]
