"""The area under the Pareto front: closed forms, counting, and what must not change it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from anechoic_lab.metrics import area_under_front, pareto_front, staircase
from hypothesis import given
from hypothesis import strategies as st

from anechoic.errors import BadSetting

GRID = 16
POINTS = st.lists(
    st.tuples(st.integers(0, GRID), st.integers(0, GRID)).map(lambda p: (p[0] / GRID, p[1] / GRID)),
    min_size=1,
    max_size=12,
)


@pytest.mark.parametrize(
    ("points", "area"),
    [
        ([(1.0, 1.0)], 1.0),
        ([(0.5, 0.5)], 0.25),
        ([(0.0, 1.0), (1.0, 0.0)], 0.0),
        ([(0.25, 1.0), (0.5, 0.5), (1.0, 0.25)], 0.25 + 0.125 + 0.125),
        ([(i / 1000, 1 - i / 1000) for i in range(1001)], 0.4995),  # a straight line, in steps
    ],
)
def test_the_area_under_a_front_has_its_closed_form(points, area: float) -> None:
    assert area_under_front(points) == pytest.approx(area)


@given(POINTS)
def test_the_area_is_the_number_of_cells_that_a_point_dominates(points) -> None:
    cells = sum(
        any(x >= (i + 1) / GRID and y >= (j + 1) / GRID for x, y in points)
        for i in range(GRID)
        for j in range(GRID)
    )
    assert area_under_front(points) == pytest.approx(cells / GRID**2)


@given(POINTS, st.randoms())
def test_the_order_of_settings_does_not_matter_and_both_axes_are_alike(points, random) -> None:
    area = area_under_front(points)
    shuffled = random.sample(points, len(points))
    assert area_under_front(shuffled) == area
    assert area_under_front([(y, x) for x, y in points]) == pytest.approx(area)


@given(POINTS, st.floats(0, 1), st.floats(0, 1), st.data())
def test_a_beaten_setting_changes_nothing(points, x: float, y: float, data) -> None:
    best = data.draw(st.sampled_from(points))
    beaten = [*points, (x * best[0], y * best[1])]
    assert area_under_front(beaten) == area_under_front(points)
    fronts = [np.array(points)[pareto_front(p)].tolist() for p in (points, beaten[:-1])]
    assert fronts[0] == fronts[1]


@given(POINTS, st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_a_new_setting_never_lowers_the_area_which_stays_in_0_to_1(points, new) -> None:
    before, after = area_under_front(points), area_under_front([*points, new])
    assert 0 <= before <= after + 1e-15
    assert after <= 1
    assert after >= max(x * y for x, y in [*points, new]) - 1e-15


@given(POINTS)
def test_the_front_is_what_no_other_point_beats_by_rising_protection(points) -> None:
    front = [points[i] for i in pareto_front(points)]
    unbeaten = {
        p
        for p in points
        if not any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in points)
    }  # fmt: skip
    assert front == sorted(unbeaten)
    assert [y for _, y in front] == sorted((y for _, y in front), reverse=True)
    assert all(points.index(points[i]) == i for i in pareto_front(points))  # the first of equals


@given(POINTS)
def test_the_staircase_encloses_the_area(points) -> None:
    corners = staircase(points)
    assert np.trapezoid(corners[:, 1], corners[:, 0]) == pytest.approx(area_under_front(points))
    assert corners[0, 0] == corners[-1, 1] == 0


def test_tensors_are_points_too() -> None:
    assert area_under_front(torch.tensor([[0.5, 0.5]])) == 0.25


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([(0.5, 1.5)], r"each in 0 to 1, got 2 figures from 0\.5 to 1\.5"),
        ([(-0.1, 0.5)], r"from -0\.1 to 0\.5"),
        (np.zeros((3, 3)), "got 3 figures"),
        (np.zeros((0, 2)), "1 or more points, got 0"),
        ([(0.5, float("nan"))], "NaN or infinity"),
    ],
)
def test_what_is_no_front_is_refused(points, message: str) -> None:
    for function in (area_under_front, pareto_front, staircase):
        with pytest.raises(BadSetting, match=message):
            function(points)
