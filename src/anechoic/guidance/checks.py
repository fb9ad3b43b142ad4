"""When each sample of a batch is compared with the training set, and what is noted of it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from anechoic.errors import BadSetting
from anechoic.guidance.step import Step
from anechoic.guidance.triggers import Point, as_trigger
from anechoic.types import Neighbours

Start = Point | float | None


def due(step: Step, start: Start, every: int) -> Tensor:
    """Which samples are compared at this evaluation: their rows, on the device of the latents.

    None before `start`. From then on a sample is compared as soon as none of its last `every - 1`
    evaluations was, or if its gate was open at the last one: a shut gate is looked at now and then,
    an open one each time. Each sample goes by its own history.

    Args:
        step: the evaluation.
        start: the first point at which anything is compared; None: from the start.
        every: of how many evaluations one is compared while a gate is shut.
    """
    b, device = step.batch, step.x.device
    if start is not None and not as_trigger(start).reached(step):
        return torch.empty(0, dtype=torch.long, device=device)
    lately = step.history[len(step.history) - every + 1 :] if every > 1 else ()
    looked = torch.zeros(b, dtype=torch.bool)
    for record in lately:
        if "similarity" in record.notes:
            looked |= ~record.notes["similarity"].isnan()
    return (~looked | was_open(step)).nonzero()[:, 0].to(device)


def was_open(step: Step) -> Tensor:
    """Whose gate was open at the evaluation before, [b], on the CPU."""
    shut = torch.zeros(step.batch, dtype=torch.bool)
    return step.history[-1].notes.get("gate", shut) if step.history else shut


def noted(
    step: Step, rows: Tensor, nearest: Neighbours | None, threshold: float
) -> Mapping[str, Tensor]:
    """The notes of an evaluation, [b] each, of the rows that were compared: the others have a
    similarity of NaN, -1 for a neighbour and a shut gate."""
    b = step.batch
    if nearest is None:
        sim, neighbour = torch.full((b,), torch.nan), torch.full((b,), -1)
    else:
        sim = spread(nearest.scores[:, 0], rows, b, torch.nan)
        neighbour = spread(nearest.rows[:, 0], rows, b, -1)
    return {
        "similarity": sim,
        "neighbour": neighbour,
        "gate": sim > threshold,  # which NaN is not
        "threshold": torch.full_like(sim, threshold),
    }


def spread(values: Tensor, rows: Tensor, batch: int, rest: float) -> Tensor:
    """Values of some rows as values of all, with `rest` for the others.

    >>> spread(torch.tensor([0.5, 0.7]), torch.tensor([0, 2]), 3, 0.0)
    tensor([0.5000, 0.0000, 0.7000])
    """
    if len(values) == batch:
        return values
    all_rows = values.new_full((batch, *values.shape[1:]), rest)
    all_rows[rows] = values
    return all_rows


def check_due(start: Start, every: int) -> Point | None:
    """`start` as a point.

    Raises:
        BadSetting: `every` is below 1, or `start` no point.
    """
    if every < 1 or every != int(every):
        raise BadSetting(f"every is a number of evaluations of 1 or more, got {every}")
    return None if start is None else as_trigger(start)
