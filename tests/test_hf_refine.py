"""refine(): the schedule is the coarse one before a noise level and the dense one after it."""

import math

import pytest
import torch
from tiny import make_pipe

from anechoic import guard
from anechoic.errors import BadSetting, UnsupportedPipeline
from anechoic.guidance import ClassifierFree, LogSNR, TransitionPoint
from anechoic.hf import refine


def schedulers():
    import diffusers as d

    vp = {"prediction_type": "v_prediction"}
    return {
        "cosine": None,
        "dpm++": d.DPMSolverMultistepScheduler(**vp),
        "euler": d.EulerDiscreteScheduler(**vp),
    }


def sigmas(pipe, steps):
    pipe.scheduler.set_timesteps(steps)
    return pipe.scheduler.sigmas[:-1]


@pytest.mark.parametrize("name", schedulers())
def test_the_schedule_is_coarse_before_and_dense_after(name, generate):
    pipe = make_pipe(schedulers()[name])
    coarse, dense = sigmas(pipe, 8), sigmas(pipe, 40)
    with refine(pipe, log_snr=0.0, steps=40), guard(pipe, ClassifierFree()) as trace:
        made = generate(pipe, steps=8)
    seen = torch.tensor([record.noise.ratio for record in trace.records])
    torch.testing.assert_close(seen, torch.cat([coarse[coarse > 1], dense[dense <= 1]]).float())
    assert len(seen) > 8
    assert torch.isfinite(made).all()
    progress = [record.progress for record in trace.records]
    assert progress == [k / len(seen) for k in range(len(seen))]


def test_refined_by_its_own_density_it_is_the_plain_schedule(pipe, generate):
    plain = generate(pipe, steps=8)
    with refine(pipe, log_snr=-2.0, steps=8):
        assert torch.equal(generate(pipe, steps=8), plain)
    assert torch.equal(generate(pipe, steps=8), plain)  # and the scheduler is as before


def test_a_transition_falls_on_its_first_dense_step(pipe, generate):
    with (
        refine(pipe, log_snr=-1.0, steps=60),
        guard(pipe, TransitionPoint(7.0, 0.0, LogSNR(-1.0))) as trace,
    ):
        generate(pipe, steps=6)
    switched = trace.column("switched")[:, 0]
    ratios = [record.noise.ratio for record in trace.records]
    first = int(switched.float().argmax())
    dense = sigmas(pipe, 60)
    assert ratios[first] == pytest.approx(float(dense[dense <= math.exp(0.5)][0]), rel=1e-6)


def test_other_schedulers_and_impossible_densities_are_refused(generate):
    import diffusers as d

    pipe = make_pipe(d.DDIMScheduler(prediction_type="v_prediction"))
    with pytest.raises(UnsupportedPipeline, match="DDIMScheduler"), refine(pipe, 0.0):
        pass
    pipe = make_pipe()
    with refine(pipe, 0.0, steps=4), pytest.raises(BadSetting, match="lower num_inference_steps"):
        generate(pipe, steps=6)
    with refine(pipe, 50.0, steps=40), pytest.raises(BadSetting, match="does not come to"):
        generate(pipe, steps=6)
    generate(pipe, steps=6)
