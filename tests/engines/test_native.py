"""Models of stable-audio-tools under a guard: what the guard leaves as it is, and what it does.

Each test runs on a small stand-in; `make test-engines` runs it on the library itself, too.
"""

from __future__ import annotations

import json
import math
from functools import cache, partial
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import save_file
from support.methods import DISSIMILARITY, METHODS, method
from support.native import (
    ALL_CAPTIONS,
    BOTH,
    CAPTIONS,
    INSTALLED,
    LIBRARIES,
    MISSING,
    installed_config,
    make_installed,
    rows,
    tiny_t5,
)
from support.pool import Pool

from anechoic import guard
from anechoic.diffusers import fingerprint
from anechoic.diffusers.loading import load_pipeline
from anechoic.diffusers.lora_files import read_adapter
from anechoic.diffusers.original import to_folder
from anechoic.diffusers.original.checkpoint import find_checkpoint
from anechoic.errors import GuardError, IndexMismatch, UnsupportedPipeline
from anechoic.guidance import AntiMemorization, ClassifierFree, Interval, Progress, TransitionPoint
from anechoic.guidance.step import Guided
from anechoic.stable_audio_tools.model import NativeModel

OBJECTIVES = ("v", "rectified_flow")
SINGLE = {"v": "v-ddim", "rectified_flow": "euler"}  # one evaluation a step, without noise


@pytest.fixture(params=BOTH)
def library(request):
    return LIBRARIES[request.param]


@cache
def model_of(library, objective="v"):
    return library.make(objective)


def projects(model):
    return hasattr(model.model.model, "apg_project")


class Noise:
    """The noise of a batch of two, from which any of them can be generated."""

    def of(self, *samples):
        draw = torch.randn

        def drawn(*size, **settings):
            if "generator" in settings:
                return draw(*size, **settings)
            size = list(size[0]) if len(size) == 1 else list(size)
            made = draw([2, *size[1:]], generator=torch.Generator().manual_seed(5))
            return made[list(samples)]

        return patch.object(torch, "randn", drawn)


# ------------------------------------------------------------------------- what stays as it is


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_plain_guidance_is_the_librarys_own_bit_for_bit_with_every_sampler(library, objective):
    model = model_of(library, objective)
    for sampler in library.samplers(objective):
        settings = (1.0, 0.0, 0.5) if projects(model) else (None,)
        for apg in settings[:1] if sampler == "k-dpm-adaptive" else settings:  # it takes long
            more = {"sampler": sampler} | ({} if apg is None else {"apg_scale": apg})
            plain = library.generate(model, **more)
            with guard(model, ClassifierFree(5.0)) as trace:
                guarded = library.generate(model, cfg_scale=2.0, **more)
            assert torch.equal(guarded, plain), more
            assert torch.equal(library.generate(model, **more), plain), more
            progress = [record.progress for record in trace.records]
            assert progress[0] == 0.0
            assert progress == sorted(progress)
            assert progress[-1] < 1.0


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_its_own_settings_of_guidance_stay_as_they_are(library, objective):
    model, sampler = library.make(objective), SINGLE[objective]
    settings = [{"negative_conditioning": rows(["high flute note"] * 2)}, {"scale_phi": 0.7}]
    settings += [{"cfg_norm_threshold": 0.5}] if projects(model) else []
    for more in [{}, *settings, {"half": True}]:
        if more.pop("half", False):
            model.model.to(torch.bfloat16)
        for scale in (5.0, -2.0):
            plain = library.generate(model, sampler=sampler, cfg_scale=scale, **more)
            with guard(model, partial(_at, scale)):
                guarded = library.generate(model, sampler=sampler, cfg_scale=3.0, **more)
            assert torch.equal(guarded, plain), (more, scale)


def _at(scale, step):
    return Guided(scale)


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_a_scale_of_nought_or_one_is_that_half(library, scale):
    """To rounding: alone, it is summed in another order than in a batch of both."""
    model = model_of(library)
    plain = library.generate(model, sampler="v-ddim", cfg_scale=scale)
    with guard(model, partial(_at, scale)):
        guarded = library.generate(model, sampler="v-ddim")
    torch.testing.assert_close(guarded, plain, rtol=0, atol=1e-5)


def test_encoded_prompts_are_guarded_too(library):
    model = model_of(library)
    encoded = model.conditioner(rows(CAPTIONS), "cpu")
    settings = {"conditioning_tensors": encoded, "batch_size": 2, "steps": 3, "seed": 3,
                "sampler_type": "v-ddim"}  # fmt: skip
    plain = library.call(model, cfg_scale=5.0, **settings)
    with guard(model, ClassifierFree(5.0)):
        assert torch.equal(library.call(model, cfg_scale=2.0, **settings), plain)


# --------------------------------------------------------------------------------- what it does


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", [*METHODS, DISSIMILARITY])
def test_every_method_acts_and_guides_each_sample_by_itself(library, name, objective):
    model, noise = model_of(library, objective), Noise()
    sampler, guidance = SINGLE[objective], method(name, images=False)

    def made(*samples, guidance=None):
        captions = [CAPTIONS[sample] for sample in samples]
        with noise.of(*samples):
            if guidance is None:
                return library.generate(model, captions, sampler, cfg_scale=7.0)
            with guard(model, guidance):
                return library.generate(model, captions, sampler, cfg_scale=2.0)

    both, plain = made(0, 1, guidance=guidance), made(0, 1)
    assert torch.equal(both, plain) == (name == "cfg")
    alone = torch.cat([made(sample, guidance=guidance) for sample in (0, 1)])
    torch.testing.assert_close(both, alone, rtol=1e-4, atol=2e-4 * float(both.abs().max()))


def test_a_half_that_is_not_needed_is_not_computed(library):
    model, sizes = model_of(library), []
    settings = {"sampler": "v-ddim"} | ({"apg_scale": 0.0} if projects(model) else {})
    late = Interval(5.0, start=Progress(0.5), stop=Progress(1.0))
    handle = model.model.model.transformer if library.installed else model.model.model.read
    handle = handle.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    try:
        with guard(model, late) as trace:
            library.generate(model, **settings)
    finally:
        handle.remove()
    assert sizes == [2, 2, 4, 4]
    assert [record.passes for record in trace.records] == [1.0, 1.0, 2.0, 2.0]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_network_once_more_is_what_the_library_computes(library, objective):
    model, seen = model_of(library, objective), {}

    def watch(step):
        if len(step.history) == 2 and not seen:
            one = torch.tensor([1])
            seen.update(
                step=step,
                captions=step.denoise(step.x, ALL_CAPTIONS[2:]),
                own=[step.denoise(step.x, which) for which in ("cond", "uncond", CAPTIONS)],
                row=step.denoise(step.x[one], ALL_CAPTIONS[3:], one),
            )
        return Guided(5.0)

    with guard(model, watch):
        library.generate(model, sampler=SINGLE[objective], seconds=[0.5, 1.0])
    step = seen["step"]
    for own, expected in zip(seen["own"], (step.cond, step.uncond, step.cond), strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-4)
    noise = step.noise
    t = math.atan2(noise.sigma, noise.alpha) / math.pi * 2 if objective == "v" else noise.sigma
    encoded = model.conditioner(rows(ALL_CAPTIONS[2:], [0.5, 1.0]), "cpu")
    inputs = model.get_conditioning_inputs(encoded)
    with torch.no_grad():
        predicted = model.model(step.x, torch.full((2,), t), **inputs, cfg_scale=1.0)
    kind = "v_prediction" if objective == "v" else "flow"
    expected = noise.to_x0(step.x, predicted, kind)
    torch.testing.assert_close(seen["captions"], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(seen["row"], expected[1:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_gradient_goes_through_the_decoder_and_the_network(library, objective):
    model, seen = model_of(library, objective), []

    def watch(step):
        if len(step.history) == 2:
            x = step.x.detach().requires_grad_(True)
            with torch.enable_grad():
                energy = step.decode(step.denoise(x, "cond")).square().sum()
                (slope,) = torch.autograd.grad(energy, x)
            way = slope * (0.002 / slope.norm())
            ends = [step.decode(step.denoise(step.x + s * way, "cond")) for s in (1, -1)]
            difference = (ends[0].double() ** 2).sum() - (ends[1].double() ** 2).sum()
            seen.append((float((slope * way).sum()), float(difference) / 2))
        return Guided(5.0)

    with guard(model, watch):
        library.generate(model, sampler=SINGLE[objective])
    assert seen[0][0] == pytest.approx(seen[0][1], rel=0.02)


def test_what_is_compared_lasts_as_long_as_each_sample_was_asked_to(library):
    model, seen = model_of(library), []

    def watch(step):
        if not seen:
            one = torch.tensor([0])
            seen.extend((step.decode(step.cond), step.decode(step.cond[one], one)))
        return Guided(5.0)

    with guard(model, watch):
        library.generate(model, sampler="v-ddim", seconds=[0.25, 1.0])
    both, short = seen
    assert both.shape[-1] == library.rate
    assert short.shape[-1] == library.rate // 4
    assert bool((both[0, :, library.rate // 4 :] == 0).all())
    torch.testing.assert_close(both[:1, :, : library.rate // 4], short, rtol=1e-4, atol=1e-5)


def test_latents_are_moved_where_the_sampler_goes_on_from_them(library):
    def moved(step):
        return Guided(5.0, x=step.x + 0.1)

    for objective, sampler in SINGLE.items():
        model = model_of(library, objective)
        with guard(model, moved) as trace:
            made = library.generate(model, sampler=sampler)
        assert not torch.equal(made, library.generate(model, sampler=sampler))
        assert len(trace.records) == 4
    model = model_of(library, "v")
    with pytest.raises(GuardError, match="'k-heun' does not go on"), guard(model, moved):
        library.generate(model, sampler="k-heun")


def test_samples_with_schedules_of_their_own_are_guided_as_each_alone(library):
    """In the library, a shorter sound has another schedule."""
    model, seconds = library.make("rectified_flow"), [0.5, 1.0]
    if library.installed and not projects(model):
        pytest.skip("0.0.19 has one schedule for a batch")
    if library.installed:
        from stable_audio_tools.inference.sampling import LogSNRShift

        model.use_effective_length_for_schedule = True
        model.sampling_dist_shift = LogSNRShift(rate=1.0, anchor_length=64)
        whole = {"adapt_duration_to_conditioning": False}  # latents of one length
        settings = [whole, whole]
    else:
        schedules = torch.stack([torch.linspace(1, 0, 5), torch.linspace(1, 0, 5) ** 2])
        whole = {"schedules": schedules}
        settings = [{"schedules": schedules[:1]}, {"schedules": schedules[1:]}]

    def made(samples, more, guidance):
        captions = [CAPTIONS[sample] for sample in samples]
        lengths = [seconds[sample] for sample in samples]
        with Noise().of(*samples), guard(model, guidance) as trace:
            sound = library.generate(model, captions, "euler", lengths, cfg_scale=2.0, **more)
        return sound, trace.records

    for guidance in (ClassifierFree(5.0), TransitionPoint(5.0, before=-2.0, at=0.5)):
        both, records = made([0, 1], whole, guidance)
        alphas = torch.as_tensor(records[1].noise.alpha)
        assert len(set(alphas.tolist())) == 2
        alone = torch.cat([made([i], settings[i], guidance)[0] for i in (0, 1)])
        torch.testing.assert_close(both, alone, rtol=1e-4, atol=2e-4 * float(both.abs().max()))


def test_pure_noise_counts_as_a_thousandth_of_signal(library):
    for objective, sampler in SINGLE.items():
        with guard(model_of(library, objective), TransitionPoint(before=-1.0, at=0.5)) as trace:
            library.generate(model_of(library, objective), sampler=sampler)
        assert trace.records[0].noise.alpha == 1e-3
        assert bool((trace.records[0].distance > 0).all())


def test_a_gradient_is_refused_in_inference_mode_and_a_scale_is_not(library):
    store, model = Pool(), model_of(library)
    near = AntiMemorization(store, store, c1=0.0, c2=0.0, lambda_min=-1.0, lambda_max=-1.0)
    plain = library.generate(model, sampler="v-ddim")
    with torch.inference_mode(), guard(model, ClassifierFree(5.0)):
        assert torch.equal(library.generate(model, sampler="v-ddim", cfg_scale=2.0), plain)
    with (
        pytest.raises(GuardError, match="outside of inference_mode"),
        guard(model, near),
        torch.inference_mode(),
    ):
        library.generate(model, sampler="v-ddim")


def test_a_generation_without_an_unconditional_half_is_refused(library):
    model = model_of(library)
    with (
        pytest.raises(GuardError, match=r"no unconditional half.*cfg_scale=7\.0"),
        guard(model, ClassifierFree(5.0)),
    ):
        library.generate(model, sampler="v-ddim", cfg_scale=1.0)
    store = Pool()
    alone = AntiMemorization(store, store, c1=0.0, c2=0.0, lambda_min=-1.0, lambda_max=-1.0)
    plain = library.generate(model, sampler="v-ddim", cfg_scale=1.0)
    with guard(model, alone) as trace:
        assert not torch.equal(library.generate(model, sampler="v-ddim", cfg_scale=1.0), plain)
    assert [float(record.scale[0]) for record in trace.records] == [1.0] * 4


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"cfg_interval": (0.2, 0.8)}, "guard with Interval"),
        ({"cfg_interval": [0.2, 1]}, "guard with Interval"),
        ({"cfg_dropout_prob": 0.5}, "at random"),
        ({"exit_layer_ix": 0}, "leaves the network early"),
    ],
)
def test_settings_that_the_guidance_cannot_see_are_refused(library, setting, says):
    model = model_of(library)
    with pytest.raises(GuardError, match=says), guard(model, ClassifierFree(5.0)):
        library.generate(model, sampler="v-ddim", **setting)


def test_another_models_index_and_other_networks_are_refused(library):
    model, index = library.make("v"), Pool()
    index.model = "another"
    with (
        pytest.raises(IndexMismatch, match="training clips of model 'another'"),
        guard(model, AntiMemorization(index, index)),
    ):
        pass
    model.model.compile()
    with pytest.raises(UnsupportedPipeline, match="compile its transformer alone"):
        guard(model, ClassifierFree()).__enter__()
    model.model = torch.nn.Sequential()
    with pytest.raises(UnsupportedPipeline, match="around a DiffusionTransformer was expected"):
        guard(model, ClassifierFree()).__enter__()


def test_several_conditioners_of_text_are_refused_where_the_prompt_is_changed(library):
    model = library.make("v")
    conditioners = model.conditioner.conditioners
    conditioners["lyrics"] = conditioners["prompt"]
    lines = [{**row, "lyrics": "the rain"} for row in rows(CAPTIONS)]
    settings = {"conditioning": lines, "batch_size": 2, "steps": 2, "sampler_type": "v-ddim"}
    with guard(model, ClassifierFree()):
        library.call(model, **settings)
    with (
        pytest.raises(GuardError, match="this one has 2: prompt, lyrics"),
        guard(model, method("cads", images=False)),
    ):
        library.call(model, **settings)


@pytest.mark.engines
@pytest.mark.skipif(not INSTALLED, reason=MISSING)
def test_the_index_of_the_converted_model_serves_the_model_itself(tmp_path):
    """Where diffusers can express it; a flow model has a name of its own."""
    model = make_installed("v")
    config = installed_config("v", tiny_t5())
    config["model"]["conditioning"]["configs"][0]["config"]["t5_model_name"] = "t5-base"
    (tmp_path / "model_config.json").write_text(json.dumps(config))
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()},
        tmp_path / "model.safetensors",
    )
    found = find_checkpoint(tmp_path / "model.safetensors")
    assert found is not None
    to_folder(found, tmp_path / "converted", tiny_t5())
    index = Pool()
    index.model = fingerprint(load_pipeline(str(tmp_path / "converted")))
    with guard(model, AntiMemorization(index, index, lambda_min=-1.0, lambda_max=-1.0)):
        LIBRARIES["installed"].generate(model, sampler="v-ddim")
    flow = make_installed("rectified_flow")
    with (
        pytest.raises(IndexMismatch, match="training clips of model"),
        guard(flow, AntiMemorization(index, index)),
    ):
        pass


@pytest.mark.engines
@pytest.mark.skipif(not INSTALLED, reason=MISSING)
def test_a_lora_stays_in_the_guarded_model_and_in_its_name(tmp_path):
    lora = pytest.importorskip("stable_audio_tools.models.lora", reason="0.0.19 has none")
    library, model = LIBRARIES["installed"], make_installed("v")
    base, named = library.generate(model, sampler="v-ddim"), NativeModel(model).fingerprint()
    lora.add_lora(model.model.model)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    plain = library.generate(model, sampler="v-ddim")
    assert not torch.equal(plain, base)
    lora.save_lora_safetensors(
        lora.get_lora_state_dict(model.model), {"rank": 4, "alpha": 1}, tmp_path / "l.safetensors"
    )
    adapter = read_adapter(tmp_path / "l.safetensors").fingerprint
    assert NativeModel(model).fingerprint() == f"{named}+{adapter}"
    lora.set_lora_strength(model, 0.0)
    assert NativeModel(model).fingerprint() == named
    lora.set_lora_strength(model, 1.0)
    with guard(model, ClassifierFree(5.0)):
        assert torch.equal(library.generate(model, sampler="v-ddim", cfg_scale=2.0), plain)
