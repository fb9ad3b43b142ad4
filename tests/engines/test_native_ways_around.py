"""Ways to call a guarded model of stable-audio-tools otherwise: each is guarded, or refused."""

from __future__ import annotations

import asyncio
import copy
import threading

import pytest
import torch
from support.native import BOTH, CAPTIONS, LIBRARIES, rows

from anechoic import guard
from anechoic.errors import GuardError, UnsupportedPipeline
from anechoic.guidance import ClassifierFree, TransitionPoint

HELD_BACK = TransitionPoint(7.0, before=-3.0, at=0.5)
OUTSIDE = "outside of generate_diffusion_cond"


@pytest.fixture(params=BOTH)
def library(request):
    return LIBRARIES[request.param]


@pytest.fixture
def model(library):
    return library.make("v")


def generate(library, model, **settings):
    return library.generate(model, **{"sampler": "v-ddim", "steps": 3, **settings})


def shared(model):
    """Another model on the same parts."""
    other = copy.copy(model)
    other._modules = dict(model._modules)
    return other


def by_hand(model):
    inputs = model.get_conditioning_inputs(model.conditioner(rows(CAPTIONS), "cpu"))
    with torch.no_grad():
        return model.model(torch.randn(2, 3, 8), torch.full((2,), 0.5), **inputs, cfg_scale=5.0)


def test_the_network_called_by_hand_is_refused_before_and_after_a_generation(library, model):
    with guard(model, HELD_BACK):
        with pytest.raises(GuardError, match=OUTSIDE):
            by_hand(model)
        generate(library, model)
        with pytest.raises(GuardError, match=OUTSIDE):
            by_hand(model)
    assert by_hand(model).isfinite().all()


def test_what_the_network_calls_is_refused_by_hand(library, model):
    forward, network = model.model.model.forward, model.model.model
    inputs = model.get_conditioning_inputs(model.conditioner(rows(CAPTIONS), "cpu"))
    given = {
        "cross_attn_cond": inputs["cross_attn_cond"],
        "global_embed": inputs["global_cond"],
    }
    with guard(model, HELD_BACK), torch.no_grad():
        for call in (forward, network._forward):
            with pytest.raises(GuardError, match=OUTSIDE):
                call(torch.randn(2, 3, 8), torch.full((2,), 0.5), **given)
        generate(library, model)


def test_the_network_called_by_hand_in_a_callback_is_an_error_at_the_end(library, model):
    with (
        pytest.raises(GuardError, match="6 of the 3 evaluations"),
        guard(model, ClassifierFree()),
    ):
        generate(library, model, callback=lambda state: by_hand(model))


def test_another_model_on_the_guarded_network_is_refused(library, model):
    other = shared(model)
    with guard(model, HELD_BACK):
        generate(library, model)
        with pytest.raises(GuardError, match=OUTSIDE):
            generate(library, other)
    assert torch.equal(generate(library, other), generate(library, model))


def test_a_deep_copy_is_refused_in_the_block_and_plain_after_it(library, model):
    plain = generate(library, model)
    with guard(model, HELD_BACK) as trace:
        generate(library, model)
        copied = shared(model)  # their codec cannot be copied
        copied.model = copy.deepcopy(model.model)
        with pytest.raises(GuardError, match="a copy of a guarded pipeline"):
            generate(library, copied)
    assert torch.equal(generate(library, copied), plain)
    assert [len(run) for run in trace.runs] == [3]
    with guard(copied, ClassifierFree(5.0)):
        assert torch.equal(generate(library, copied, cfg_scale=2.0), plain)


@pytest.mark.parametrize("part", ["model", "network"])
def test_a_network_put_in_between_two_generations_is_refused(library, model, part):
    other = library.make("v", seed=1)
    with guard(model, ClassifierFree()):
        generate(library, model)
        if part == "model":
            model.model = other.model
        else:
            model.model.model = other.model.model
        with pytest.raises(GuardError, match="network was replaced"):
            generate(library, model)


def test_a_network_put_in_by_a_callback_is_an_error_at_the_end(library, model):
    other = library.make("v", seed=1).model.model

    def put_in(state):
        model.model.model = other

    with (
        pytest.raises(GuardError, match="1 of the 3 evaluations"),
        guard(model, ClassifierFree()),
    ):
        generate(library, model, callback=put_in)


def test_a_forward_that_something_else_puts_in_is_refused(library, model):
    network = model.model.model
    plain = type(network).forward.__get__(network)
    with guard(model, ClassifierFree()):
        generate(library, model)
        network.forward = plain
        with pytest.raises(GuardError, match="network was replaced"):
            generate(library, model)


def test_a_generation_that_is_broken_off_is_an_error_at_the_end(library, model):
    def stop(state):
        raise KeyboardInterrupt

    with (
        pytest.raises(GuardError, match="broken off"),
        guard(model, ClassifierFree()),
        pytest.raises(KeyboardInterrupt),
    ):
        generate(library, model, callback=stop)
    generate(library, model)


def test_a_block_without_a_generation_is_refused(model):
    with pytest.raises(GuardError, match="nothing was generated"), guard(model, ClassifierFree()):
        model.conditioner(rows(CAPTIONS), "cpu")


def test_a_guard_inside_a_guard_is_refused(library, model):
    with guard(model, ClassifierFree()):
        generate(library, model)
        with pytest.raises(GuardError, match="guarded already"):
            guard(model, ClassifierFree()).__enter__()


def test_the_model_is_as_it_was_after_the_block_and_after_an_error(library, model):
    before = {name: weight.requires_grad for name, weight in model.named_parameters()}
    own = [set(vars(part)) for part in (model, model.model, model.model.model)]
    plain = generate(library, model)
    with guard(model, HELD_BACK):
        generate(library, model)
        assert not any(weight.requires_grad for weight in model.parameters())
    with pytest.raises(ZeroDivisionError), guard(model, HELD_BACK):
        generate(library, model, callback=lambda state: 1 / 0)
    assert {name: weight.requires_grad for name, weight in model.named_parameters()} == before
    assert [set(vars(part)) for part in (model, model.model, model.model.model)] == own
    assert not model.model.model._forward_pre_hooks
    assert torch.equal(generate(library, model), plain)


# ------------------------------------------------------------------------------------ threads


def in_a_thread(call):
    """What a call in another thread gives, or the error that it raises."""
    outcome = []

    def work():
        try:
            outcome.append(call())
        except GuardError as error:
            outcome.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return outcome[0]


def test_a_thread_that_the_guard_does_not_reach_is_refused(library, model):
    with guard(model, HELD_BACK) as trace:
        generate(library, model)
        refused = in_a_thread(lambda: generate(library, model))
    assert "guarded by another thread" in str(refused)
    assert len(trace.runs) == 1


def test_a_plain_model_of_another_thread_is_left_alone(library, model):
    other = shared(model)
    plain = generate(library, other)
    with guard(model, HELD_BACK):
        generate(library, model)
        assert torch.equal(in_a_thread(lambda: generate(library, other)), plain)


def test_a_guard_in_another_thread_on_the_same_network_is_refused(library, model):
    other = shared(model)

    def guarded():
        with guard(other, ClassifierFree()):
            generate(library, other)

    with guard(model, HELD_BACK):
        generate(library, model)
        refused = in_a_thread(guarded)
    assert "guarded already, in another thread" in str(refused)


def test_asyncio_carries_the_guard_into_its_threads(library, model):
    plain = generate(library, model, cfg_scale=7.0)

    async def run():
        with guard(model, ClassifierFree(7.0)) as trace:
            made = await asyncio.to_thread(generate, library, model)
        return made, len(trace.records)

    made, evaluations = asyncio.run(run())
    assert torch.equal(made, plain)
    assert evaluations == 3


def test_a_thread_that_outlives_the_block_generates_no_further(library, model):
    reached, until, outcome = threading.Event(), threading.Event(), []

    def wait(state):
        reached.set()
        until.wait(20)

    async def run():
        with guard(model, HELD_BACK):
            task = asyncio.create_task(asyncio.to_thread(generate, library, model, callback=wait))
            await asyncio.to_thread(reached.wait, 20)
            outcome.append(task)

    async def whole():
        with pytest.raises(GuardError, match="still running"):
            await run()
        until.set()
        with pytest.raises(GuardError, match="still running"):
            await outcome[0]

    asyncio.run(whole())


# ------------------------------------------------------------------------------------ objects


@pytest.mark.parametrize("given", [None, "demo", 7, torch.nn.Linear(2, 2), object])
def test_what_cannot_be_guarded_is_told_what_can(given):
    with pytest.raises(UnsupportedPipeline, match=r"StableAudioPipeline.*stable-audio-tools, got"):
        guard(given, ClassifierFree()).__enter__()
