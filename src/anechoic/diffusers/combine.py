"""From what a guidance answers to the prediction that stands for it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from anechoic.errors import GuardError
from anechoic.guidance.noise import Prediction
from anechoic.guidance.step import Guided, Needs, Record, Step

Combination = Callable[[Tensor, Tensor, Tensor | float], Tensor]


def combined(
    answer: Guided | Tensor,
    step: Step,
    uncond: Tensor | None,
    cond: Tensor | None,
    kind: Prediction,
    combine: Combination,
) -> Tensor:
    """The guided prediction, in the network's own space and number format.

    Args:
        answer: of the guidance.
        step: that it saw.
        uncond: the network's prediction without the prompt; None: there is none, and no scale.
        cond: the network's prediction; None: only the other one was computed.
        kind: what the network predicts.
        combine: the pipeline's own guidance.
    """
    guided = uncond if cond is None else cond
    assert guided is not None  # one of them was computed
    if isinstance(answer, Tensor):
        return step.noise.from_x0(step.x, answer, kind).to(guided.dtype)
    if uncond is not None and cond is not None:
        scale = _common(answer.scale)
        if isinstance(scale, Tensor):
            scale = step.per_sample(scale.expand(step.batch)).to(cond.device, cond.dtype)
        guided = combine(uncond, cond, scale)
    if answer.delta is None:
        return guided
    return (guided.float() + step.noise.x0_step(answer.delta, kind)).to(guided.dtype)


def _common(scale: Tensor | float) -> Tensor | float:
    """One number where all samples have the same scale: the pipeline multiplies by a number, too,
    and in half precision that is not the same as by a tensor."""
    if not isinstance(scale, Tensor):
        return scale
    numbers = set(scale.flatten().tolist())
    return numbers.pop() if len(numbers) == 1 else scale.double().flatten()


def check_alone(answer: Guided | Tensor, half: Needs, batch: int) -> None:
    """Refuse an answer that cannot be made of the half that its guidance asked for.

    Raises:
        GuardError: it is such an answer.
    """
    weight = 1.0 if half == "cond" else 0.0
    if not isinstance(answer, Guided) or bool((answer.scales(batch) != weight).any()):
        raise GuardError(
            f"the guidance said that it needs the half '{half}' alone, which is a scale of "
            f"{weight:g}, and answered otherwise; let its 'needs' say 'both'"
        )


def recorded(answer: Guided | Tensor, step: Step, passes: float, guided: bool = True) -> Record:
    """What is remembered of an evaluation; `guided`: it has an unconditional half."""
    plain = Guided(float("nan")) if isinstance(answer, Tensor) else answer
    batch = step.batch
    return Record(
        progress=step.progress,
        noise=step.noise,
        distance=_told(step.distance),
        scale=_told(plain.scales(batch, torch.float32)) if guided else torch.ones(batch),
        passes=passes,
        notes={name: _told(value) for name, value in plain.notes.items()},
    )


def _told(value: Tensor) -> Tensor:
    """Without a gradient, on the CPU; most values are both already."""
    return value.detach().cpu() if value.requires_grad or not value.is_cpu else value
