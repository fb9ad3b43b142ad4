"""The bridge to modular diffusers is the same computation as the guard's and as diffusers'."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from anechoic_lab.guidance import EmbeddingNoise
from support.pipelines import CASES, make
from support.pool import Pool

from anechoic import guard
from anechoic.errors import BadSetting, GuardError, UnsupportedPipeline
from anechoic.guidance import (
    AntiMemorization,
    ClassifierFree,
    DynamicTransition,
    Interval,
    Progress,
    Sequence,
    TransitionPoint,
)

NAME = "StableDiffusionXLPipeline"
METHODS = [
    TransitionPoint(7.0, before=-2.0, at=0.5),
    DynamicTransition(7.0, before=0.0, fall=0.9),
    Interval(7.0, Progress(0.3), Progress(0.8)),
    Sequence(TransitionPoint(7.0, at=1.0), ClassifierFree(5.0), at=0.5),
    lambda step: step.uncond + 3.0 * (step.cond - step.uncond),
]


@cache
def modular():
    """The modular pipeline of the parts of the stock one."""
    from diffusers import StableDiffusionXLAutoBlocks

    stock = make(NAME)
    pipe = StableDiffusionXLAutoBlocks().init_pipeline()
    names = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet")
    pipe.update_components(**{name: getattr(stock, name) for name in names},
                           scheduler=stock.scheduler)  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe, stock


def generate(guider, steps=4):
    pipe, _ = modular()
    pipe.update_components(guider=guider)
    return pipe(
        prompt="a dog barks", num_inference_steps=steps, output_type="latent", output="images",
        height=16, width=16, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip


def guided(method, steps=4):
    _, stock = modular()
    with guard(stock, method) as trace:
        return CASES[NAME].generate(stock, "a dog barks", steps=steps), trace


def guider_of(method):
    from anechoic.diffusers.guider import Guider

    return Guider(method, modular()[1].scheduler)


@pytest.mark.parametrize("scale", [7.0, 3.0])
def test_plain_guidance_is_diffusers_own_guider_bit_for_bit(scale):
    from diffusers.guiders import ClassifierFreeGuidance

    theirs = generate(ClassifierFreeGuidance(guidance_scale=scale))
    assert torch.equal(generate(guider_of(ClassifierFree(scale))), theirs)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: getattr(m, "__name__", type(m).__name__))
def test_a_method_is_the_computation_of_the_guard(method):
    """The modular pipeline evaluates the halves one after the other: equal but for rounding."""
    guider = guider_of(method)
    made, (expected, trace) = generate(guider), guided(method)
    torch.testing.assert_close(made, expected, rtol=1e-3, atol=1e-3)
    for a, b in zip(guider.trace.records, trace.records, strict=True):
        assert (a.progress, a.noise) == (b.progress, b.noise)
        torch.testing.assert_close(a.scale, b.scale, equal_nan=True)
        if b.passes == 2:  # a half that is not looked at is spared by the guard alone
            torch.testing.assert_close(a.distance, b.distance, rtol=1e-3, atol=1e-3)
    again = generate(guider)  # a second run starts anew
    assert torch.equal(again, made)
    assert len(guider.trace.runs) == 2


def test_what_needs_more_than_predictions_is_refused():
    with pytest.raises(BadSetting, match="changes the prompt"):
        guider_of(EmbeddingNoise())
    store = Pool(images=True)
    with pytest.raises(GuardError, match="wants to decode the estimate"):
        generate(guider_of(AntiMemorization(store, store)))
    with pytest.raises(GuardError, match="wants to evaluate the network again"):
        generate(guider_of(lambda step: step.denoise(step.x, "cond")))
    with pytest.raises(GuardError, match="NaN or infinity"):
        generate(guider_of(lambda step: step.cond * float("nan")))


def test_an_unknown_scheduler_is_refused():
    from diffusers import KDPM2DiscreteScheduler

    from anechoic.diffusers.guider import Guider

    with pytest.raises(UnsupportedPipeline, match="KDPM2DiscreteScheduler"):
        Guider(ClassifierFree(), KDPM2DiscreteScheduler())
