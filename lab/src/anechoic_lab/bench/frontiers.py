"""The frontier of a method at several strengths: what protection costs in adherence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anechoic_lab.bench.figures import Figure, Statistic
from anechoic_lab.bench.plan import Method
from anechoic_lab.bench.task import SampleScore
from anechoic_lab.metrics import area_under_front, pareto_front, statistic_interval


@dataclass(frozen=True)
class Setting:
    """One strength on a frontier."""

    method: str
    strength: str
    protection: float  # 1 - mean similarity, in [0, 1]
    adherence: float  # mean, in [0, 1]
    best: bool  # no other setting has at least as much of both


@dataclass(frozen=True)
class Frontier:
    """One method over a sweep of its strength; the larger the area, the better the method.

        area = area{ (x, y) : some setting has protection >= x and adherence >= y }

    Protection is one minus the mean similarity. Both are cut to [0, 1], and computed over the clips
    whose adherence was measured.
    """

    scenario: str
    family: str
    area: Figure
    settings: Sequence[Setting]
    rank: int = 0  # 1: the largest area of its scenario


def frontiers(
    scenario: str, methods: Iterable[Method], rows: Mapping[str, Sequence[SampleScore]]
) -> list[Frontier]:
    """The frontiers of all families, largest area first; empty if adherence was not measured.

    Args:
        scenario: name of the scenario.
        methods: all methods of the plan.
        rows: by method, for the same prompts and seeds in the same order.
    """
    families: dict[str, list[Method]] = {}
    for method in methods:
        if method.family:
            families.setdefault(method.family, []).append(method)
    found = [made for family in families.values() for made in _frontier(scenario, family, rows)]
    ranked = sorted(found, key=lambda frontier: -frontier.area.value)
    return [replace(frontier, rank=rank) for rank, frontier in enumerate(ranked, 1)]


def _frontier(
    scenario: str, methods: Sequence[Method], rows: Mapping[str, Sequence[SampleScore]]
) -> Iterator[Frontier]:
    clips = list(zip(*(rows[method.name] for method in methods), strict=True))
    known = [alike for alike in clips if all(row.adherence is not None for row in alike)]
    paired = np.array([[(row.similarity, row.adherence) for row in alike] for alike in known])
    area = Statistic(_area, partial(statistic_interval, _area))
    figure = area.of(paired, [alike[0].prompt for alike in known])
    if figure is None:
        return
    points = _points(paired)
    front = pareto_front(points)
    settings = [
        Setting(method.name, method.strength, x, y, number in front)
        for number, (method, (x, y)) in enumerate(zip(methods, points.tolist(), strict=True))
    ]
    yield Frontier(scenario, methods[0].family, figure, settings)


def _points(paired: NDArray[Any]) -> NDArray[np.float64]:
    """Protection and adherence of each setting, [settings, 2], from [clips, settings, 2]."""
    similarity, adherence = paired.mean(0).T
    return np.column_stack([1 - np.clip(similarity, 0, 1), np.clip(adherence, 0, 1)])


def _area(paired: NDArray[Any]) -> float:
    return area_under_front(_points(paired))
