"""The smallest step that leaves a union of balls."""

from __future__ import annotations

import torch
from torch import Tensor

from anechoic.guidance.quadratic import smallest_step

PRECISION = 1e-6  # of the square of the step, in units of the squared radius
ROUNDING = 1e-9


@torch.no_grad()
def leave_balls(points: Tensor, centres: Tensor, radii: Tensor, aside: Tensor) -> Tensor:
    """The smallest step of each point after which it is in no ball.

        min |d|   such that   |x + d - z_k| >= r_k   for all k

    With t = |d|^2, the condition 2 <x - z_k, d> >= r_k^2 - |x - z_k|^2 - t is linear in d, so the
    step is found by quadratic programmes, over a search for the smallest t of which the shortest
    solution has a square of at most t. A solution that is shorter than that is lengthened across
    the span of the x - z_k. So the step is never longer than the largest radius where there are
    more dimensions than balls. A point outside of all balls gets zero, bit for bit.

    Args:
        points: x, [b, n].
        centres: z, [b, k, n].
        radii: r, [b, k].
        aside: where to turn if the centres leave the direction open, as at a centre, [b, n].

    Returns:
        Steps [b, n].

    >>> zero = torch.zeros(1, 3)
    >>> leave_balls(torch.tensor([[0.5, 0, 0]]), zero[None], torch.tensor([[2.0]]), zero)
    tensor([[1.5000, 0.0000, 0.0000]])
    """
    steps = torch.zeros_like(points)
    offsets = points[:, None] - centres.to(points)
    inside = torch.linalg.vector_norm(offsets, dim=2) < radii.to(points)
    for row in inside.any(1).nonzero()[:, 0].tolist():
        step = _exit(offsets[row].double(), radii[row].to(offsets).double(), aside[row].double())
        steps[row] = step.to(steps)
    return steps


def _exit(offsets: Tensor, radii: Tensor, aside: Tensor) -> Tensor:
    """The step [n] out of balls, by the offsets [k, n] of the point from their centres."""
    distances = torch.linalg.vector_norm(offsets, dim=1)
    deepest = (radii - distances).argmax()
    if distances[deepest] > 0:  # out of this one is the smallest step, if it ends in no other
        step: Tensor = offsets[deepest] * (radii[deepest] / distances[deepest] - 1)
        if not bool(_inside(offsets, step, radii).any()):
            return step
    basis, rows = torch.linalg.qr(torch.cat([offsets, aside[None]]).mT)
    near, radii = rows[:, :-1].mT.cpu(), radii.cpu()
    across = torch.zeros(len(rows), dtype=rows.dtype)
    across[-1] = 1.0 if rows[-1, -1] >= 0 else -1.0
    lacking = radii.square() - near.square().sum(1)  # of the squared distances

    low, high, best = 0.0, float(lacking.max()), torch.zeros_like(across)
    unit = float(radii.max()) ** 2
    while high - low > PRECISION * unit:
        squared = (low + high) / 2
        found = smallest_step(lacking[None], -2 * near[None], torch.full((1, 1), squared))[0]
        met = lacking - 2 * near @ found - squared <= PRECISION * unit
        if bool(met.all()) and float(found.square().sum()) <= squared:
            high, best = squared, found
        else:
            low = squared
    best = best + (high - best.square().sum()).clamp_min(0).sqrt() * across
    direction = best / torch.linalg.vector_norm(best)
    for _ in near:  # in few dimensions nothing is across, and rounding may leave a rest
        if not bool((inside := _inside(near, best, radii)).any()):
            break
        along = near[inside] @ direction
        best = direction * (along.square() + lacking[inside]).clamp_min(0).sqrt().sub(along).max()
    out: Tensor = basis @ best.to(basis)
    return out


def _inside(offsets: Tensor, step: Tensor, radii: Tensor) -> Tensor:
    """Which balls [k] a step does not leave, but for rounding."""
    left: Tensor = torch.linalg.vector_norm(offsets + step, dim=1)
    return left < radii * (1 - ROUNDING)
