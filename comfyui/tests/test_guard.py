"""A model of ComfyUI under a guard: what stays as it is, what is done, and what is refused."""

from __future__ import annotations

import copy
from functools import cache
from types import SimpleNamespace

import comfyui_anechoic.call
import pytest
import torch
from comfyui_anechoic.call import ComfyModel
from comfyui_anechoic.guard import guarded
from support import comfy
from support.comfy import CLIP, VAE, Model, ModelPatcher, euler, heun, lazy, sample
from support.methods import METHODS, method
from support.pool import Pool

from anechoic.errors import BadSetting, GuardError, IndexMismatch, UnsupportedPipeline
from anechoic.guidance import (
    AntiMemorization,
    CaptionSubstitution,
    ClassifierFree,
    TransitionPoint,
)
from anechoic.guidance.base import as_guidance
from anechoic.guidance.step import Guided

CAPTIONS = ["low cello note", "a dog barks"]
OBJECTIVES = ("v", "rectified_flow")
REFUSED = {
    "optimize": "a gradient through the network",
    "perturb": "was given encoded prompts",
}
WAYS = [
    name for name in METHODS
    if name not in REFUSED and method(name, images=False).gradient_reach() != "network"
]  # fmt: skip


@pytest.fixture(autouse=True)
def library(monkeypatch):
    return comfy.install(monkeypatch)


@pytest.fixture(params=[False, True], ids=["no_grad", "inference_mode"])
def mode(request):
    """ComfyUI loads and samples in inference_mode."""
    with torch.inference_mode(request.param), torch.no_grad():
        yield request.param


@cache
def _parts(objective, inference):
    with torch.inference_mode(inference):
        return ModelPatcher(Model(objective)), CLIP(), VAE()


def parts(objective="v"):
    return _parts(objective, torch.is_inference_mode_enabled())


def noise(count=2):
    return torch.randn(count, 3, 32, generator=torch.Generator().manual_seed(5))


class Near(Pool):
    """A pool whose first clip is what a prompt leads to, and which has other captions."""

    captions = ("low cello note", "high flute note", "rain on the roof")

    def __init__(self, first):
        super().__init__()
        self.rows = torch.cat([first, self.rows])

    def __len__(self):
        return 3


def near():
    """Such a pool: of the first sample's first estimate."""
    model, clip, vae = parts()
    seen = []

    def watch(step):
        seen.append(Pool()(step.decode(step.cond), vae.audio_sample_rate))
        return Guided(5.0)

    sample(guarded(model, watching(watch), clip, vae), clip, CAPTIONS, noise())
    return Near(seen[0][:1])


def substitution():
    pool = near()
    settings = {"opens": 1 - 1e-6, "start": None, "watch": 50.0}
    return lambda scale: CaptionSubstitution(pool, pool, scale, **settings)


def amg(scale=7.0, **settings):
    strengths = {"c1": 1.0, "c2": 1.0, "c3": 5.0, "lambda_min": -1.0, "lambda_max": -1.0}
    return AntiMemorization(Pool(), Pool(), scale=scale, gradient="x0", **strengths | settings)


def watching(function):
    return lambda scale: as_guidance(function)


def at_scale(scale):
    return as_guidance(lambda step: Guided(scale))


# ------------------------------------------------------------------------- what stays as it is


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("sampler", [euler, heun])
def test_plain_guidance_is_comfyuis_own_bit_for_bit(mode, objective, sampler):
    model, clip, _ = parts(objective)
    for scale, guidance in ((5.0, ClassifierFree), (1.0, at_scale), (-2.0, at_scale)):
        plain = sample(model, clip, CAPTIONS, noise(), scale=scale, sampler=sampler)
        guard = guarded(model, guidance, None, None)
        made = sample(guard, clip, CAPTIONS, noise(), scale=scale, sampler=sampler)
        if scale == 1.0:  # without a guard, ComfyUI does not compute the unconditional half
            torch.testing.assert_close(made, plain, rtol=0, atol=1e-4)
        else:
            assert torch.equal(made, plain), scale
    assert "sampler_post_cfg_function" not in model.model_options


def test_what_other_nodes_add_stays_at_the_scale_of_the_guidance(mode):
    model, clip, _ = parts()

    def louder(args):
        return args["denoised"] * 1.1

    before = model.clone()
    before.set_model_sampler_post_cfg_function(louder)
    both = before.clone()
    both.set_model_sampler_post_cfg_function(louder)
    plain = sample(both, clip, CAPTIONS, noise(), scale=4.0)
    guard = guarded(before, ClassifierFree, None, None)
    after = guard.clone()  # as a node does that comes after the guard
    after.set_model_sampler_post_cfg_function(louder)
    assert torch.equal(sample(after, clip, CAPTIONS, noise(), scale=4.0), plain)


def test_a_node_that_evaluates_the_halves_otherwise_still_does(mode):
    model, clip, _ = parts()
    changed = model.clone()
    changed.set_model_sampler_calc_cond_batch_function(
        lambda args: [1.1 * half for half in comfy.calc_cond_batch(
            args["model"], args["conds"], args["input"], args["sigma"], args["model_options"])]
    )  # fmt: skip
    plain = sample(changed, clip, CAPTIONS, noise())
    guard = guarded(changed, ClassifierFree, None, None)
    assert torch.equal(sample(guard, clip, CAPTIONS, noise()), plain)


# --------------------------------------------------------------------------------- what it does


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", [*WAYS, "amg"])
def test_every_method_acts_and_guides_each_sample_by_itself(mode, name, objective):
    model, clip, vae = parts(objective)
    guidance = amg() if name == "amg" else method(name, images=False)
    guard = guarded(model, lambda scale: guidance, clip, vae)
    both = sample(guard, clip, CAPTIONS, noise())
    plain = sample(model, clip, CAPTIONS, noise())
    assert torch.equal(both, plain) == (name == "cfg")
    alone = [sample(guard, clip, [CAPTIONS[i]], noise()[i : i + 1]) for i in (0, 1)]
    torch.testing.assert_close(
        both, torch.cat(alone), rtol=1e-4, atol=2e-4 * float(both.abs().max())
    )


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_step_is_what_comfyui_computes(mode, objective):
    model, clip, vae = parts(objective)
    seen = {}

    def watch(step):
        if len(step.history) == 2 and not seen:
            one = torch.tensor([1])
            seen.update(
                x=step.x, noise=step.noise, progress=step.progress, cond=step.cond,
                own=[step.denoise(step.x, which) for which in ("cond", "uncond", CAPTIONS)],
                halves=[step.cond, step.uncond, step.cond],
                row=step.denoise(step.x[one], "cond", one),
                other=step.denoise(step.x[one], ["high flute note"], one),
                sound=step.decode(step.cond),
                inference=step.x.is_inference() or step.cond.is_inference(),
            )  # fmt: skip
        return Guided(5.0)

    sample(guarded(model, watching(watch), clip, vae), clip, CAPTIONS, noise())
    for own, half in zip(seen["own"], seen["halves"], strict=True):
        torch.testing.assert_close(own, half, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(seen["row"], seen["cond"][1:], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(seen["other"], seen["row"], atol=1e-3)
    assert not seen["inference"]
    assert seen["progress"] == pytest.approx(2 / 6)
    level = seen["noise"]
    expected = 1.0 if objective == "v" else level.alpha + level.sigma
    assert (level.alpha**2 + level.sigma**2 if objective == "v" else 1.0) == pytest.approx(expected)
    latents = seen["cond"] / model.model.latent_scale
    torch.testing.assert_close(seen["sound"], vae.first_stage_model.decode(latents))


def test_a_gradient_goes_through_the_codec_and_its_weights_stay(mode):
    model, clip, vae = parts()
    seen = []

    def watch(step):
        x0 = step.cond.detach().requires_grad_(True)
        with torch.enable_grad():
            energy = step.decode(x0).square().sum()
            (slope,) = torch.autograd.grad(energy, x0)
        way = slope * (0.01 / slope.norm())
        ends = [step.decode(step.cond + sign * way).double().square().sum() for sign in (1, -1)]
        seen.append((float((slope * way).sum()), float(ends[0] - ends[1]) / 2))
        return Guided(5.0)

    sample(guarded(model, watching(watch), clip, vae), clip, CAPTIONS, noise())
    assert len(seen) == 6
    for slope, difference in seen:
        assert slope == pytest.approx(difference, rel=1e-3)
    assert all(weight.is_inference() == mode for weight in vae.first_stage_model.parameters())


def test_the_sampler_s_cfg_is_the_scale_and_the_sampling_is_its_own(mode):
    model, clip, _ = parts()
    scales, lengths = [], []

    def make(scale):
        scales.append(scale)

        def watch(step):
            lengths.append(len(step.history))
            return Guided(scale)

        return as_guidance(watch)

    guard = guarded(model, make, None, None)
    sample(guard, clip, CAPTIONS, noise(), scale=3.5)
    sample(guard, clip, CAPTIONS, noise(), scale=4.5)
    assert scales[1:] == [3.5, 4.5]
    assert lengths == [*range(6), *range(6)]


def test_a_caption_is_encoded_once_a_sampling_and_the_network_comes_back(mode, library):
    model, clip, vae = parts()
    guard, made = guarded(model, substitution(), clip, vae), []
    library.model_management.loaded.clear()
    for _ in range(2):
        clip.encoded.clear()
        made.append(sample(guard, clip, CAPTIONS[:1], noise(1)))
        tried = [text for text in clip.encoded if text not in (CAPTIONS[0], "")]
        assert tried
        assert len(tried) == len({*tried})
    assert torch.equal(*made)
    torch.testing.assert_close(made[0], sample(model, clip, tried[-1:], noise(1)))
    loaded = library.model_management.loaded
    assert {id(group[0]) for group in loaded} == {id(guard)}
    assert any(vae.patcher in group for group in loaded)


def test_one_half_alone_can_be_guarded_by_what_needs_no_other(mode):
    model, clip, vae = parts()
    alone = guarded(model, lambda scale: amg(c1=0.0, c2=0.0), clip, vae)
    plain = sample(model, clip, CAPTIONS, noise(), negative=None, scale=1.0)
    made = sample(alone, clip, CAPTIONS, noise(), negative=None, scale=1.0)
    assert not torch.equal(made, plain)
    with pytest.raises(GuardError, match="connect a negative prompt to the sampler"):
        sample(
            guarded(model, lambda scale: TransitionPoint(scale), None, None), clip, CAPTIONS,
            noise(), negative=None,
        )  # fmt: skip


# ---------------------------------------------------------------------------- what is refused


def test_what_a_guidance_needs_is_asked_for_before_anything_is_sampled(mode):
    model, clip, vae = parts()
    with pytest.raises(BadSetting, match="compares sound; connect the VAE"):
        guarded(model, lambda scale: amg(), clip, None)
    with pytest.raises(BadSetting, match="write 'gradient=x0'"):
        guarded(model, lambda scale: AntiMemorization(Pool(), Pool()), clip, vae)
    old = type("Old", (), {"model": model.model})()
    with pytest.raises(UnsupportedPipeline, match="expected a ComfyUI of 2025 or newer"):
        guarded(old, ClassifierFree, None, None)
    strange = copy.copy(model.model)
    strange.model_sampling = object()
    with pytest.raises(UnsupportedPipeline, match="of another kind"):
        guarded(ModelPatcher(strange), ClassifierFree, None, None)


def test_a_guard_without_the_text_encoder_says_so(mode):
    model, clip, vae = parts()
    guard = guarded(model, substitution(), None, vae)
    with pytest.raises(GuardError, match="connect the CLIP to the guard"):
        sample(guard, clip, CAPTIONS, noise())


def test_the_index_of_another_model_is_refused(mode):
    model, clip, vae = parts()
    other = Pool()
    other.model = "0123456789abcdef"
    guard = guarded(model, lambda scale: AntiMemorization(other, other, gradient="x0"), clip, vae)
    with pytest.raises(IndexMismatch, match="holds the training clips of model"):
        sample(guard, clip, CAPTIONS, noise())


def test_a_lora_that_comfyui_wrote_into_the_weights_leaves_the_base_its_name():
    with torch.no_grad():
        model, clip, vae = ModelPatcher(Model()), CLIP(), VAE()
        own = Pool()
        own.model = ComfyModel(model.model).fingerprint()
        guard = guarded(
            model, lambda scale: AntiMemorization(own, own, gradient="x0", lambda_min=-1.0,
                                                  lambda_max=-1.0), clip, vae
        )  # fmt: skip
        sample(guard, clip, CAPTIONS, noise())
        name, weight = next(iter(model.model.diffusion_model.named_parameters()))
        model.backup[f"diffusion_model.{name}"] = SimpleNamespace(weight=weight.clone())
        weight.neg_()
        sample(guard, clip, CAPTIONS, noise())
        model.backup.clear()
        with pytest.raises(IndexMismatch, match="holds the training clips of model"):
            sample(guard, clip, CAPTIONS, noise())


def test_a_guidance_that_moves_the_latents_or_looks_into_the_network_is_refused(mode):
    model, clip, _ = parts()
    guard = guarded(model, watching(lambda step: Guided(5.0, x=step.x)), None, None)
    with pytest.raises(GuardError, match="samplers go on from their own"):
        sample(guard, clip, CAPTIONS, noise())

    def differentiate(step):
        with torch.enable_grad():
            step.denoise(step.x.detach().requires_grad_(True), "cond")

    with pytest.raises(GuardError, match="a gradient through the network"):
        sample(guarded(model, watching(differentiate), None, None), clip, CAPTIONS, noise())


@pytest.mark.parametrize("name", REFUSED)
def test_a_method_that_needs_words_or_the_network_s_gradient_is_refused(mode, name):
    model, clip, vae = parts()
    guard = guarded(model, lambda scale: method(name, images=False), clip, vae)
    with pytest.raises(GuardError, match=REFUSED[name]):
        sample(guard, clip, CAPTIONS, noise())


@pytest.mark.parametrize(
    ("held", "words"),
    [("attention_mask", "holds attention_mask"), ("pooled_output", "holds pooled_output")],
)
def test_a_prompt_that_is_held_twice_is_not_changed(mode, held, words, monkeypatch):
    model, clip, vae = parts()
    given = comfy.conditioning

    def more(clip, texts):
        return [{**cond, held: torch.ones(1, 5)} for cond in given(clip, texts)]

    monkeypatch.setattr(comfy, "conditioning", more)
    guard = guarded(model, lambda scale: method("auto", images=False), clip, vae)
    with pytest.raises(GuardError, match=words):
        sample(guard, clip, CAPTIONS, noise())
    plain = guarded(model, ClassifierFree, None, None)
    assert torch.isfinite(sample(plain, clip, CAPTIONS, noise())).all()


def test_a_sampling_that_is_not_guarded_throughout_raises(mode):
    model, clip, _ = parts()
    guard = guarded(model, ClassifierFree, None, None)
    for key, value in (
        ("sampler_post_cfg_function", []),
        ("sampler_post_cfg_function", [lambda args: args["denoised"]]),
        ("sampler_calc_cond_batch_function", None),
    ):
        stripped = guard.clone()
        stripped.model_options[key] = value
        with pytest.raises(GuardError, match="another node"):
            sample(stripped, clip, CAPTIONS, noise())
    with pytest.raises(GuardError, match="3 evaluations of a sampling of 6 steps were guarded"):
        sample(guard, clip, CAPTIONS, noise(), sampler=lazy)
    with pytest.raises(GuardError, match="DualGuider combines the halves by itself"):
        sample(guard, clip, CAPTIONS, noise(), guider=comfy.DualGuider)
    unwrapped = guard.clone()
    unwrapped.wrappers = []
    with pytest.raises(GuardError, match="called by no sampler"):
        sample(unwrapped, clip, CAPTIONS, noise())
    assert torch.isfinite(sample(guard, clip, CAPTIONS, noise())).all()  # it still serves


def test_a_guard_upon_a_guard_is_refused(mode):
    model, clip, _ = parts()
    twice = guarded(guarded(model, ClassifierFree, None, None), ClassifierFree, None, None)
    with pytest.raises(GuardError, match="guarded already"):
        sample(twice, clip, CAPTIONS, noise())


def test_samples_of_several_noise_levels_are_refused():
    with pytest.raises(GuardError, match="noise levels of their own"):
        comfyui_anechoic.call.ComfyCall(None, noise(), torch.tensor([1.0, 2.0]), {}, [{}])
