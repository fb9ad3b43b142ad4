"""Generations of stable-audio-tools that start from sound, or keep a part of it, under a guard."""

from __future__ import annotations

import contextlib
import io
from functools import cache
from typing import Any

import pytest
import torch
from support.methods import method
from support.native import CAPTIONS, INSTALLED, LIBRARIES, MISSING, make_installed, rows
from torch import Tensor

from anechoic import guard
from anechoic.guidance import ClassifierFree

pytestmark = [pytest.mark.engines, pytest.mark.skipif(not INSTALLED, reason=MISSING)]

LIBRARY = LIBRARIES["installed"]
OBJECTIVES = ("v", "rectified_flow")
SOUND = (LIBRARY.rate, torch.randn(2, 1024, generator=torch.Generator().manual_seed(1)))
SOME_METHODS = ("cads", "during", "optimize", "volume", "substitution")  # of each reach


def variation(model: Any, sampler: str, scale: float = 5.0) -> Tensor:
    sound: Tensor = LIBRARY.generate(
        model, sampler=sampler, cfg_scale=scale, sample_size=1024, init_audio=SOUND,
        init_noise_level=0.7 if model.diffusion_objective != "v" else 20.0,
    )  # fmt: skip
    return sound


@cache
def plain_model(objective: str) -> Any:
    return make_installed(objective)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_variation_of_a_sound_is_the_librarys_own_with_every_sampler(objective: str) -> None:
    model = plain_model(objective)
    for sampler in LIBRARY.samplers(objective):
        if sampler == "k-dpm-adaptive":  # minutes; it has no code of its own for this
            continue
        plain = variation(model, sampler)
        with guard(model, ClassifierFree(5.0)) as trace:
            assert torch.equal(variation(model, sampler, 2.0), plain), sampler
        assert trace.records[0].progress == 0.0


@cache
def inpainting_model(objective: str) -> Any:
    return make_installed(objective, inpaints=True)


def inpainted(model: Any, scale: float = 5.0) -> Tensor:
    from stable_audio_tools.inference.generation import generate_diffusion_cond_inpaint

    mask = torch.ones(2, 1024)
    mask[:, 256:768] = 0  # what is made anew
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        sound: Tensor = generate_diffusion_cond_inpaint(
            model, steps=4, cfg_scale=scale, conditioning=rows(CAPTIONS), batch_size=2,
            sample_size=1024, seed=3, device="cpu", inpaint_audio=SOUND, inpaint_mask=mask,
            sampler_type="v-ddim" if model.diffusion_objective == "v" else "euler",
        )  # fmt: skip
    return sound


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_inpainting_is_the_librarys_own_and_methods_act_on_it(objective: str) -> None:
    model = inpainting_model(objective)
    plain = inpainted(model)
    with guard(model, ClassifierFree(5.0)) as trace:
        assert torch.equal(inpainted(model, 2.0), plain)
    assert [round(record.progress, 2) for record in trace.records] == [0.0, 0.25, 0.5, 0.75]
    for name in SOME_METHODS:
        with guard(model, method(name, images=False)):
            made = inpainted(model, 2.0)
        assert torch.isfinite(made).all()
        assert not torch.equal(made, plain), name


@pytest.mark.parametrize("name", SOME_METHODS)
def test_methods_act_on_a_variation(name: str) -> None:
    model = plain_model("v")
    plain = variation(model, "v-ddim", 7.0)
    with guard(model, method(name, images=False)):
        made = variation(model, "v-ddim", 2.0)
    assert torch.isfinite(made).all()
    assert not torch.equal(made, plain)
