"""Places labels beside points so that they cover neither each other nor the drawing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RADII = (8, 14, 22, 32, 44, 58)  # distance of a label's edge from its point, in 1/72 inch
ANGLES = np.deg2rad([20, -20, 160, -160, 90, -90, 50, -50, 130, -130, 0, 180])
HALF_MARKER = 5.0
NEAR = 14  # labels further away get a line to their point
Box = NDArray[np.float64]  # left, bottom, right, top, in pixels
Segment = Sequence[tuple[float, float]]  # two ends of a straight line, in data coordinates


@dataclass(frozen=True)
class Label:
    """The label of the point at (x, y)."""

    text: str
    x: float
    y: float
    colour: str
    size: float = 9.0


def place(axes: Axes, labels: Sequence[Label], segments: Sequence[Segment]) -> None:
    """Write labels beside their points, one after the other, each where it covers least.

    Args:
        axes: axes in their final place, with everything else drawn.
        labels: labels in the order in which they are placed.
        segments: lines that should not be covered.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    halo = {"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.5}
    figure: Any = axes.figure
    pixel = figure.dpi / 72
    renderer = FigureCanvasAgg(figure).get_renderer()
    frame = np.array(axes.get_window_extent(renderer).extents)
    points = [axes.transData.transform((label.x, label.y)) for label in labels]
    taken: list[Box] = [np.array(text.get_window_extent(renderer).extents) for text in axes.texts]
    taken += [_around(np.array([point]), HALF_MARKER * pixel) for point in points]
    taken += [_around(axes.transData.transform(segment), pixel) for segment in segments]
    for label, point in zip(labels, points, strict=True):
        text = axes.annotate(
            label.text, (label.x, label.y), (0, 0), textcoords="offset points", ha="center",
            va="center", color=label.colour, fontsize=label.size, zorder=5, bbox=halo,
        )  # fmt: skip
        extent = text.get_window_extent(renderer)
        half = np.array([extent.width, extent.height]) / 2
        places = [
            (10 * _outside(box, frame) + sum(_overlap(box, other) for other in taken), number, box)
            for number, box in enumerate(_boxes(point, half, pixel))
        ]
        _, number, box = min(places, key=lambda place: place[:2])  # the nearest of the best
        taken.append(box)
        text.set_position(tuple(((box[:2] + box[2:]) / 2 - point) / pixel))
        if RADII[number // len(ANGLES)] > NEAR:
            edge = np.clip(point, box[:2], box[2:])
            axes.annotate(
                "", (label.x, label.y), tuple((edge - point) / pixel), textcoords="offset points",
                arrowprops={"arrowstyle": "-", "color": label.colour, "lw": 0.6, "shrinkA": 0,
                            "shrinkB": HALF_MARKER},
                zorder=2,
            )  # fmt: skip


def _boxes(point: Box, half: Box, pixel: float) -> Iterator[Box]:
    """Possible boxes of a label around its point, nearest first."""
    for radius in RADII:
        for angle in ANGLES:
            towards = np.array([np.cos(angle), np.sin(angle)])
            centre = point + towards * radius * pixel + np.sign(towards.round(3)) * half
            yield np.concatenate([centre - half, centre + half])


def _around(points: NDArray[np.float64], margin: float) -> Box:
    return np.concatenate([points.min(0) - margin, points.max(0) + margin])


def _overlap(a: Box, b: Box) -> float:
    """The area shared by two boxes."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    return float(sides.clip(0).prod())


def _outside(box: Box, frame: Box) -> float:
    """The area of a box that lies outside another."""
    return float((box[2:] - box[:2]).prod()) - _overlap(box, frame)
