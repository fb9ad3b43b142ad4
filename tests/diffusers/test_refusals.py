"""What a guard cannot honour is refused in a sentence; what a distilled model can have works."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from anechoic_lab.guidance import PromptOptimization
from support.pipelines import CASES, alive, make, make_ace_step, make_stable_audio_3
from support.pool import Pool

from anechoic import guard
from anechoic.diffusers.pipelines import adapter_for
from anechoic.errors import GuardError, UnsupportedPipeline
from anechoic.guidance import AntiMemorization, ClassifierFree
from anechoic.guidance.base import Guidance
from anechoic.guidance.step import Guided

pipe_of = cache(make)


def dissimilarity(case, **settings):
    store = Pool(case.images)
    open_gate = {"c1": 0.0, "c2": 0.0, "c3": 5.0, "lambda_min": -1.0, "lambda_max": -1.0}
    return AntiMemorization(store, store, **{**open_gate, **settings})


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("StableDiffusionPipeline", {"guidance_rescale": 0.7}, "guidance_rescale is 0.7"),
        ("StableDiffusionXLPipeline", {"guidance_rescale": 0.5}, "guidance_rescale is 0.5"),
        ("AceStepPipeline", {"cfg_interval_start": 0.5}, "guard it with Interval"),
    ],
)
def test_guidance_of_the_pipelines_own_that_a_guard_would_undo(name, arguments, says):
    case, pipe = CASES[name], pipe_of(name)
    with pytest.raises(GuardError, match=says), guard(pipe, ClassifierFree()) as trace:
        case.generate(pipe, **arguments)
    assert trace.runs == []


def test_skip_layer_guidance():
    name = "StableDiffusion3Pipeline"
    with (
        pytest.raises(GuardError, match="without it"),
        guard(pipe_of(name), ClassifierFree()),
    ):
        CASES[name].generate(pipe_of(name), steps=10, skip_guidance_layers=[1])


def test_a_tensor_that_the_table_does_not_know():
    """As an IP-Adapter or a ControlNet would add it: what belongs to which half is not known."""
    name = "StableDiffusionPipeline"
    pipe = make(name)

    def add(network, args, kwargs):
        return args, {**kwargs, "down_block_additional_residuals": (torch.zeros(4, 1),)}

    pipe.unet.register_forward_pre_hook(add, with_kwargs=True)
    with (
        pytest.raises(GuardError, match="given down_block_additional_residuals"),
        guard(pipe, ClassifierFree()),
    ):
        CASES[name].generate(pipe)


def test_a_language_model_that_cannot_generate():
    pipe = make("AudioLDM2Pipeline")
    pipe.language_model = pipe.language_model.transformer  # a bare GPT2Model
    with pytest.raises(GuardError, match="bare GPT2Model"), guard(pipe, ClassifierFree()):
        CASES["AudioLDM2Pipeline"].generate(pipe)


def test_musicldm_is_refused_with_its_reason_because_it_is_broken_upstream():
    from diffusers import MusicLDMPipeline
    from support.pipelines import make_audioldm2

    parts = make_audioldm2().components
    names = ("vae", "text_encoder", "tokenizer", "feature_extractor", "scheduler", "vocoder")
    pipe = MusicLDMPipeline(unet=pipe_of("StableDiffusionPipeline").unet,
                            **{name: parts[name] for name in names})  # fmt: skip
    with pytest.raises(UnsupportedPipeline, match="transformers 5"):
        adapter_for(pipe)
    with pytest.raises(AttributeError):  # should this no longer raise, an adapter can be written
        pipe("a dog barks", num_inference_steps=1, audio_length_in_s=0.004)


# ---------------------------------------------------------------------------- without halves


@pytest.mark.parametrize("name", CASES)
def test_at_scale_one_the_dissimilarity_alone_acts_and_is_nothing_behind_a_shut_gate(name):
    case, pipe = CASES[name], pipe_of(name)
    plain = case.generate(pipe, scale=1.0, steps=2)
    with guard(pipe, dissimilarity(case, lambda_min=0.9999, lambda_max=0.9999)) as trace:
        assert torch.equal(case.generate(pipe, scale=1.0, steps=2), plain)
    assert {record.passes for record in trace.records} == {1.0}
    assert bool((trace.column("scale") == 1).all())
    assert bool(trace.column("distance").isnan().all())
    with guard(pipe, dissimilarity(case)) as trace:
        moved = case.generate(pipe, scale=1.0, steps=2)
    assert bool(trace.column("gate").all())
    assert torch.isfinite(moved).all()
    assert not torch.equal(moved, plain)


def test_dissimilarity_lowers_the_similarity_of_a_distilled_model():
    case = CASES["StableAudio3Pipeline"]
    pipe = alive(make_stable_audio_3(stochastic=True))
    store = Pool()

    def similarity(latents):
        with torch.no_grad():
            wav = pipe.vae.decode(latents).sample[:, :, :32]
        return store.search(store(wav, 16), 1).scores.mean()

    arguments = {"scale": 1.0, "steps": 8}
    plain = similarity(case.generate(pipe, **arguments))
    for gradient in ("denoiser", "x0"):
        with guard(pipe, dissimilarity(case, c3=2.0, gradient=gradient)):
            assert similarity(case.generate(pipe, **arguments)) < plain


@pytest.mark.parametrize(
    ("make_pipe", "name", "scale"),
    [
        (lambda: make_stable_audio_3(stochastic=True), "StableAudio3Pipeline", 1.0),
        (lambda: make_ace_step(is_turbo=True), "AceStepPipeline", 7.0),
        (CASES["StableAudioPipeline"].make, "StableAudioPipeline", 1.0),
    ],
)
def test_a_method_that_needs_both_halves_is_refused_before_the_network_runs(make_pipe, name, scale):
    pipe, calls = alive(make_pipe()), []
    pipe.transformer.register_forward_pre_hook(lambda *_: calls.append(1))
    for method in (ClassifierFree(), PromptOptimization(), lambda step: step.cond):
        with pytest.raises(GuardError, match="no unconditional half"), guard(pipe, method):
            CASES[name].generate(pipe, scale=scale)
    assert calls == []


def test_what_would_use_the_missing_half_all_the_same_does_not_pass():
    """A method that wrongly says that it can do without gets NaN, and NaN is refused."""

    class Wrong(Guidance):
        def requires_uncond(self):
            return False

        def __call__(self, step):
            return Guided(1.0, step.cond - step.uncond)

    name = "StableAudioPipeline"
    with pytest.raises(GuardError, match="guidance returned NaN"), guard(pipe_of(name), Wrong()):
        CASES[name].generate(pipe_of(name), scale=1.0)


def test_a_network_called_by_itself_is_no_generation():
    pipe = make("StableDiffusionPipeline")
    with pytest.raises(GuardError, match="outside its pipeline's"), guard(pipe, ClassifierFree()):
        pipe.unet(torch.zeros(2, 4, 8, 8), 1, encoder_hidden_states=torch.zeros(2, 16, 16))
