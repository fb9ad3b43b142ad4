"""The smallest step out of a union of balls."""

import pytest
import torch

from anechoic.guidance.balls import leave_balls


def crowd(n, k, seed=0, spread=0.1):
    """A point amid k centres, and radii of balls that all hold it."""
    source = torch.Generator().manual_seed(seed)
    centres = torch.randn(1, k, n, generator=source, dtype=torch.float64)
    point = centres.mean(1) + spread * torch.randn(1, n, generator=source, dtype=torch.float64)
    aside = torch.randn(1, n, generator=source, dtype=torch.float64)
    radii = 1.1 * (centres - point[:, None]).norm(dim=2).amax(1, keepdim=True)
    return point, centres, radii.expand(1, k), aside


def after(point, centres, step):
    return (point[:, None] + step[:, None] - centres).norm(dim=2)


@pytest.mark.parametrize(("n", "k"), [(2, 3), (3, 2), (20, 8), (500, 8)])
@pytest.mark.parametrize("seed", range(3))
def test_the_point_is_out_of_all_balls_after_the_step(n, k, seed):
    point, centres, radii, aside = crowd(n, k, seed)
    radii = radii * torch.linspace(1.0, 1.5, k)
    step = leave_balls(point, centres, radii, aside)
    assert (after(point, centres, step) > radii * (1 - 1e-6)).all()
    if n > k:
        assert step.norm() <= radii.max()  # however the balls overlap


@pytest.mark.parametrize("seed", range(6))
def test_no_step_of_a_search_is_shorter(seed):
    point, centres, radii, aside = crowd(3, 2, seed, spread=1.0)
    step = leave_balls(point, centres, radii, aside)
    source = torch.Generator().manual_seed(9)
    directions = torch.nn.functional.normalize(torch.randn(50_000, 3, generator=source).double())
    shorter = directions * (0.99 * step.norm() * torch.rand(50_000, 1, generator=source))
    inside = (point + shorter)[:, None] - centres[0]
    assert (inside.norm(dim=2) < radii).any(1).all()


def test_one_ball_is_left_along_its_radius_as_spell_does():
    point, centres, _, aside = crowd(7, 1, spread=1.0)
    offset = point - centres[:, 0]
    expected = (1.5 - 1) * offset  # relu(r / |x - z| - 1) (x - z)
    step = leave_balls(point, centres, 1.5 * offset.norm(dim=1, keepdim=True), aside)
    torch.testing.assert_close(step, expected)


def test_overlapping_balls_are_left_where_the_sum_of_their_steps_cancels():
    centres = torch.tensor([[[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]])
    point, aside = torch.tensor([[0.0, 0.1, 0.0]]), torch.zeros(1, 3)
    offsets = point[:, None] - centres
    summed = ((2.0 / offsets.norm(dim=2, keepdim=True) - 1) * offsets).sum(1)
    assert after(point, centres, summed).min() < 1.1
    step = leave_balls(point, centres, torch.full((1, 2), 2.0), aside)
    torch.testing.assert_close(after(point, centres, step), torch.full((1, 2), 2.0))
    expected = torch.tensor([[0.0, 3**0.5 - 0.1, 0.0]])
    torch.testing.assert_close(step, expected, atol=1e-2, rtol=0)
    assert step.norm().item() == pytest.approx(3**0.5 - 0.1, abs=1e-5)


def test_a_centre_is_left_to_the_side_that_is_given():
    zero, aside = torch.zeros(1, 4), torch.tensor([[0.0, 3.0, 4.0, 0.0]])
    two = torch.tensor([[2.0]])
    step = leave_balls(zero, zero[None], two, aside)
    torch.testing.assert_close(step, torch.tensor([[0.0, 1.2, 1.6, 0.0]]))
    assert torch.isfinite(leave_balls(zero, zero[None], two, zero)).all()


def test_the_middle_of_two_centres_is_left_across():
    centres = torch.tensor([[[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]])
    zero, aside = torch.zeros(1, 3), torch.tensor([[1.0, 0.0, -1.0]])
    step = leave_balls(zero, centres, torch.full((1, 2), 2.0), aside)
    torch.testing.assert_close(step, torch.tensor([[0.0, 0.0, -(3**0.5)]]))


def test_equal_centres_count_once():
    point, centres, radii, aside = crowd(6, 1)
    twice = leave_balls(point, centres.expand(1, 4, 6), radii.expand(1, 4), aside)
    torch.testing.assert_close(twice, leave_balls(point, centres, radii, aside))


def test_a_point_outside_gets_zero_bit_for_bit_and_others_what_they_get_alone():
    point, centres, radii, aside = crowd(9, 4)
    points = torch.cat([point + 100.0, point])
    both = (centres.expand(2, 4, 9), radii.expand(2, 4), aside.expand(2, 9))
    steps = leave_balls(points, *both)
    assert torch.equal(steps[:1], torch.zeros(1, 9).double())
    assert torch.equal(steps[1:], leave_balls(point, centres, radii, aside))
