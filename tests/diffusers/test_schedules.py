"""What is taken for the noise level of an evaluation is the scheduler's own."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from support.pipelines import CASES, SD_SCHEDULE, make

from anechoic import guard
from anechoic.guidance import ClassifierFree
from anechoic.guidance.noise import NoiseLevel
from anechoic.guidance.step import Guided

STEPS = 4
pipe_of = cache(make)


def with_scheduler(name, scheduler, **config):
    import diffusers

    pipe = make(name)
    pipe.scheduler = getattr(diffusers, scheduler)(**config)
    return pipe


LATENT = {  # schedulers for epsilon and v models, and how often they call the network in four steps
    "DDIMScheduler": 4, "DDPMScheduler": 4, "DPMSolverMultistepScheduler": 4,
    "EulerAncestralDiscreteScheduler": 4, "EulerDiscreteScheduler": 4,
    "HeunDiscreteScheduler": 7, "LMSDiscreteScheduler": 4, "PNDMScheduler": 5,
    "UniPCMultistepScheduler": 4,
}  # fmt: skip
OPTIONS = {"PNDMScheduler": {"skip_prk_steps": True}}


@pytest.mark.parametrize("scheduler", LATENT)
def test_plain_guidance_is_the_pipelines_own_and_progress_is_counted(scheduler):
    case = CASES["StableDiffusionPipeline"]
    config = {**SD_SCHEDULE, "prediction_type": "v_prediction", **OPTIONS.get(scheduler, {})}
    pipe = with_scheduler(case.name, scheduler, **config)
    expected = case.generate(pipe, "a dog barks", steps=STEPS)
    with guard(pipe, ClassifierFree()) as trace:
        assert torch.equal(case.generate(pipe, "a dog barks", steps=STEPS), expected)
    calls = LATENT[scheduler]
    assert [record.progress for record in trace.records] == [k / calls for k in range(calls)]
    levels = [record.noise for record in trace.records]
    assert all(abs(level.alpha**2 + level.sigma**2 - 1) < 1e-6 for level in levels)
    if calls == STEPS:  # those that call it twice go back
        snr = [level.log_snr for level in levels]
        assert snr == sorted(snr)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(
    "scheduler",
    ["DDIMScheduler", "DDPMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler",
     "LMSDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"],
)  # fmt: skip
def test_x0_is_the_schedulers_own(scheduler, kind):
    case = CASES["StableDiffusionPipeline"]
    config = {**SD_SCHEDULE, "prediction_type": kind, **OPTIONS.get(scheduler, {})}
    pipe = with_scheduler(case.name, scheduler, **config)
    if hasattr(pipe.scheduler.config, "clip_sample"):
        pipe.scheduler.register_to_config(clip_sample=False)
    theirs, ours, step = [], [], pipe.scheduler.step
    convert = getattr(pipe.scheduler, "convert_model_output", None)

    def stepped(model_output, timestep, sample, eta=0.0, generator=None, return_dict=True):
        extra = {"generator": generator} if "Ancestral" in scheduler or "DD" in scheduler else {}
        out = step(model_output, timestep, sample, **extra)
        theirs.append(out.pred_original_sample)
        return (out.prev_sample,)

    def converted(*args, **kwargs):
        theirs.append(convert(*args, **kwargs))
        return theirs[-1]

    if convert:
        pipe.scheduler.convert_model_output = converted
    else:
        pipe.scheduler.step = stepped

    def watch(seen):
        ours.append(Guided(7.0).x0(seen))
        return Guided(7.0)

    with guard(pipe, watch):
        case.generate(pipe, "a dog barks", steps=STEPS)
    assert len(ours) == len(theirs) == STEPS
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "name",
    ["StableAudio3Pipeline", "AceStepPipeline", "LongCatAudioDiTPipeline",
     "StableDiffusion3Pipeline", "StableDiffusionXLPipeline"],
)  # fmt: skip
def test_the_last_estimate_is_what_a_pipeline_returns(name):
    """An Euler step to sigma = 0 lands on x0: so the sign and the level are right."""
    last = []

    def watch(step):
        last[:] = [step.cond]
        return Guided(1.0)

    with guard(pipe_of(name), watch):
        made = CASES[name].generate(pipe_of(name), steps=STEPS)
    torch.testing.assert_close(last[0], made, rtol=1e-4, atol=1e-4)


def test_heun_on_flow_matching_calls_the_network_twice_a_step():
    case = CASES["StableDiffusion3Pipeline"]
    pipe = with_scheduler(case.name, "FlowMatchHeunDiscreteScheduler", shift=3.0)
    expected = case.generate(pipe, steps=STEPS)
    with guard(pipe, ClassifierFree()) as trace:
        assert torch.equal(case.generate(pipe, steps=STEPS), expected)
    progress = [record.progress for record in trace.records]
    assert len(progress) == 2 * STEPS - 1
    assert progress == sorted(progress)


@pytest.mark.parametrize("kind", ["flow", "reverse_flow"])
@pytest.mark.parametrize("sigma", [1.0, 0.6, 1e-3])
def test_a_flow_level_converts_there_and_back(kind, sigma):
    x0, eps = torch.randn(2, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    level, x = NoiseLevel.flow(sigma), (1 - sigma) * x0 + sigma * eps
    velocity = eps - x0 if kind == "flow" else x0 - eps
    torch.testing.assert_close(level.to_x0(x, velocity, kind), x0)
    torch.testing.assert_close(level.from_x0(x, x0, kind), velocity)
    moved = level.to_x0(x, velocity + level.x0_step(eps, kind), kind)
    torch.testing.assert_close(moved, x0 + eps)


def test_a_flow_level_is_the_variance_preserving_one_of_the_same_ratio():
    """abar and the Gaussian prior's gain do not depend on how x is scaled."""
    flow = NoiseLevel.flow(0.7)
    same = NoiseLevel.from_ratio(flow.ratio)
    assert flow.abar == pytest.approx(same.abar)
    assert flow.log_snr == pytest.approx(same.log_snr)
    norm = (flow.alpha**2 + flow.sigma**2) ** 0.5  # x = norm * x of the other
    assert flow.prior_gain * norm == pytest.approx(same.prior_gain)
    assert same.prior_gain == pytest.approx(same.alpha)


def test_pure_noise_has_a_finite_level():
    level = NoiseLevel.flow(1.0)
    assert level.ratio == pytest.approx(1000.0)
    assert -14 < level.log_snr < -13
