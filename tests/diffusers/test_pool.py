"""Pipelines that share their weights: in threads they make what they make one after another."""

from __future__ import annotations

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from itertools import cycle, islice
from pathlib import Path
from threading import Barrier, Event, Timer

import diffusers
import pytest
import torch
from anechoic_lab.guidance import EmbeddingNoise
from support.pipelines import CAPTIONS, CASES, make
from support.pool import Pool

from anechoic import PipelinePool, guard
from anechoic.errors import BadSetting, GuardError, NoPipelineFree, UnsupportedPipeline
from anechoic.guidance import AntiMemorization, ClassifierFree, TransitionPoint

ROOT = Path(__file__).parents[2]
SD = CASES["StableDiffusionPipeline"]
HELD_BACK = TransitionPoint(7.0, before=-3.0, at=0.5)
OPEN = {"lambda_min": -1.0, "lambda_max": -1.0}  # a gate that is always open
GUIDANCES = {
    "plain": lambda images: None,
    "scale": lambda images: ClassifierFree(3.0),
    "held back": lambda images: HELD_BACK,
    "prompt changed": lambda images: EmbeddingNoise(3.0, std=0.3),
    "gradient": lambda images: AntiMemorization(
        Pool(images), Pool(images), 3.0, 1.0, 1.0, 5.0, **OPEN
    ),
}


def jobs(count, images):
    """Prompt, seed and guidance of each generation; threads share the guidances."""
    guidances = [make(images) for make in GUIDANCES.values()]
    prompts = zip(cycle(CAPTIONS), range(count), cycle(guidances), strict=False)
    return list(islice(prompts, count))


def made_by(case, pipe, prompt, seed, guidance):
    if guidance is None:
        return case.generate(pipe, prompt, steps=2, seed=seed)
    with guard(pipe, guidance) as trace:
        made = case.generate(pipe, prompt, steps=2, seed=seed)
    assert [len(run) for run in trace.runs] == [2]
    return made


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("StableAudioPipeline", 40),
        pytest.param("StableAudioPipeline", 200, marks=pytest.mark.slow),
        ("LongCatAudioDiTPipeline", 10),
        ("AceStepPipeline", 10),
    ],
)
def test_eight_threads_make_what_one_makes(name, count):
    case, pipe = CASES[name], make(name)
    for part in (pipe.transformer, pipe.vae):
        part.requires_grad_(True)
    todo = jobs(count, case.images)
    with PipelinePool(pipe, 6) as pool:

        def one(job):
            with pool.pipeline() as own:
                return made_by(case, own, *job)

        expected = [one(job) for job in todo]
        with ThreadPoolExecutor(8) as threads:
            made = list(threads.map(one, todo))
        assert all(map(torch.equal, made, expected))
        assert torch.equal(made_by(case, pipe, *todo[1]), expected[1])
    assert not pipe.transformer._forward_pre_hooks
    assert not any("forward" in vars(module) for module in pipe.vae.modules())
    for part in (pipe.transformer, pipe.vae):
        assert all(weight.requires_grad for weight in part.parameters())


def test_what_fails_in_one_thread_leaves_the_others_whole():
    pipe = make(SD.name)
    with guard(pipe, HELD_BACK):
        expected = SD.generate(pipe, "a dog barks")
    together = Barrier(2)

    def meet(pipe, index, t, inputs):
        if index == 0:
            together.wait(20)
        return {}

    def fail(pipe, index, t, inputs):
        meet(pipe, index, t, inputs)
        raise RuntimeError("out of memory")

    def one(guidance, callback):
        with pool.pipeline() as own, guard(own, guidance):
            return SD.generate(own, "a dog barks", callback_on_step_end=callback)

    pool = PipelinePool(pipe, 3)
    with ThreadPoolExecutor(3) as threads:
        whole = threads.submit(one, HELD_BACK, meet)
        broken = threads.submit(one, ClassifierFree(), fail)
        refused = threads.submit(one, lambda step: step.cond * torch.nan, None)
        assert torch.equal(whole.result(), expected)
        with pytest.raises(RuntimeError, match="out of memory"):
            broken.result()
        with pytest.raises(GuardError, match="NaN or infinity"):
            refused.result()
    with guard(pipe, HELD_BACK):
        assert torch.equal(SD.generate(pipe, "a dog barks"), expected)
    with PipelinePool(pipe, 1).pipeline() as own, guard(own, HELD_BACK):
        assert torch.equal(SD.generate(own, "a dog barks"), expected)


class TestCheckout:
    def test_pipelines_share_weights_and_nothing_that_counts(self):
        pipe = make(SD.name)
        pool = PipelinePool(pipe, 2)
        with pool.pipeline() as one, pool.pipeline() as other:
            assert one.unet is other.unet is pipe.unet
            for name in ("scheduler", "tokenizer"):
                parts = [getattr(each, name) for each in (pipe, one, other)]
                assert len(set(map(id, parts))) == 3
        with pool.pipeline() as again:
            assert again.scheduler is not one.scheduler

    def test_what_a_call_sets_on_its_pipeline_ends_with_it(self):
        pipe = make(SD.name)
        plain = SD.generate(pipe)
        pool = PipelinePool(pipe, 1)
        with pool.pipeline() as own:
            own.scheduler = diffusers.EulerDiscreteScheduler.from_config(own.scheduler.config)
            own.set_progress_bar_config(disable=False)
            assert not torch.equal(SD.generate(own), plain)
        with pool.pipeline() as own:
            assert torch.equal(SD.generate(own), plain)

    def test_where_all_are_taken_a_thread_waits_for_one(self):
        pool, free = PipelinePool(make(SD.name), 1), Event()

        def hold():
            with pool.pipeline():
                taken.set()
                free.wait(20)

        taken = Event()
        with ThreadPoolExecutor(1) as threads:
            threads.submit(hold)
            taken.wait(20)
            with pytest.raises(NoPipelineFree, match="were taken for"), pool.pipeline(0.01):
                pass
            Timer(0.05, free.set).start()
            with pool.pipeline(timeout=20):
                pass

    def test_a_thread_is_not_left_to_wait_for_itself(self):
        pool = PipelinePool(make(SD.name), 1)
        with (
            pool.pipeline(),
            pytest.raises(NoPipelineFree, match="would wait for itself"),
            pool.pipeline(),
        ):
            pass
        with pool.pipeline():
            pass

    def test_an_event_loop_is_not_stopped(self):
        pool = PipelinePool(make(SD.name), 1)
        taken, free = Event(), Event()

        def hold():
            with pool.pipeline():
                taken.set()
                free.wait(20)

        async def serve():
            held = asyncio.create_task(asyncio.to_thread(hold))
            await asyncio.to_thread(taken.wait, 20)
            try:
                with pytest.raises(NoPipelineFree, match="stop the event loop"), pool.pipeline():
                    pass
            finally:
                free.set()
            await held
            with pool.pipeline():
                pass

        asyncio.run(serve())

    def test_a_closed_pool_gives_none_and_refuses_who_waits(self):
        pool, waits = PipelinePool(make(SD.name), 1), []
        with pool.pipeline() as own, ThreadPoolExecutor(1) as threads:

            def wait():
                with pool.pipeline():
                    pass

            waits.append(threads.submit(wait))
            pool.close()
            with pytest.raises(NoPipelineFree, match="is closed"):
                waits[0].result(20)
            with guard(own, ClassifierFree()):  # who has one keeps it
                SD.generate(own)
        with pytest.raises(NoPipelineFree, match="is closed"), pool.pipeline():
            pass


class TestRefusal:
    def test_of_no_pipelines(self):
        with pytest.raises(BadSetting, match="1 pipeline or more, got 0"):
            PipelinePool(make(SD.name), 0)

    def test_of_what_cannot_be_guarded(self):
        with pytest.raises(UnsupportedPipeline, match="got object"):
            PipelinePool(object(), 2)

    def test_of_a_pipeline_that_is_guarded(self):
        pipe = make(SD.name)
        with guard(pipe, ClassifierFree()):
            with pytest.raises(GuardError, match="make the pool before"):
                PipelinePool(pipe, 2)
            SD.generate(pipe)

    def test_of_parts_that_move_except_one_after_another(self):
        pipe = make(SD.name)
        plain = SD.generate(pipe)
        pipe.enable_model_cpu_offload(device="cpu")
        with pytest.raises(UnsupportedPipeline, match="moved or cast while they run"):
            PipelinePool(pipe, 2)
        pool = PipelinePool(pipe, 1)
        for _ in range(2):
            with pool.pipeline() as own, guard(own, ClassifierFree()):
                assert torch.equal(SD.generate(own), plain)

    def test_of_a_decoder_that_is_cast_at_each_call(self):
        pipe = make("StableDiffusionXLPipeline").to(torch.float16)
        with pytest.raises(UnsupportedPipeline, match="cast to float32 and back"):
            PipelinePool(pipe, 2)
        PipelinePool(pipe, 1)


def test_a_pipeline_that_is_not_of_the_pool_is_guarded_beside_it():
    pipe = make(SD.name)
    with guard(pipe, HELD_BACK):
        expected = SD.generate(pipe)
    with PipelinePool(pipe, 1) as pool:

        def beside(_, index, t, inputs):
            with ThreadPoolExecutor(1) as threads:
                assert torch.equal(threads.submit(made_by, SD, pipe, *job).result(), second)
            return {}

        job = ("a dog barks", 3, ClassifierFree(2.0))
        second = made_by(SD, pipe, *job)
        with pool.pipeline() as own, guard(own, HELD_BACK):
            assert torch.equal(SD.generate(own, callback_on_step_end=beside), expected)
        with pool.pipeline() as own, guard(own, HELD_BACK):
            SD.generate(own)
            with pytest.raises(GuardError, match="outside its pipeline's own loop"):
                SD.generate(pipe)  # in the same thread


@pytest.mark.slow
@pytest.mark.parametrize("how", ["in place", "wrapped"])
def test_a_compiled_network_serves_threads_once_it_was_called(how):
    case, pipe = CASES["StableDiffusion3Pipeline"], make("StableDiffusion3Pipeline")
    torch._dynamo.reset()
    if how == "in place":
        pipe.transformer.compile(backend="eager")
    else:
        pipe.transformer = torch.compile(pipe.transformer, backend="eager")
    guidances = [None, ClassifierFree(3.0), HELD_BACK]
    todo = [("a dog barks", seed, guidances[seed % 3]) for seed in range(12)]
    expected = [made_by(case, pipe, *job) for job in todo]
    pool = PipelinePool(pipe, 4)

    def one(job):
        with pool.pipeline() as own:
            return made_by(case, own, *job)

    with ThreadPoolExecutor(4) as threads:
        assert all(map(torch.equal, threads.map(one, todo), expected))
    assert torch.equal(made_by(case, pipe, *todo[0]), expected[0])


def test_the_example_of_the_page_on_servers_makes_what_one_thread_makes():
    page = (ROOT / "docs/how-to/deploy.md").read_text()
    example = re.findall(r"```python\n(.*?)```", page[page.index("## Threads") :], re.S)[0]
    pipe, prompts = make_short(), CAPTIONS
    expected = []
    for seed, prompt in enumerate(prompts):
        with guard(pipe, HELD_BACK):
            expected.append(pipe(prompt, generator=torch.Generator().manual_seed(seed)).audios[0])
    names = {"pipe": pipe, "guidance": HELD_BACK, "prompts": prompts}
    exec(example, names)
    assert all(map(torch.equal, names["sounds"], expected))


def make_short():
    """A pipeline of sound that takes two steps."""
    pipe = make("StableAudioPipeline")

    class Short(type(pipe)):
        @wraps(type(pipe).__call__)
        def __call__(self, prompt, **call):
            return super().__call__(prompt, num_inference_steps=2, audio_end_in_s=4.0, **call)

    pipe.__class__ = Short
    return pipe
