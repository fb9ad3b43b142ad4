"""A guidance that moves the latents: the sampler goes on from there."""

from __future__ import annotations

from dataclasses import replace
from functools import wraps
from typing import Any

import pytest
import torch
from support.pipelines import CASES, alive, make_pipe, schedulers
from torch import Tensor

from anechoic import guard
from anechoic.errors import GuardError
from anechoic.guidance import ClassifierFree, During, Sequence
from anechoic.guidance.step import Guided, Step

SCALED = ("Cosine", "Euler", "Heun")  # schedulers whose latents are not what the network is fed


def far(x: Tensor) -> Tensor:
    return 0.3 * torch.randn(x[:1].shape, generator=torch.Generator().manual_seed(5))


def moving(step: Step) -> Guided:
    """Plain guidance from other latents, from the first step on."""
    if step.progress > 0:
        return Guided(7.0)
    x, plain = step.x + far(step.x), Guided(7.0)
    halves = {half: step.denoise(x, half) for half in ("cond", "uncond")}
    moved = replace(step, x=x, **halves)
    return Guided(1.0, plain.x0(moved) - step.cond, x=x)


def staying(step: Step) -> Guided | Tensor:
    """The same where the latents stay; a pipeline's own guidance may be another than plain."""
    return Guided(7.0) if step.progress > 0 else Guided(7.0).x0(step)


def started_there(pipe: Any, make: Any) -> Tensor:
    """What a pipeline makes of the same starting latents, moved before it is given them."""
    original, scheduler = pipe.prepare_latents, pipe.scheduler

    @wraps(original)
    def prepare(*args: Any, **kwargs: Any) -> Any:
        made = original(*args, **kwargs)
        latents = made[0] if isinstance(made, tuple) else made
        ratio = float(scheduler.sigmas[0]) if hasattr(scheduler, "sigmas") else 0.0
        scaled = type(scheduler).__name__.startswith(SCALED)
        latents = latents + far(latents) * ((1 + ratio**2) ** 0.5 if scaled else 1.0)
        return (latents, *made[1:]) if isinstance(made, tuple) else latents

    pipe.prepare_latents = prepare
    try:
        return make()
    finally:
        del pipe.prepare_latents


@pytest.mark.parametrize("name", CASES)
def test_every_pipeline_goes_on_from_there(name: str) -> None:
    case = CASES[name]
    pipe = alive(case.make())
    steps = 1 if name == "AceStepPipeline" else 3  # its own guidance remembers earlier halves
    plain = case.generate(pipe, steps=steps)
    with guard(pipe, staying):
        expected = started_there(pipe, lambda: case.generate(pipe, steps=steps))
    with guard(pipe, moving):
        made = case.generate(pipe, steps=steps)
    assert not torch.equal(plain, expected)
    torch.testing.assert_close(made, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", schedulers())
def test_every_scheduler_goes_on_from_there(name: str, generate: Any) -> None:
    pipe = make_pipe(schedulers()[name])
    expected = started_there(pipe, lambda: generate(pipe))
    with guard(pipe, moving):
        made = generate(pipe)
    torch.testing.assert_close(made, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "composed",
    [
        lambda: Sequence(moving, ClassifierFree(), at=0.5),
        lambda: During(moving, 0.0, 0.5, outside=ClassifierFree()),
    ],
)
def test_a_composition_goes_on_from_there(composed: Any, pipe: Any, generate: Any) -> None:
    with guard(pipe, moving):
        alone = generate(pipe)
    with guard(pipe, composed()):
        assert torch.equal(generate(pipe), alone)


def test_latents_of_another_shape_are_refused(pipe: Any, generate: Any) -> None:
    def smaller(step: Step) -> Guided:
        return Guided(7.0, x=step.x[..., :-1])

    with pytest.raises(GuardError, match="a delta and an x"), guard(pipe, smaller):
        generate(pipe)
