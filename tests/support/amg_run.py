"""A run of a method on the toy of the AMG reference."""

from __future__ import annotations

from dataclasses import replace

import torch

from anechoic.guidance.step import Record
from support.amg_toy import REFERENCE

RATIOS = (500.0, 60.0, 14.6, 5.0, 2.0, 1.0, 0.6, 0.3)


XS = torch.cat([torch.tensor(case["x"], dtype=torch.float64) for case in REFERENCE["cases"][:4]])


def run(method, toy, xs):
    """A run down the noise levels: estimates [n, b, *latent], similarities [n, b], gates [n, b]."""
    history, estimates = (), []
    for k, ratio in enumerate(RATIOS):
        step = toy.step(xs * (1 + ratio), ratio)
        step = replace(step, history=history, progress=k / len(RATIOS))
        answer = method(step)
        estimates.append(answer.x0(step))
        scales = answer.scales(len(xs))
        history += (Record(step.progress, step.noise, step.distance, scales, notes=answer.notes),)
    notes = [record.notes for record in history]
    return (
        torch.stack(estimates),
        torch.stack([note["similarity"].double() for note in notes]),
        torch.stack([note["gate"] for note in notes]),
    )
