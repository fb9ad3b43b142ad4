"""refine(): the schedule is the coarse one before a noise level and the dense one after it."""

import math

import pytest
import torch
from support.pipelines import make_pipe, schedulers

from anechoic import guard
from anechoic.diffusers import generate_refined, refine
from anechoic.errors import BadSetting, UnsupportedPipeline
from anechoic.guidance import ClassifierFree, DynamicTransition, LogSNR, TransitionPoint


def sigmas(pipe, steps):
    pipe.scheduler.set_timesteps(steps)
    return pipe.scheduler.sigmas[:-1]


@pytest.mark.parametrize("name", ["cosine", "dpm++", "euler"])
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


def call(seed=0, steps=12, **more):
    generator = torch.Generator().manual_seed(seed)
    about = {"prompt": "a dog barks", "num_inference_steps": steps, "output_type": "latent"}
    return {**about, "guidance_scale": 7.0, "generator": generator, **more}


@pytest.mark.parametrize("name", ["cosine", "dpm++", "euler"])
def test_a_dynamic_transition_is_found_and_what_follows_it_is_dense(name):
    pipe = make_pipe(schedulers()[name])
    method = DynamicTransition(7.0, 0.0, fall=0.9)
    with guard(pipe, method) as coarse:
        pipe(**call())
    made, trace = generate_refined(pipe, method, call(), steps=60)
    switched = trace.column("switched")[:, 0]
    first = int(switched.float().argmax())
    assert 0 < first < 11, "a sample that leaves its basin midway"
    assert first == int(coarse.column("switched")[:, 0].float().argmax())
    # the same run up to and with the transition, bit for bit; the dense schedule after it
    for name in ("distance", "scale"):
        assert torch.equal(trace.column(name)[: first + 1], coarse.column(name)[: first + 1])
    seen = torch.tensor([record.noise.ratio for record in trace.records])
    dense = sigmas(pipe, 60).float()
    torch.testing.assert_close(seen[first + 1 :], dense[dense < seen[first] * (1 - 1e-6)])
    assert bool(switched[first:].all())
    assert torch.isfinite(made.audios).all()


def test_one_that_never_leaves_its_basin_is_returned_as_it_came(pipe, generate):
    method = DynamicTransition(7.0, 0.0, fall=1e-6)
    made, trace = generate_refined(pipe, method, call())
    assert len(trace.records) == 12
    with guard(pipe, method):
        assert torch.equal(made.audios, generate(pipe, "a dog barks", steps=12))


@pytest.mark.parametrize(
    ("method", "change", "mend"),
    [
        (DynamicTransition(), {"prompt": ["rain on a roof", "a dog barks"]}, "one at a time"),
        (ClassifierFree(), {}, "a transition method"),
        (DynamicTransition(), {"generator": None}, "pass generator="),
    ],
)
def test_what_has_no_transition_of_its_own_is_refused(pipe, method, change, mend):
    with pytest.raises(BadSetting, match=mend):
        generate_refined(pipe, method, call(**change))
