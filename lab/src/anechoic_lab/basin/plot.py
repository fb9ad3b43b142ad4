"""Draws a sweep: similarity against the start of guidance, and c - u along the run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anechoic_lab.basin.claims import Band, band, called, curve, groups
from anechoic_lab.basin.sweep import FALL, ORDINARY, Course, Scorer, Sweep
from anechoic_lab.bench.plot import COLOURS, STYLE, require_plot, save_plot
from anechoic_lab.bench.task import MEMORIZED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# each group has its own colour, line and marker
LOOKS: Any = {
    MEMORIZED: {"color": COLOURS[1], "linestyle": "-", "marker": "o"},
    ORDINARY: {"color": COLOURS[0], "linestyle": (0, (5, 2)), "marker": "s"},
}
RUG = {MEMORIZED: 0.075, ORDINARY: 0.03}  # height of the transition marks, as a share of the panel


def plot(
    path: str | Path, sweep: Sweep, judges: Sequence[Scorer], *, overwrite: bool = False
) -> Path:
    """Draw a sweep as in the paper: a panel for each guidance before the start, and two panels of
    the plain runs, d_t and ||c - u||.

    Args:
        path: ends in .png or .svg.
        sweep: what was measured.
        judges: the measures that scored it; the first is drawn with its band.
        overwrite: replace an existing file.

    Raises:
        AnechoicError: as `require_plot`.
    """
    path = Path(path)
    require_plot(path, overwrite)
    from matplotlib import rc_context
    from matplotlib.figure import Figure as Canvas

    count = len(sweep.befores) + 2
    rows = -(-count // 2)
    with rc_context(STYLE):
        figure = Canvas((10.4, 3.7 * rows + 0.7), layout="constrained")
        panels = list(figure.subplots(rows, 2, squeeze=False).flat)
        for before, axes in zip(sweep.befores, panels, strict=False):
            _similarity(axes, sweep, before, judges)
        _share_limits(panels[: len(sweep.befores)])
        distance, norm = panels[count - 2 : count]
        distance.set_yscale("log")  # its factor alpha/sigma grows by orders of magnitude
        distance.yaxis.set_major_formatter("{x:g}")
        distance.yaxis.set_minor_formatter("")
        _along(distance, sweep, "distance", "minimum")
        distance.set_title(f"d_t along the run, CFG {sweep.scale:g}", loc="left")
        distance.set_ylabel("d_t = \N{DOUBLE VERTICAL LINE}eps_c - eps_u\N{DOUBLE VERTICAL LINE}")
        _along(norm, sweep, "norm", "fall")
        norm.set_title("the same in x0 space", loc="left")
        norm.set_ylabel("\N{DOUBLE VERTICAL LINE}c - u\N{DOUBLE VERTICAL LINE}")
        for letter, axes in zip("abcdefgh", panels[:count], strict=False):
            axes.set_title(f"({letter}) {axes.get_title('left')}", loc="left", fontsize=11)
            _noise_axis(axes, sweep)
        for axes in panels[count:]:
            axes.set_axis_off()
        _legend(figure, sweep, judges)
        return save_plot(path, figure, dpi=130)


# ------------------------------------------------------------------------------------------- panels


def _similarity(axes: Axes, sweep: Sweep, before: float, judges: Sequence[Scorer]) -> None:
    """Similarity against the step at which guidance starts."""
    first, *others = judges
    for group in groups(sweep):
        _line(axes, sweep.steps, curve(sweep, first.name, group, before), group, marked=True)
        for judge in others:
            means = [point.mean for point in curve(sweep, judge.name, group, before)]
            axes.plot(sweep.steps, means, color=LOOKS[group]["color"], ls=":", lw=1.1)
    if first.threshold is not None:
        axes.axhline(first.threshold, color="0.45", lw=1, zorder=0.9)
    held = [course for course in sweep.courses if course.guidance == before]
    _transitions(axes, held, "fall")
    axes.set_title(f"{called(before)} until that step", loc="left")
    axes.set_xlabel(f"step at which CFG (scale {sweep.scale:g}) starts")
    axes.set_ylabel(f"similarity ({first.name})")


def _along(axes: Axes, sweep: Sweep, name: str, edge: str) -> None:
    """A quantity along the plain runs, and its mean along the runs with constant guidance."""
    steps = range(len(sweep.log_snr))
    for group in groups(sweep):
        for guidance in (sweep.scale, sweep.befores[0]):
            values = [getattr(course, name) for course in sweep.courses
                      if (course.group, course.guidance) == (group, guidance)]  # fmt: skip
            points = [band(column) for column in np.array(values).T]
            if guidance == sweep.scale:
                _line(axes, steps, points, group, marked=False)
            else:
                means = [point.mean for point in points]
                axes.plot(steps, means, color=LOOKS[group]["color"], ls="-.", lw=1.1)
    plain = [course for course in sweep.courses if course.guidance == sweep.scale]
    _transitions(axes, plain, edge)
    axes.set_xlabel("step of the run")


def _line(axes: Axes, x: Sequence[int], points: Sequence[Band], group: str, marked: bool) -> None:
    look = LOOKS[group] if marked else LOOKS[group] | {"marker": ""}
    axes.fill_between(
        x, [p.low for p in points], [p.high for p in points], color=look["color"], alpha=0.16, lw=0
    )
    axes.plot(x, [p.mean for p in points], lw=1.9, ms=4.5, **look)


def _transitions(axes: Axes, courses: Sequence[Course], edge: str) -> None:
    """Mark the transition of each run, in a strip under the data."""
    scale = axes.yaxis.get_transform()
    low, high = scale.transform(np.array(axes.get_ylim()))
    axes.set_ylim(float(scale.inverted().transform(low - 0.13 * (high - low))))
    for group, height in RUG.items():
        found = [getattr(course, edge) for course in courses if course.group == group]
        steps = [step for step in found if step is not None]
        axes.plot(
            steps, [height] * len(steps), "|", color=LOOKS[group]["color"], ms=8, mew=1.5,
            alpha=0.8, transform=axes.get_xaxis_transform(), clip_on=False,
        )  # fmt: skip


def _share_limits(panels: Sequence[Axes]) -> None:
    """Give all panels the same limits of similarity."""
    limits = np.array([axes.get_ylim() for axes in panels])
    for axes in panels:
        axes.set_ylim(limits[:, 0].min(), limits[:, 1].max())


def _noise_axis(axes: Axes, sweep: Sweep) -> None:
    """Draw the grid, and the log-SNR of the steps along the top."""
    from matplotlib.ticker import MaxNLocator

    evaluations = len(sweep.log_snr)
    axes.set_xlim(-0.02 * evaluations, 1.02 * evaluations)
    axes.grid(color="0.92", lw=0.8)
    axes.set_axisbelow(True)
    low, high = sweep.log_snr[0], sweep.log_snr[-1]
    levels: list[float] = []
    steps: list[float] = []
    for level in MaxNLocator(7).tick_values(low, high):
        step = float(np.interp(level, sweep.log_snr, range(evaluations)))
        apart = not steps or step - steps[-1] > 0.05 * evaluations  # or the labels run together
        if low <= level <= high and apart:
            levels.append(level)
            steps.append(step)
    top = axes.secondary_xaxis("top")
    top.set_xticks(steps, [f"{v:g}".replace("-", "\N{MINUS SIGN}") for v in levels], fontsize=8)
    top.tick_params(color="0.6", labelcolor="0.35", length=3)
    top.set_xlabel("log-SNR", fontsize=8, color="0.35")


def _legend(figure: Any, sweep: Sweep, judges: Sequence[Scorer]) -> None:
    """Explain lines and marks, under all panels."""
    from matplotlib.legend_handler import HandlerTuple
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    first, *others = judges
    handles: list[Any] = []
    labels = []
    for group in groups(sweep):
        count = sum(prompt.group == group for prompt in sweep.prompts)
        look = LOOKS[group]
        patch = Patch(color=look["color"], alpha=0.16, lw=0)
        handles.append((patch, Line2D([], [], lw=1.9, ms=4.5, **look)))
        labels.append(
            f"{group}: mean and middle 80 % of {count} prompts x {len(sweep.seeds)} seeds"
        )
    if first.threshold is not None:
        handles.append(Line2D([], [], color="0.45", lw=1))
        labels.append(f"(a, b) copy by {first.name}, from {first.threshold:g}")
    for judge in others:
        handles.append(Line2D([], [], color="0.25", ls=":", lw=1.1))
        labels.append(f"(a, b) mean by {judge.name}")
    handles.append(Line2D([], [], color="0.25", ls="-.", lw=1.1))
    labels.append(f"(c, d) mean under {called(sweep.befores[0])} all along")
    handles.append(Line2D([], [], color="0.25", marker="|", ls="", ms=8, mew=1.5))
    labels.append(
        "transition of a run: (a, b, d) \N{DOUBLE VERTICAL LINE}c - u\N{DOUBLE VERTICAL LINE} "
        f"under {FALL:.0%} of its maximum; (c) first minimum of d_t"
    )
    figure.legend(
        handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=8.5,
        handler_map={tuple: HandlerTuple(ndivide=1)}, handlelength=3.4,
    )  # fmt: skip
