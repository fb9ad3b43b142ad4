"""Ways to call a guarded pipeline otherwise: each is guarded all the same, or refused."""

from __future__ import annotations

import contextvars
import copy
import threading
from functools import cache

import diffusers
import pytest
import torch
from support.pipelines import CASES, make, make_pipe
from support.pool import Pool

from anechoic import guard
from anechoic.errors import GuardError, UnsupportedPipeline
from anechoic.guidance import (
    AntiMemorization,
    ClassifierFree,
    DynamicTransition,
    LogSNR,
    TransitionPoint,
)

HELD_BACK = TransitionPoint(7.0, before=-3.0, at=0.5)
OUTSIDE = "outside its pipeline's own loop"
SWITCHED = "switched its guidance on or off"
SD = CASES["StableDiffusionPipeline"]
pipe_of = cache(make)


def twin(pipe):
    """Another pipeline on the same parts."""
    other = type(pipe)(**pipe.components)
    other.set_progress_bar_config(disable=True)
    return other


@pytest.mark.parametrize("prompts", [("low cello note", "a dog barks"), ("a dog barks",)])
@pytest.mark.parametrize(
    ("name", "halved"),
    [
        ("StableDiffusionPipeline", ["prompt_embeds"]),
        ("StableDiffusionXLPipeline", ["prompt_embeds", "add_text_embeds", "add_time_ids"]),
        ("StableDiffusion3Pipeline", ["prompt_embeds", "pooled_prompt_embeds"]),
        ("LongCatAudioDiTPipeline", []),
    ],
)
def test_guidance_that_a_callback_switches_off_is_refused_for_any_number_of_prompts(
    name, halved, prompts
):
    def off(pipe, index, t, inputs):  # as diffusers documents it
        pipe._guidance_scale = 0.0
        if index == 0:
            inputs.update({key: inputs[key].chunk(2)[-1] for key in halved})
        return inputs

    more = {"callback_on_step_end": off, "callback_on_step_end_tensor_inputs": halved}
    with pytest.raises(GuardError, match=SWITCHED), guard(pipe_of(name), ClassifierFree()):
        CASES[name].generate(pipe_of(name), prompts, **more)


def test_guidance_that_a_callback_switches_on_is_refused():
    def on(pipe, index, t, inputs):
        pipe._guidance_scale = 7.0
        return {"prompt_embeds": torch.cat([inputs["prompt_embeds"]] * 2)}

    store = Pool(images=True)
    alone = AntiMemorization(store, store, c1=0.0, c2=0.0)
    with pytest.raises(GuardError, match=SWITCHED), guard(pipe_of(SD.name), alone):
        SD.generate(pipe_of(SD.name), scale=1.0, callback_on_step_end=on,
                    callback_on_step_end_tensor_inputs=["prompt_embeds"])  # fmt: skip


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    "name", ["StableAudioPipeline", "StableDiffusionPipeline", "StableDiffusionXLPipeline"]
)
def test_another_pipeline_on_the_guarded_network_is_refused(name, first):
    case, pipe = CASES[name], pipe_of(name)
    other = twin(pipe)
    with guard(pipe, HELD_BACK):
        if not first:
            case.generate(pipe, steps=2)
        with pytest.raises(GuardError, match=OUTSIDE):
            case.generate(other, steps=2)
        case.generate(pipe, steps=2)
    assert torch.equal(case.generate(other), case.generate(pipe))


def test_a_shallow_copy_of_the_pipeline_is_refused():
    pipe = pipe_of(SD.name)
    with guard(pipe, HELD_BACK):
        SD.generate(pipe)
        with pytest.raises(GuardError, match=OUTSIDE):
            SD.generate(copy.copy(pipe))


def by_hand(pipe, *_):
    pipe.unet(torch.randn(4, 4, 8, 8), 500, encoder_hidden_states=torch.randn(4, 16, 16))
    return {}


def test_the_network_called_by_hand_is_refused_before_and_after_a_generation():
    pipe = pipe_of(SD.name)
    with guard(pipe, ClassifierFree()):
        with pytest.raises(GuardError, match=OUTSIDE):
            by_hand(pipe)
        SD.generate(pipe)
        with pytest.raises(GuardError, match=OUTSIDE):
            by_hand(pipe)


def test_the_network_called_by_hand_in_a_callback_is_refused():
    pipe = pipe_of(SD.name)
    with (
        pytest.raises(GuardError, match="called once more in between"),
        guard(pipe, ClassifierFree()),
    ):
        SD.generate(pipe, callback_on_step_end=by_hand)


def test_a_network_put_in_between_two_generations_is_refused():
    pipe, other = make(SD.name), make(SD.name)
    with guard(pipe, ClassifierFree()):
        SD.generate(pipe)
        pipe.unet = other.unet
        with pytest.raises(GuardError, match="unet was replaced"):
            SD.generate(pipe)


def test_a_network_put_in_by_a_callback_is_refused_before_its_first_step():
    pipe, other, steps = make(SD.name), make(SD.name), []

    def put_in(pipe, index, t, inputs):
        pipe.unet = other.unet
        steps.append(index)
        return {}

    with (
        pytest.raises(GuardError, match="a prediction that the guard did not make"),
        guard(pipe, ClassifierFree()),
    ):
        SD.generate(pipe, callback_on_step_end=put_in)
    assert steps == [0]


def test_a_step_that_skips_the_networks_hooks_is_refused():
    pipe = make(SD.name)

    class Bare(type(pipe.unet)):
        def __call__(self, *args, **kwargs):
            return self.forward(*args, **kwargs)

    pipe.unet.__class__ = Bare
    with (
        pytest.raises(GuardError, match="called past its hooks"),
        guard(pipe, ClassifierFree()),
    ):
        SD.generate(pipe)


@pytest.mark.parametrize("name", ["DEISMultistepScheduler", "EDMEulerScheduler", "TCDScheduler"])
def test_a_scheduler_put_in_inside_the_block_is_refused_as_before_it(name):
    pipe = make(SD.name)
    first = pipe.scheduler
    with guard(pipe, ClassifierFree()) as trace:
        pipe.scheduler = getattr(diffusers, name).from_config(first.config)
        with pytest.raises(UnsupportedPipeline, match=f"got {name}"):
            SD.generate(pipe)
        assert trace.runs == []
        pipe.scheduler = first
        SD.generate(pipe)


def test_a_known_scheduler_put_in_inside_the_block_is_guarded_and_left_as_it_was():
    pipe = make(SD.name)
    first, euler = pipe.scheduler, diffusers.EulerDiscreteScheduler
    second = euler.from_config(first.config)
    pipe.scheduler = euler.from_config(first.config)
    plain = SD.generate(pipe)
    pipe.scheduler = first
    with guard(pipe, ClassifierFree()) as trace:
        SD.generate(pipe)
        pipe.scheduler = second
        assert torch.equal(SD.generate(pipe), plain)
    assert [len(run) for run in trace.runs] == [3, 3]
    assert "step" not in {**vars(first), **vars(second)}


def test_a_scheduler_put_in_by_a_callback_is_refused():
    pipe = make(SD.name)

    def put_in(pipe, index, t, inputs):
        pipe.scheduler = copy.deepcopy(pipe.scheduler)
        return {}

    with pytest.raises(GuardError, match="scheduler was replaced"), guard(pipe, ClassifierFree()):
        SD.generate(pipe, callback_on_step_end=put_in)


def test_encoding_a_prompt_by_hand_is_no_generation():
    pipe = make(SD.name)
    plain = SD.generate(pipe)
    with guard(pipe, ClassifierFree()) as trace:
        pipe.encode_prompt("low cello note", "cpu", 1, True)
        pipe.check_inputs("low cello note", 64, 64, 1)
        assert trace.runs == []
        assert torch.equal(SD.generate(pipe), plain)
    assert [len(run) for run in trace.runs] == [3]
    with pytest.raises(GuardError, match="nothing was generated"), guard(pipe, ClassifierFree()):
        pipe.encode_prompt("low cello note", "cpu", 1, True)


def in_a_thread(pipe, until, outcome):
    """Generate in a thread that the block reaches, and that waits after its second step until an
    event is set."""
    reached = threading.Event()

    def wait(pipe, index, t, inputs):
        if index == 1:
            reached.set()
            until.wait(20)
        return {}

    def work():
        try:
            outcome.append(SD.generate(pipe, steps=6, callback_on_step_end=wait))
        except GuardError as error:
            outcome.append(error)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,))
    thread.start()
    assert reached.wait(20)
    return thread


def test_a_thread_that_outlives_the_block_generates_no_further():
    pipe, until, outcome = make(SD.name), threading.Event(), []
    plain = SD.generate(pipe, steps=6)
    with (
        pytest.raises(GuardError, match="ended while a generation was still running"),
        guard(pipe, ClassifierFree()) as trace,
    ):
        thread = in_a_thread(pipe, until, outcome)
    until.set()
    thread.join()
    assert len(trace.records) == 2
    assert "still running" in str(outcome[0])
    assert torch.equal(SD.generate(pipe, steps=6), plain)
    assert not pipe.unet._forward_pre_hooks


def test_a_thread_that_ends_inside_the_block_is_guarded():
    pipe, until, outcome = make(SD.name), threading.Event(), []
    plain = SD.generate(pipe, steps=6)
    with guard(pipe, ClassifierFree()) as trace:
        thread = in_a_thread(pipe, until, outcome)
        until.set()
        thread.join()
    assert torch.equal(outcome[0], plain)
    assert len(trace.records) == 6


def test_a_second_call_of_the_pipeline_in_another_thread_is_refused_and_the_first_is_whole():
    pipe, until, outcome = make(SD.name), threading.Event(), []
    plain = SD.generate(pipe, steps=6)
    with guard(pipe, ClassifierFree()) as trace:
        thread = in_a_thread(pipe, until, outcome)
        with pytest.raises(GuardError, match="in the middle of a call"):
            SD.generate(pipe)
        until.set()
        thread.join()
    assert torch.equal(outcome[0], plain)
    assert [len(run) for run in trace.runs] == [6]


def test_a_deep_copy_of_a_guarded_pipeline_is_refused_in_the_block_and_plain_after_it():
    pipe = make(SD.name)
    plain = SD.generate(pipe)
    with guard(pipe, HELD_BACK) as trace:
        SD.generate(pipe)
        copied = copy.deepcopy(pipe)
        with pytest.raises(GuardError, match="a copy of a guarded pipeline"):
            SD.generate(copied)
        SD.generate(pipe)
    assert torch.equal(SD.generate(copied), plain)
    assert [len(run) for run in trace.runs] == [3, 3]
    with guard(copied, ClassifierFree()):
        assert torch.equal(SD.generate(copied), plain)


@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler"])
@pytest.mark.parametrize(
    "guidance",
    [ClassifierFree(), TransitionPoint(before=-1.0, at=LogSNR(0.0)), DynamicTransition()],
)
def test_a_schedule_of_zero_terminal_snr_starts_at_a_thousandth_of_signal(name, guidance):
    pipe = make(SD.name)
    pipe.scheduler = getattr(diffusers, name).from_config(
        pipe.scheduler.config, rescale_betas_zero_snr=True, timestep_spacing="trailing",
        prediction_type="v_prediction",
    )  # fmt: skip
    plain = SD.generate(pipe, steps=5)
    with guard(pipe, guidance) as trace:
        made = SD.generate(pipe, steps=5)
    assert torch.equal(made, plain) == isinstance(guidance, ClassifierFree)
    assert trace.records[0].noise.alpha == 1e-3
    assert torch.tensor([record.norms for record in trace.records]).isfinite().all()
    assert bool((trace.records[0].distance > 0).all())


def test_a_spy_on_the_scheduler_is_put_back():
    pipe = make_pipe()
    spy = pipe.scheduler.step = lambda *args, **kwargs: type(pipe.scheduler).step(
        pipe.scheduler, *args, **kwargs
    )
    with guard(pipe, ClassifierFree()):
        pipe("a dog barks", num_inference_steps=2, output_type="latent")
    assert pipe.scheduler.step is spy


@pytest.mark.parametrize("name", ["StableAudioPipeline", "StableDiffusionPipeline"])
@pytest.mark.parametrize("what", ["generate", "load"])
def test_inference_mode_is_refused_in_one_sentence_where_a_gradient_is_taken(name, what):
    case, store = CASES[name], Pool(images=not name.startswith("StableAudio"))
    with torch.inference_mode(what == "load"):
        pipe = make(name)
    method = AntiMemorization(store, store, c1=0.0, c2=0.0, lambda_min=-1.0, lambda_max=-1.0)
    with (
        pytest.raises(GuardError, match="outside of inference_mode"),
        guard(pipe, method),
        torch.inference_mode(what == "generate"),
    ):
        case.generate(pipe)
    with guard(pipe, ClassifierFree()):
        case.generate(pipe)
