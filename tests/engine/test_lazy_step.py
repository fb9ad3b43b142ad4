"""What a guidance sees of an evaluation is computed when it looks, and is what it always was."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import get_args

import pytest
import torch
from support.pipelines import make_pipe

from anechoic import guard
from anechoic.engine.run import lazy_step
from anechoic.guidance import DynamicTransition, TransitionPoint
from anechoic.guidance.noise import NoiseLevel, Prediction
from anechoic.guidance.step import Guided, Step

X, COND, UNCOND = torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(0))


def seen(kind="v_prediction", **predictions):
    noise = (NoiseLevel.flow if "flow" in kind else NoiseLevel.from_ratio)(0.7)
    call = SimpleNamespace(x=X, batch=2, noise=noise, progress=0.25, kind=kind, decode=None)
    return lazy_step(call, predictions or {"uncond": UNCOND, "cond": COND}, (), None, 1)


@pytest.mark.parametrize("kind", get_args(Prediction))
def test_it_is_the_step_that_is_made_of_the_estimates(kind):
    step = seen(kind)
    estimates = {
        "cond": step.noise.to_x0(X, COND, kind),
        "uncond": step.noise.to_x0(X, UNCOND, kind),
    }
    rest = {"history": (), "denoise": None, "decode": None, "sample_rate": 1}
    made = Step(X, step.noise, progress=0.25, **estimates, **rest)
    torch.testing.assert_close(step.distance, made.distance)
    assert step.batch == made.batch == 2
    for name in ("x", "cond", "uncond"):
        assert torch.equal(getattr(step, name), getattr(made, name))


def test_a_half_that_was_not_computed_is_nan():
    step = seen(cond=COND)
    assert step.uncond.isnan().all()
    assert step.distance.isnan().all()
    assert torch.isfinite(step.cond).all()


def test_it_can_be_changed_and_taken_in_part_as_any_step():
    step = seen()
    other = replace(step, cond=step.uncond + 1.0)
    expected = torch.full((2,), 20**0.5) / step.noise.ratio
    torch.testing.assert_close(other.distance, expected)
    one = step.of(torch.tensor([1]))
    assert one.batch == 1
    assert torch.equal(one.cond, step.cond[1:])
    torch.testing.assert_close(one.distance, step.distance[1:])


def test_a_method_that_only_chooses_a_scale_has_no_estimate_computed(monkeypatch):
    pipe, computed = make_pipe(), []
    to_x0 = NoiseLevel.to_x0

    def counted(*args):
        computed.append(1)
        return to_x0(*args)

    monkeypatch.setattr(NoiseLevel, "to_x0", counted)
    call = {"prompt": "a dog barks", "num_inference_steps": 4, "audio_end_in_s": 0.2}
    for fall in (None, 0.5):
        with guard(pipe, DynamicTransition(7.0, before=-1.0, fall=fall)):
            pipe(**call)
    with guard(pipe, TransitionPoint(7.0, before=0.0, at=0.5)):
        pipe(**call)
    assert computed == []
    with guard(pipe, lambda step: Guided(7.0, 0.0 * step.cond)):
        pipe(**call)
    assert len(computed) == 4  # the other half was not looked at
