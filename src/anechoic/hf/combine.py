"""From what a guidance answers to the prediction that stands for it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from anechoic.noise import Prediction
from anechoic.step import Guided, Record, Step

Combination = Callable[[Tensor, Tensor, Tensor | float], Tensor]


def combined(
    answer: Guided | Tensor,
    step: Step,
    uncond: Tensor | None,
    cond: Tensor,
    kind: Prediction,
    combine: Combination,
) -> Tensor:
    """The guided prediction, in the network's own space and number format.

    Args:
        answer: of the guidance.
        step: that it saw.
        uncond: the network's prediction without the prompt; None: there is none, and no scale.
        cond: the network's prediction.
        kind: what the network predicts.
        combine: the pipeline's own guidance.
    """
    if isinstance(answer, Tensor):
        return step.noise.from_x0(step.x, answer, kind).to(cond.dtype)
    guided = cond
    if uncond is not None:
        scales = answer.scales(len(step.x))
        # the pipeline multiplies by a Python float: do the same where the samples agree
        scale: Tensor | float = (
            scales[0].item()
            if bool((scales == scales[0]).all())
            else step.per_sample(scales).to(cond.device, cond.dtype)
        )
        guided = combine(uncond, cond, scale)
    if answer.delta is None:
        return guided
    return (guided.float() + step.noise.x0_step(answer.delta, kind)).to(cond.dtype)


def recorded(answer: Guided | Tensor, step: Step, passes: float, guided: bool = True) -> Record:
    """What is remembered of an evaluation; `guided`: it has an unconditional half."""
    plain = Guided(float("nan")) if isinstance(answer, Tensor) else answer
    scale = plain.scales(len(step.x)).float()
    return Record(
        progress=step.progress,
        noise=step.noise,
        distance=step.distance.detach().cpu(),
        scale=(scale if guided else torch.ones_like(scale)).cpu(),
        passes=passes,
        notes={name: value.detach().cpu() for name, value in plain.notes.items()},
    )
