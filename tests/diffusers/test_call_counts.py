"""What each guard asks for at each step, counted exactly: so that no waste comes back unnoticed."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from anechoic_lab.guidance import CADS
from support.pipelines import CASES, make, make_pipe
from support.pool import Pool

from anechoic import guard
from anechoic.diffusers.adapters.stable_audio import reach_of
from anechoic.guidance import (
    AntiMemorization,
    BasinEdge,
    ClassifierFree,
    DynamicTransition,
    GramVolume,
    Interval,
    Progress,
    Prompted,
    Sequence,
    TransitionPoint,
)
from anechoic.types import Neighbours

STEPS = 4
PROMPTS = ("low cello note", "a dog barks")
OPEN = {"lambda_min": -1.0, "lambda_max": -1.0}
SHUT = {"lambda_min": 0.9999, "lambda_max": 0.9999}


@dataclass
class Counts:
    """Samples of each evaluation: through the network, the decoder, the embedder, the index."""

    denoised: list[int] = field(default_factory=list)
    decoded: list[int] = field(default_factory=list)
    embedded: list[int] = field(default_factory=list)
    searched: list[int] = field(default_factory=list)

    def add(self, name: str, samples: int) -> None:
        getattr(self, name)[-1] += samples


class CountingPool(Pool):
    """A store that counts what it is asked; only the first `near` samples of a search are near."""

    def __init__(self, counts: Counts, near: int = 2):
        super().__init__()
        self.counts, self.near = counts, near

    def __call__(self, wav, sample_rate):
        self.counts.add("embedded", len(wav))
        return super().__call__(wav, sample_rate)

    def search(self, query, k=1):
        self.counts.add("searched", len(query))
        found = super().search(query, k)
        far = torch.arange(len(query)) >= self.near
        return Neighbours(torch.where(far[:, None], -1.0, found.scores), found.rows)


def counted(make_guidance, near=2):
    """Run a guard on the tiny pipeline, two samples at once: the counts by step, and the trace."""
    pipe, counts = make_pipe(), Counts()
    forward, decode = pipe.transformer.forward, pipe.vae.decode

    def denoise(*args, **kwargs):
        counts.add("denoised", len(kwargs.get("hidden_states", args[0] if args else None)))
        return forward(*args, **kwargs)

    def to_sound(latents, *args, **kwargs):
        counts.add("decoded", len(latents))
        return decode(latents, *args, **kwargs)

    def next_step(*args):
        for column in vars(counts).values():
            column.append(0)

    pipe.transformer.forward, pipe.vae.decode = denoise, to_sound
    pipe.transformer.register_forward_pre_hook(next_step)
    with guard(pipe, make_guidance(CountingPool(counts, near))) as trace:
        pipe(
            list(PROMPTS),
            num_inference_steps=STEPS,
            guidance_scale=7.0,
            generator=[torch.Generator().manual_seed(i) for i in range(2)],
            output_type="latent",
        )
    own = [round(2 * record.passes) for record in trace.records]
    assert own == counts.denoised  # the trace tells the truth
    return counts, trace


NOTHING = [0] * STEPS
TWICE = [4] * STEPS  # both halves of two samples
HALF = TransitionPoint(7.0, before=0.0, at=0.5)


@pytest.mark.parametrize(
    ("guidance", "denoised"),
    [
        (ClassifierFree(), TWICE),
        (HALF, [2, 2, 4, 4]),  # no conditional pass before the transition
        (TransitionPoint(7.0, before=1.0, at=0.5), [2, 2, 4, 4]),
        (TransitionPoint(7.0, before=0.0, at=0.5, both_halves=True), TWICE),
        (TransitionPoint(7.0, before=-1.0, at=0.5), TWICE),  # opposite guidance
        (DynamicTransition(), TWICE),  # which looks at the distance
        (Interval(7.0, start=0.25, stop=0.75), [2, 4, 4, 2]),
        (Sequence(HALF, ClassifierFree(), at=0.75), [2, 2, 4, 4]),
        (Sequence(HALF, DynamicTransition(), at=0.5), TWICE),  # which looks back at all of it
        (Sequence(HALF, ClassifierFree(), at=BasinEdge()), TWICE),
        (Prompted(CADS(), HALF), [2, 2, 4, 4]),
        (lambda step: step.uncond, TWICE),  # a function says nothing of what it needs
    ],
)
def test_guards_without_an_index_decode_nothing_and_spare_what_they_do_not_need(guidance, denoised):
    counts, trace = counted(lambda pool: guidance)
    assert counts == Counts(denoised, NOTHING, NOTHING, NOTHING)
    assert trace.column("distance").isnan().all(1).tolist() == [n < 4 for n in denoised]


@pytest.mark.parametrize("method", [AntiMemorization, GramVolume])
def test_a_shut_gate_costs_one_comparison_a_step(method):
    shut = SHUT if method is AntiMemorization else {"threshold": 0.9999}
    counts, _ = counted(lambda pool: method(pool, pool, **shut))
    assert counts == Counts(TWICE, *[[2] * STEPS] * 3)


@pytest.mark.parametrize("method", [AntiMemorization, GramVolume])
def test_a_shut_gate_is_looked_at_now_and_then_and_only_from_a_point_on(method):
    shut = SHUT if method is AntiMemorization else {"threshold": 0.9999}
    counts, trace = counted(lambda pool: method(pool, pool, start=0.25, every=2, **shut))
    assert counts == Counts(TWICE, *[[0, 2, 0, 2]] * 3)
    unseen = [True, False, True, False]
    assert trace.column("similarity").isnan().all(1).tolist() == unseen
    assert (trace.column("neighbour") == -1).all(1).tolist() == unseen
    assert not trace.column("gate").any()


@pytest.mark.parametrize(
    ("settings", "near", "denoised", "decoded", "embedded"),
    [
        # the gradient starts from what was decoded to compare, once the gate is known to be open
        ({"gradient": "x0"}, 2, [6] * 4, [4, 2, 2, 2], [4, 2, 2, 2]),
        ({"gradient": "x0", "c2": 0.0}, 2, [4] * 4, [4, 2, 2, 2], [4, 2, 2, 2]),
        ({"c3": 0.0}, 2, [6] * 4, [2] * 4, [2] * 4),
        # through the denoiser: another pass of the conditional half, and its own decoding
        ({}, 2, [8] * 4, [4] * 4, [4] * 4),
        ({"c2": 0.0}, 2, [6] * 4, [4] * 4, [4] * 4),
        ({"estimate": "guided"}, 2, [10] * 4, [4] * 4, [4] * 4),
        # of two samples one is near: nothing is asked for the other but its similarity
        ({"gradient": "x0"}, 1, [5] * 4, [3] * 4, [3] * 4),
        ({}, 1, [6] * 4, [3] * 4, [3] * 4),
        # open gates are looked at each time, also where shut ones are not
        ({"gradient": "x0", "every": 3}, 2, [6] * 4, [4, 2, 2, 2], [4, 2, 2, 2]),
        ({"gradient": "x0", "every": 3}, 1, [5] * 4, [3, 1, 1, 3], [3, 1, 1, 3]),
        ({"gradient": "x0", "start": Progress(0.5)}, 2, [4, 4, 6, 6], [0, 0, 4, 2], [0, 0, 4, 2]),
    ],
)
def test_an_open_gate_costs_its_own_samples_alone(settings, near, denoised, decoded, embedded):
    counts, trace = counted(lambda pool: AntiMemorization(pool, pool, **OPEN, **settings), near)
    assert counts.denoised == denoised
    assert counts.decoded == decoded
    assert counts.embedded == embedded
    assert trace.column("gate")[-1].tolist() == [True] * near + [False] * (2 - near)


def test_gram_volume_starts_its_gradient_from_what_was_compared():
    counts, _ = counted(lambda pool: GramVolume(pool, pool, threshold=-1.0, gradient="x0"))
    assert counts == Counts(TWICE, [4, 2, 2, 2], [4, 2, 2, 2], [2] * 4)


def test_captions_are_encoded_once_a_generation():
    pipe, encoded = make_pipe(), []
    pipe.text_encoder.register_forward_hook(lambda *call: encoded.append(1))
    pool = CountingPool(Counts([0], [0], [0], [0]))
    with guard(pipe, AntiMemorization(pool, pool, **OPEN)) as trace:
        pipe(PROMPTS[0], num_inference_steps=6, generator=torch.Generator().manual_seed(0),
             output_type="latent")  # fmt: skip
    captions = set(trace.column("neighbour").flatten().tolist())
    assert len(encoded) == 1 + len(captions)  # and not once for each of six caption passes


# float32: a batch of half the size sums in another order
@pytest.mark.parametrize(
    ("name", "passes"),
    [("StableAudioPipeline", [1, 2, 2]), ("StableDiffusionPipeline", [1, 2, 2]),
     ("AceStepPipeline", [2, 2, 2]), ("LongCatAudioDiTPipeline", [2, 2, 2])],
)  # fmt: skip
@pytest.mark.parametrize("before", [0.0, 1.0])
def test_a_spared_half_changes_nothing(name, passes, before):
    case, pipe = CASES[name], make(name)
    made = {}
    for both in (True, False):
        with guard(pipe, TransitionPoint(7.0, before, at=0.3, both_halves=both)) as trace:
            made[both] = case.generate(pipe)
    torch.testing.assert_close(made[False], made[True], rtol=1e-4, atol=1e-4)
    # ACE-Step's own guidance remembers all halves, LongCat calls its network twice
    assert [record.passes for record in trace.records] == passes


def test_only_what_was_requested_is_decoded_and_it_is_the_same():
    pipe = make_pipe()
    rate, hop = pipe.vae.config.sampling_rate, pipe.vae.hop_length
    reach = reach_of(pipe.vae.config.downsampling_ratios)
    asked, lengths = (0.0, 1.0), []
    decode, steps = pipe.vae.decode, []
    pipe.vae.decode = lambda latents: lengths.append(latents.shape[-1]) or decode(latents)
    with guard(pipe, lambda step: steps.append(step) or step.cond):
        pipe(PROMPTS[0], num_inference_steps=1, audio_end_in_s=asked[1], output_type="latent",
             generator=torch.Generator().manual_seed(0))  # fmt: skip
        latents = torch.randn(2, 3, 200)
        latents.requires_grad_(True)
        part = steps[-1].decode(latents)
    assert lengths == [round(asked[1] * rate) // hop + reach]
    whole = decode(latents).sample[:, :, : round(asked[1] * rate)]
    torch.testing.assert_close(part, whole, rtol=1e-5, atol=1e-6)
    gradients = [torch.autograd.grad(wav.square().sum(), latents)[0] for wav in (part, whole)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ratios", [[2, 2], [2, 4, 4, 8, 8], [8, 2]])
def test_the_decoders_reach_covers_all_latents_that_a_sample_depends_on(ratios):
    from diffusers import AutoencoderOobleck

    torch.manual_seed(0)
    vae = AutoencoderOobleck(
        encoder_hidden_size=1, downsampling_ratios=ratios, decoder_channels=1, audio_channels=1,
        decoder_input_channels=1, channel_multiples=[1] * len(ratios), sampling_rate=16,
    ).double()  # fmt: skip
    for parameter in vae.parameters():
        torch.nn.init.uniform_(parameter, 0.5, 1.0)
    reach = reach_of(ratios)
    middle = reach + 3
    latents = torch.randn(1, 1, 2 * middle + 1, dtype=torch.float64, requires_grad=True)
    wav = vae.decode(latents).sample[0, 0]
    for sample in (middle * vae.hop_length, (middle + 1) * vae.hop_length - 1):
        (gradient,) = torch.autograd.grad(wav[sample], latents, retain_graph=True)
        touched = gradient.flatten().nonzero()[:, 0]
        distance = max(middle - int(touched.min()), int(touched.max()) - middle)
        assert reach - 2 <= distance <= reach  # all of them, and little more


def test_what_is_compared_is_decoded_by_the_codecs_preview_if_it_has_one():
    pipe, heard = make_pipe(), []
    decode = pipe.vae.decode
    pipe.vae.preview = lambda latents: heard.append(1) or decode(latents)
    with guard(pipe, lambda step: (step.decode(step.cond), step.cond)[1]):
        pipe(PROMPTS[0], num_inference_steps=3, generator=torch.Generator().manual_seed(0))
    assert len(heard) == 3  # not for what the pipeline returns


def test_the_demo_codecs_preview_is_its_decode_in_fewer_iterations():
    from anechoic_lab.demo.codec import MelCodec

    codec = MelCodec(mean=-3.0, std=2.8)
    latents = torch.randn(2, 128, 32, generator=torch.Generator().manual_seed(0))
    preview = codec.preview(latents).sample
    whole = codec.decode(latents).sample
    assert preview.shape == whole.shape
    assert not torch.equal(preview, whole)
    codec.register_to_config(preview_iterations=codec.config.iterations)  # switched off
    assert torch.equal(codec.preview(latents).sample, whole)
