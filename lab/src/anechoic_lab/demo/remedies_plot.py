"""Draws the copy rate over the steps of the plain training, a line for each number of repeats."""

from __future__ import annotations

import io
from pathlib import Path

from anechoic.storage import write_whole
from anechoic_lab.bench.plot import COLOURS, STYLE, require_plot
from anechoic_lab.demo import remedies


def draw(out: Path, figure: Path, steps: int = remedies.STEPS) -> None:
    """Draw what the monitor of the plain training in `out` saw; an older figure is replaced.

    Raises:
        AnechoicError: as `require_plot`.
        BadSetting: the training is not finished.
    """
    require_plot(figure, overwrite=True)
    import matplotlib as mpl
    from matplotlib.figure import Figure

    found = remedies.curve(out, steps)
    at = [step for step, _ in found]
    with mpl.rc_context(STYLE):
        canvas = Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = canvas.add_subplot()
        for copies, colour in zip(found[0][1], COLOURS, strict=False):
            rates = [known[copies] for _, known in found]
            axes.plot(at, [rate.value for rate in rates], color=colour, label=f"{copies} times")
            low, high = [rate.low for rate in rates], [rate.high for rate in rates]
            axes.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.set(xlabel="training step", ylabel="share of copies", ylim=(0, 1))
        axes.legend(title="clip is repeated", frameon=False)
        drawn = io.BytesIO()
        canvas.savefig(drawn, format=figure.suffix[1:], metadata={"Date": None})
    write_whole(figure, drawn.getvalue())
