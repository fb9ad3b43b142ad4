"""The guard on a real, tiny Stable Audio pipeline."""

from dataclasses import dataclass

import pytest
import torch
from support.pipelines import make_pipe, schedulers
from support.pool import Pool

from anechoic import guard
from anechoic.diffusers import fingerprint
from anechoic.diffusers.schedules import Schedule
from anechoic.errors import GuardError, IndexMismatch, UnsupportedPipeline
from anechoic.guidance import (
    AntiMemorization,
    ClassifierFree,
    DynamicTransition,
    TransitionPoint,
)
from anechoic.guidance.step import Guided


@pytest.mark.parametrize("name", schedulers())
@pytest.mark.parametrize("scale", [7.0, 3.3])
def test_guard_with_plain_cfg_equals_the_pipeline_bit_for_bit(name, scale, generate):
    pipe = make_pipe(schedulers()[name])
    plain = generate(pipe, scale=scale)
    with guard(pipe, ClassifierFree(scale)) as trace:
        guarded = generate(pipe, scale=2.0)  # the guidance owns the scale
    assert torch.equal(plain, guarded)
    assert len(trace.records) == (11 if name == "heun" else 6)
    assert torch.equal(generate(pipe, scale=scale), plain)  # and the pipeline is as before


def test_guard_with_plain_cfg_equals_the_pipeline_in_bf16(generate):
    pipe = make_pipe().to(torch.bfloat16)
    plain = generate(pipe, scale=7.0)
    with guard(pipe, ClassifierFree(7.0)):
        assert torch.equal(generate(pipe), plain)


def test_guard_with_a_negative_prompt_equals_the_pipeline(pipe, generate):
    arguments = {"negative_prompt": ["rain on a roof", "rain on a roof"]}
    plain = generate(pipe, **arguments)
    with guard(pipe, ClassifierFree(7.0)):
        assert torch.equal(generate(pipe, **arguments), plain)


def test_guard_with_several_waveforms_a_prompt_equals_the_pipeline(pipe, generate):
    def twice():
        return pipe(
            "a dog barks",
            num_waveforms_per_prompt=2,
            num_inference_steps=6,
            generator=torch.Generator().manual_seed(0),
        ).audios

    plain = twice()
    with guard(pipe, ClassifierFree(7.0)):
        assert torch.equal(twice(), plain)


@pytest.mark.parametrize("name", ["cosine", "ddim", "dpm++"])
def test_x0_is_the_schedulers_own(name, generate):
    pipe = make_pipe(schedulers()[name])
    theirs, ours = [], []
    step = pipe.scheduler.step
    convert = getattr(pipe.scheduler, "convert_model_output", None)

    if name == "ddim":  # returns its x0

        def spy(*args, **kwargs):
            out = step(*args, **kwargs)
            theirs.append(out.pred_original_sample)
            return out

        pipe.scheduler.step = spy
    else:

        def spy(*args, **kwargs):
            theirs.append(convert(*args, **kwargs))
            return theirs[-1]

        pipe.scheduler.convert_model_output = spy

    def watch(s):
        ours.append(Guided(7.0).x0(s))
        return Guided(7.0)

    pipe.scheduler.config.clip_sample = False
    with guard(pipe, watch):
        generate(pipe)
    assert len(ours) == 6
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5)  # float32, two orders of sums


def test_a_function_of_a_step_is_a_guidance(pipe, generate):
    plain = generate(pipe)
    with guard(pipe, lambda step: step.uncond + 7.0 * (step.cond - step.uncond)):
        torch.testing.assert_close(generate(pipe), plain, rtol=1e-3, atol=1e-3)


def test_distance_is_the_norm_of_the_difference_in_noise_space(pipe, generate):
    seen = []

    def watch(step):
        eps = [
            (step.x - step.noise.alpha * x0) / step.noise.sigma for x0 in (step.cond, step.uncond)
        ]
        seen.append(((eps[0] - eps[1]).flatten(1).norm(dim=1), step.distance))
        return Guided(7.0)

    with guard(pipe, watch):
        generate(pipe)
    for ours, closed_form in seen:
        # eps is a difference of large numbers where there is hardly any signal
        torch.testing.assert_close(closed_form, ours, rtol=0.02, atol=1e-4)


def test_denoise_repeats_both_halves_and_other_captions(pipe, generate):
    worst = []

    def watch(step):
        b = len(step.x)
        for again, first in (
            (step.denoise(step.x, "cond"), step.cond),
            (step.denoise(step.x, "uncond"), step.uncond),
            (step.denoise(step.x, ["low cello note", "a dog barks"][:b]), step.cond),
        ):
            worst.append((again - first).abs().max().item())
        return Guided(7.0)

    with guard(pipe, watch):
        generate(pipe)
    assert max(worst) < 1e-4


def test_a_batch_of_two_equals_two_batches_of_one(pipe, generate):
    prompts = ("low cello note", "a dog barks")
    method = DynamicTransition(7.0, before=-2.0)
    with guard(pipe, method):
        together = generate(pipe, prompts, steps=12)
        # seeds 0 and 1, as in the batch
        alone = [generate(pipe, p, steps=12, seed=i) for i, p in enumerate(prompts)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-3, atol=1e-3)


class Peaks(Pool):
    """An embedder of raw samples, and an index of two clips of them."""

    dim = 64

    def __init__(self):
        super().__init__()
        self.name, self.sample_rate = "peaks", 4
        rows = torch.randn(2, 64, generator=torch.Generator().manual_seed(3))
        self.rows = torch.nn.functional.normalize(rows, dim=1)

    def __call__(self, wav, sample_rate):
        return torch.nn.functional.normalize(wav.mean(1), dim=1)


def test_full_amg_acts_through_the_real_decoder_and_lowers_similarity(pipe, generate):
    store = Peaks()

    def similarity(latents):
        with torch.no_grad():
            wav = pipe.vae.decode(latents).sample
        return store.search(store(wav, 4), 1).scores

    plain = generate(pipe, steps=20)
    arguments = (store, store, 7.0, 1.0, 1.0, 20.0, -1.0, -1.0)
    for gradient in ("denoiser", "x0"):
        with guard(pipe, AntiMemorization(*arguments, gradient=gradient)) as trace:
            guarded = generate(pipe, steps=20)
        assert bool(trace.column("gate").all())
        assert similarity(guarded).mean() < similarity(plain).mean()


def test_amg_with_a_gate_that_stays_shut_leaves_the_output_as_it_is(pipe, generate):
    store = Peaks()
    plain = generate(pipe)
    with guard(pipe, AntiMemorization(store, store, lambda_min=0.9999, lambda_max=0.9999)):
        assert torch.equal(generate(pipe), plain)


def test_static_transition_holds_guidance_back_until_its_point(pipe, generate):
    with guard(pipe, TransitionPoint(7.0, before=-2.0, at=0.5)) as trace:
        generate(pipe, steps=10)
    assert trace.column("scale")[:, 0].tolist() == [-2.0] * 5 + [7.0] * 5


def test_the_waveform_comes_out_as_long_as_it_was_asked_for(pipe, generate):
    with guard(pipe, AntiMemorization(Peaks(), Peaks(), lambda_min=-1, lambda_max=-1)) as trace:
        wav = generate(pipe, output_type="pt", audio_end_in_s=16.0)
    assert wav.shape == (2, 2, 64)
    assert len(trace.records) == 6


def test_a_guard_inside_a_guard_is_refused(pipe):
    with (
        pytest.raises(GuardError, match="guarded already"),
        guard(pipe, ClassifierFree()),
        guard(pipe, ClassifierFree()),
    ):
        pass


def test_a_generation_without_guidance_is_refused_before_its_first_step(pipe, generate):
    with pytest.raises(GuardError, match="guidance_scale <= 1"), guard(pipe, ClassifierFree()):
        generate(pipe, scale=1.0)


def test_a_block_in_which_nothing_was_generated_is_no_protection(pipe):
    with pytest.raises(GuardError, match="nothing was generated"), guard(pipe, ClassifierFree()):
        pass


def test_weights_want_no_gradient_inside_a_guard_and_are_as_before_after_it(pipe, generate):
    parts = (pipe.transformer, pipe.vae, pipe.text_encoder)
    for part in parts:
        part.requires_grad_(True)  # as `from_pretrained` leaves them
    pipe.vae.encoder.requires_grad_(False)
    before = [weight.requires_grad for part in parts for weight in part.parameters()]
    wanted = []

    def watch(step):
        wanted.extend(weight.requires_grad for part in parts for weight in part.parameters())
        return step.cond

    with guard(pipe, watch):
        generate(pipe)
    assert wanted
    assert not any(wanted)
    assert [weight.requires_grad for part in parts for weight in part.parameters()] == before


def test_the_pipeline_is_as_before_after_an_error(pipe, generate):
    plain = generate(pipe)

    def broken(step):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), guard(pipe, broken):
        generate(pipe)
    assert torch.equal(generate(pipe), plain)
    assert "encode_prompt" not in vars(pipe)


def test_nan_in_a_latent_is_refused(pipe, generate):
    with pytest.raises(GuardError, match="NaN or infinity"), guard(pipe, ClassifierFree()):
        generate(pipe, latents=torch.full((2, 3, 16), float("nan")))


def test_a_guidance_that_returns_nan_is_refused(pipe, generate):
    def broken(step):
        return step.cond * float("nan")

    with pytest.raises(GuardError, match="guidance returned NaN"), guard(pipe, broken):
        generate(pipe)


@pytest.mark.parametrize("scale", [float("nan"), torch.tensor([7.0, float("inf")])])
def test_a_scale_that_is_not_finite_is_refused(pipe, generate, scale):
    def late(step):  # in the last evaluation, after which the network sees nothing
        return Guided(scale if step.progress > 0.8 else 7.0)

    with pytest.raises(GuardError, match="the guidance returned NaN"), guard(pipe, late):
        generate(pipe)


def test_an_unknown_pipeline_is_refused():
    @dataclass
    class Other:
        transformer: object = None

    with (
        pytest.raises(
            UnsupportedPipeline, match=r"StableAudioPipeline, .* was expected, .*, got Other"
        ),
        guard(Other(), ClassifierFree()),
    ):
        pass


def test_an_unknown_scheduler_is_refused():
    from diffusers import KDPM2DiscreteScheduler

    with (
        pytest.raises(UnsupportedPipeline, match="got KDPM2DiscreteScheduler"),
        guard(make_pipe(KDPM2DiscreteScheduler()), ClassifierFree()),
    ):
        pass


def test_an_index_of_another_models_clips_is_refused(pipe):
    store = Peaks()
    store.model = "0123456789abcdef"
    with (
        pytest.raises(IndexMismatch, match="wrong clips"),
        guard(pipe, AntiMemorization(store, store)),
    ):
        pass
    store.model = fingerprint(pipe)
    assert fingerprint(make_pipe(seed=1)) != store.model


def test_the_fingerprint_is_the_same_in_every_number_format(pipe):
    single = fingerprint(pipe)
    assert fingerprint(pipe.to(torch.bfloat16)) == fingerprint(pipe.to(torch.float16)) == single


def test_noise_levels_follow_the_schedule(pipe):
    pipe.scheduler.set_timesteps(6)
    pipe.scheduler._init_step_index(pipe.scheduler.timesteps[0])
    level = Schedule(pipe.scheduler).noise(pipe.scheduler.timesteps[0])
    assert level.ratio == pytest.approx(500.0, rel=1e-6)  # the scheduler keeps float32
    assert level.abar + level.sigma**2 == pytest.approx(1.0, abs=1e-12)
