"""The smallest step meets the Karush-Kuhn-Tucker conditions of its programme."""

from itertools import combinations

import pytest
import torch

from anechoic.errors import GuardError
from anechoic.guidance.quadratic import smallest_step


def problem(b, k, n, seed=0):
    """Constraints of which some are exceeded and some are not."""
    source = torch.Generator().manual_seed(seed)
    values = torch.randn(b, k, generator=source, dtype=torch.float64)
    gradients = torch.randn(b, k, n, generator=source, dtype=torch.float64)
    return values, gradients, torch.full((b, k), 0.2, dtype=torch.float64)


def after(values, gradients, step):
    return values + (gradients @ step[..., None])[..., 0]


def by_enumeration(values, gradients, limits):
    """The smallest step of one sample: the best of those that hold some constraints tightly."""
    k, best = len(values), None
    for size in range(k + 1):
        for active in map(list, combinations(range(k), size)):
            step = torch.linalg.pinv(gradients[active]) @ (limits - values)[active]
            feasible = (values + gradients @ step <= limits + 1e-9).all()
            if feasible and (best is None or step.norm() < best.norm()):
                best = step
    return best


@pytest.mark.parametrize(("k", "n"), [(1, 5), (2, 5), (4, 6), (8, 40), (16, 300)])
def test_step_meets_the_optimality_conditions(k, n):
    values, gradients, limits = problem(6, k, n)
    step = smallest_step(values, gradients, limits)
    slack = limits - after(values, gradients, step)
    assert slack.min() > -1e-6
    multipliers = torch.linalg.lstsq(gradients.mT, -step[..., None]).solution[..., 0]
    assert multipliers.min() > -1e-6  # stationary, with multipliers of the right sign
    torch.testing.assert_close(-(multipliers[:, None] @ gradients)[:, 0], step)
    assert (multipliers * slack).abs().max() < 1e-6  # of the tight constraints alone


@pytest.mark.parametrize("seed", range(4))
def test_step_is_the_best_of_all_active_sets(seed):
    values, gradients, limits = problem(3, 4, 7, seed)
    step = smallest_step(values, gradients, limits)
    for row in range(3):
        best = by_enumeration(values[row], gradients[row], limits[row])
        torch.testing.assert_close(step[row], best, atol=1e-7, rtol=0)


def test_one_constraint_is_the_step_of_polyak():
    values, gradients, limits = problem(5, 1, 9)
    excess = (values - limits).clamp_min(0)
    expected = -excess * gradients[:, 0] / gradients[:, 0].square().sum(1, keepdim=True)
    torch.testing.assert_close(smallest_step(values, gradients, limits), expected)


def test_step_is_zero_inside_the_limits_bit_for_bit():
    values, gradients, _ = problem(4, 3, 8)
    assert torch.equal(smallest_step(values, gradients, values), torch.zeros(4, 8).double())


def test_a_constraint_that_another_meets_does_not_lengthen_the_step():
    gradients = torch.eye(4)[None, :2]
    both = smallest_step(torch.tensor([[1.0, -1.0]]), gradients, torch.zeros(1, 2))
    torch.testing.assert_close(both, torch.tensor([[-1.0, 0, 0, 0]]))


@pytest.mark.parametrize("copies", [2, 5])
def test_equal_constraints_count_once(copies):
    values, gradients, limits = problem(1, 1, 6, seed=3)
    values = limits + 0.5
    many = [t.repeat_interleave(copies, 1) for t in (values, gradients, limits)]
    torch.testing.assert_close(smallest_step(*many), smallest_step(values, gradients, limits))


def test_contradictory_constraints_are_exceeded_equally():
    normal = torch.tensor([0.6, 0.8, 0.0], dtype=torch.float64)
    gradients = torch.stack([normal, -2 * normal])[None]
    values = torch.tensor([[1.0, 4.0]], dtype=torch.float64)  # 1 and 2 from their half-spaces
    step = smallest_step(values, gradients, torch.zeros(1, 2))
    torch.testing.assert_close(step[0], 0.5 * normal, atol=1e-4, rtol=0)


def test_a_zero_gradient_is_left_out_and_a_tiny_one_stays_finite():
    values, gradients, limits = problem(1, 3, 6)
    values = limits + 1
    gradients[0, 1] = 0
    expected = smallest_step(values[:, ::2], gradients[:, ::2], limits[:, ::2])
    torch.testing.assert_close(smallest_step(values, gradients, limits), expected)
    assert torch.isfinite(smallest_step(values, 1e-37 * gradients.float(), limits)).all()
    assert not smallest_step(values, torch.zeros_like(gradients), limits).any()


def test_a_batch_of_two_is_two_of_one():
    values, gradients, limits = problem(2, 5, 12, seed=1)
    singly = [smallest_step(values[i, None], gradients[i, None], limits[i, None]) for i in (0, 1)]
    assert torch.equal(smallest_step(values, gradients, limits), torch.cat(singly))


def test_a_step_has_the_dtype_of_its_gradients():
    values, gradients, limits = problem(2, 3, 8)
    half = smallest_step(values.bfloat16(), gradients.bfloat16(), limits.bfloat16())
    assert half.dtype == torch.bfloat16


@pytest.mark.parametrize("where", ["values", "gradients"])
def test_what_is_not_finite_is_refused(where):
    values, gradients, limits = problem(2, 3, 8)
    {"values": values, "gradients": gradients}[where].view(-1)[3] = torch.nan
    with pytest.raises(GuardError, match="not finite"):
        smallest_step(values, gradients, limits)
