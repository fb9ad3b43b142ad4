"""A guard in one thread beside calls in others: it reaches its own, and leaves the rest alone."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import diffusers
import pytest
import torch
from support.pipelines import CASES, make

from anechoic import guard
from anechoic.diffusers.generate import generate
from anechoic.errors import GuardError
from anechoic.guidance import ClassifierFree, TransitionPoint

SD = CASES["StableDiffusionPipeline"]
HELD_BACK = TransitionPoint(7.0, before=-3.0, at=0.5)
ELSEWHERE = "guarded by another thread or task than the one that calls it"


def beside(pipe):
    """Another pipeline on the same parts, with a scheduler of its own."""
    parts = {
        **pipe.components,
        "scheduler": type(pipe.scheduler).from_config(pipe.scheduler.config),
    }
    other = type(pipe)(**parts)
    other.set_progress_bar_config(disable=True)
    return other


def elsewhere(function, *args):
    """Call a function in a thread that no guard of this one reaches."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(function, *args).result()


def halfway(do):
    """A callback that does something after the second step."""

    def callback(pipe, index, t, inputs):
        if index == 1:
            do()
        return {}

    return {"callback_on_step_end": callback, "steps": 4}


def test_a_call_from_a_thread_that_the_guard_does_not_reach_is_refused_and_changes_nothing():
    pipe = make(SD.name)
    with guard(pipe, HELD_BACK):
        expected = SD.generate(pipe, steps=4)

    def call():
        with pytest.raises(GuardError, match=ELSEWHERE):
            elsewhere(SD.generate, pipe)

    with guard(pipe, HELD_BACK) as trace:
        assert torch.equal(SD.generate(pipe, **halfway(call)), expected)
        call()
    assert [len(run) for run in trace.runs] == [4]


def test_a_plain_call_that_was_there_first_is_whole_and_the_guarded_one_is_refused():
    pipe = make(SD.name)
    expected = SD.generate(pipe, steps=4)
    opened, seen, refused = threading.Event(), threading.Event(), []

    def guarded():
        with guard(pipe, HELD_BACK):
            opened.set()
            seen.wait(20)
            SD.generate(pipe)

    def beside(pipe, index, t, inputs):
        if index == 1:
            refused.append(threads.submit(guarded))
            opened.wait(20)
        elif index == 2:  # it has evaluated the network meanwhile
            seen.set()
            with pytest.raises(GuardError, match="in the middle of a call"):
                refused[0].result(20)
        return {}

    with ThreadPoolExecutor(1) as threads:
        made = SD.generate(pipe, steps=4, callback_on_step_end=beside)
    assert torch.equal(made, expected)


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "EulerDiscreteScheduler"])
def test_a_plain_call_that_a_guarded_one_breaks_into_is_refused_and_the_guarded_one_whole(
    scheduler,
):
    pipe = make(SD.name)
    pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
    with guard(pipe, HELD_BACK):
        expected = SD.generate(pipe)
    made, begun, refused = [], threading.Event(), threading.Event()

    def wait(pipe, index, t, inputs):
        if index == 0:
            begun.set()
            assert refused.wait(20)
        return {}

    def guarded():
        with guard(pipe, HELD_BACK):
            made.append(SD.generate(pipe, callback_on_step_end=wait))

    def break_in():
        threads.submit(guarded)
        begun.wait(20)

    with ThreadPoolExecutor(1) as threads:
        with pytest.raises(GuardError, match="began in the middle of this one"):
            SD.generate(pipe, **halfway(break_in))
        refused.set()
    assert torch.equal(made[0], expected)


@pytest.mark.parametrize("name", ["StableDiffusionPipeline", "StableAudioPipeline"])
def test_a_plain_call_of_another_pipeline_on_the_network_in_another_thread_is_untouched(name):
    case, pipe = CASES[name], make(name)
    other, plain = beside(pipe), case.generate(pipe, "a dog barks", steps=2)
    with guard(pipe, HELD_BACK):
        expected = case.generate(pipe, steps=2)
        made = elsewhere(case.generate, other, "a dog barks", 7.0, 2)
        assert torch.equal(case.generate(pipe, steps=2), expected)
    assert torch.equal(made, plain)


def test_guards_of_two_pipelines_on_one_network_act_on_their_own_halfway_through_each_other():
    pipe = make(SD.name)
    other = beside(pipe)
    with guard(pipe, HELD_BACK):
        first = SD.generate(pipe, steps=4)
    with guard(pipe, ClassifierFree(2.0)):
        second = SD.generate(pipe)
    made = []

    def between():
        with guard(other, ClassifierFree(2.0)):
            made.append(SD.generate(other))

    with guard(pipe, HELD_BACK):
        assert torch.equal(SD.generate(pipe, **halfway(lambda: elsewhere(between))), first)
    assert torch.equal(made[0], second)
    assert not pipe.unet._forward_pre_hooks


def test_a_second_guard_of_the_pipeline_in_another_thread_is_refused():
    pipe = make(SD.name)

    def second():
        with pytest.raises(GuardError, match="in another thread or task"), guard(pipe, HELD_BACK):
            pass

    with guard(pipe, ClassifierFree()):
        elsewhere(second)
        SD.generate(pipe)


def test_a_scheduler_of_two_pipelines_is_refused_while_one_is_guarded():
    pipe = make(SD.name)
    other = beside(pipe)
    other.scheduler = pipe.scheduler

    def guarded():
        with pytest.raises(GuardError, match="that of another guarded"), guard(other, HELD_BACK):
            SD.generate(other)

    with guard(pipe, ClassifierFree()):
        SD.generate(pipe, **halfway(lambda: elsewhere(guarded)))
    with (
        pytest.raises(GuardError, match="other timesteps in the middle"),
        guard(pipe, ClassifierFree()),
    ):
        SD.generate(pipe, **halfway(lambda: elsewhere(SD.generate, other)))


def test_rows_of_other_threads_are_not_counted_as_passes():
    pipe = make(SD.name)
    other = beside(pipe)
    call = {**SD.arguments, "num_inference_steps": 2, "output_type": "latent"}
    plain = generate(pipe, "a dog barks", 1, call)
    done = threading.Event()

    def meanwhile(pipe, index, t, inputs):
        if not done.is_set():
            done.set()
            elsewhere(SD.generate, other)
        return {}

    made = generate(pipe, "a dog barks", 1, {**call, "callback_on_step_end": meanwhile})
    assert made.passes == plain.passes == 4


class TestAsyncio:
    def test_an_executor_does_not_take_the_guard_along_and_is_refused(self):
        pipe = make(SD.name)

        async def serve():
            with guard(pipe, ClassifierFree()):
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(None, SD.generate, pipe)

        with pytest.raises(GuardError, match=ELSEWHERE):
            asyncio.run(serve())

    def test_to_thread_takes_the_guard_along(self):
        pipe = make(SD.name)
        with guard(pipe, HELD_BACK):
            expected = SD.generate(pipe)

        async def serve():
            with guard(pipe, HELD_BACK) as trace:
                made = await asyncio.to_thread(SD.generate, pipe)
            return made, trace

        made, trace = asyncio.run(serve())
        assert torch.equal(made, expected)
        assert [len(run) for run in trace.runs] == [3]

    def test_tasks_guard_pipelines_of_one_network_side_by_side(self):
        pipes = [make(SD.name)]
        pipes.append(beside(pipes[0]))
        guides = [HELD_BACK, ClassifierFree(2.0)]

        async def one(pipe, guidance):
            with guard(pipe, guidance):
                await asyncio.sleep(0)
                return await asyncio.to_thread(SD.generate, pipe)

        async def both():
            return await asyncio.gather(*map(one, pipes, guides))

        made = asyncio.run(both())
        for pipe, guidance, samples in zip(pipes, guides, made, strict=True):
            with guard(pipe, guidance):
                assert torch.equal(SD.generate(pipe), samples)
