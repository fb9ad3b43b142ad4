"""What a method can have at once: protection and adherence, over a sweep of its strength."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from anechoic.errors import BadSetting
from anechoic.metrics.inputs import Array, Floats
from anechoic_lab.metrics.inputs import rows

Points = Array | Sequence[tuple[float, float]]


def pareto_front(points: Points) -> NDArray[np.int64]:
    """The settings that no other beats: numbers of points, by rising protection.

    A point is beaten by one that is at least as good in both and better in one. Of equal points
    the first is kept.

    Args:
        points: (protection, adherence) of each setting, [n, 2], both in [0, 1], more is better.

    Raises:
        BadSetting: no points, NaN, another shape, or a figure outside [0, 1].

    >>> pareto_front([(0.2, 0.9), (0.5, 0.5), (0.4, 0.4), (1.0, 0.1)])
    array([0, 1, 3])
    """
    xy = _checked(points)
    order = np.lexsort((np.arange(len(xy)), -xy[:, 1], -xy[:, 0]))  # from most protection down
    best = np.maximum.accumulate(np.concatenate([[-1.0], xy[order, 1]]))
    return order[best[1:] > best[:-1]][::-1]


def staircase(points: Points) -> Floats:
    """Corners of the region that the points dominate, from (0, y) to (x, 0), [k, 2], to draw.

    >>> staircase([(0.2, 0.9), (0.5, 0.5)]).tolist()
    [[0.0, 0.9], [0.2, 0.9], [0.2, 0.5], [0.5, 0.5], [0.5, 0.0]]
    """
    front = _checked(points)[pareto_front(points)]
    x = np.concatenate([[0.0], np.repeat(front[:, 0], 2)])
    y = np.concatenate([np.repeat(front[:, 1], 2), [0.0]])
    return np.column_stack([x, y])


def area_under_front(points: Points) -> float:
    """Area of the region that the points dominate: their hypervolume against (0, 0).

        area{ (x, y) : some point has protection >= x and adherence >= y }

    One figure for a whole sweep, in [0, 1]: 1 is a setting with full protection and full
    adherence. A setting that another beats changes nothing, a new one never lowers it.

    Args, Raises:
        As `pareto_front`.

    Source: Zitzler and Thiele, 1998 (hypervolume indicator).

    The boxes 0.5 by 0.8 and 1.0 by 0.2 share 0.5 by 0.2.

    >>> round(area_under_front([(0.5, 0.8), (1.0, 0.2)]), 12)
    0.5
    """
    front = _checked(points)[pareto_front(points)]
    widths = np.diff(front[:, 0], prepend=0.0)
    return min(float(widths @ front[:, 1]), 1.0)


def _checked(points: Points) -> Floats:
    xy = rows(points, "points")
    if xy.shape[1] != 2 or (xy < 0).any() or (xy > 1).any():
        raise BadSetting(
            f"expected points of protection and adherence, each in 0 to 1, got {xy.shape[1]} "
            f"figures from {xy.min():g} to {xy.max():g}; scale them first"
        )
    return xy
