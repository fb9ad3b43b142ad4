"""GUARD: its attenuation against one written out, its formula, and what it refuses."""

import math

import pytest
import torch
from anechoic_lab.guidance import AttentionAttenuation
from anechoic_lab.guidance.attenuation import NO_WORDS, outlying
from support.pipelines import (
    CASES,
    alive,
    make_pipe,
    make_stable_diffusion,
    make_stable_diffusion_3,
    require_alone_as_together,
)

from anechoic import guard
from anechoic.errors import BadSetting, GuardError
from anechoic.guidance import ClassifierFree

SETTINGS = {"depth": 1.0, "threshold": 0.3, "factor": 0.2, "scale": 7.0}


class WrittenOut:
    """Cross-attention as the released code of GUARD has it, for a U-Net."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **_):
        q, k, v = (
            project(states).unflatten(2, (attn.heads, -1)).transpose(1, 2)
            for project, states in (
                (attn.to_q, hidden_states),
                (attn.to_k, encoder_hidden_states),
                (attn.to_v, encoder_hidden_states),
            )
        )
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        greatest = scores.amax(2)
        mean, std = greatest[..., 1:].mean(-1), greatest[..., 1:].std(-1)
        loud = greatest > (mean + SETTINGS["threshold"] * (std + 1e-6))[..., None]
        loud[..., 0] = False
        scores = torch.where(loud[:, :, None], scores * SETTINGS["factor"], scores)
        return attn.to_out[0]((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


def generate_images(pipe, prompt=("low cello note", "a dog barks"), **more):
    return CASES["StableDiffusionPipeline"].generate(pipe, prompt, **more)


def test_the_attenuated_estimate_is_that_of_scores_written_out():
    pipe = alive(make_stable_diffusion())
    method = AttentionAttenuation(pipe.unet, repulsion=1.5, **SETTINGS)
    with guard(pipe, method) as trace:
        made = generate_images(pipe)
    assert all(0 < share < 1 for share in trace.records[0].notes["attenuated"])
    assert [record.passes for record in trace.records] == [3.0] * 3

    layers = [layer for name, layer in pipe.unet.named_modules() if name.endswith("attn2")]
    plain = [layer.processor for layer in layers]

    def written_out(step):
        for layer in layers:
            layer.set_processor(WrittenOut())
        attenuated = step.denoise(step.x, "cond")
        for layer, processor in zip(layers, plain, strict=True):
            layer.set_processor(processor)
        away = 1.5 * math.cos(step.progress * math.pi / 2) * (step.cond - step.uncond)
        return step.uncond + 7.0 * (attenuated - step.uncond) - away

    with guard(pipe, written_out):
        expected = generate_images(pipe)
    torch.testing.assert_close(made, expected, rtol=1e-3, atol=1e-3)


def test_where_nothing_stands_out_it_is_plain_guidance(pipe, generate):
    method = AttentionAttenuation(pipe.transformer, scale=7.0, repulsion=0.0, threshold=1e9)
    with guard(pipe, ClassifierFree(7.0)):
        plain = generate(pipe)
    with guard(pipe, method) as trace:
        torch.testing.assert_close(generate(pipe), plain, rtol=1e-3, atol=1e-3)
    assert (trace.column("attenuated") == 0).all()


def test_it_acts_on_stable_audio_and_each_sample_by_itself(pipe, generate):
    with guard(pipe, ClassifierFree(7.0)):
        plain = generate(pipe)
    method = AttentionAttenuation(pipe.transformer, **SETTINGS)
    with guard(pipe, method) as trace:
        assert not torch.allclose(generate(pipe), plain, rtol=1e-2, atol=1e-2)
    assert (trace.column("attenuated") > 0).any()
    require_alone_as_together(method, pipe, generate)


def test_the_network_is_left_as_it_was(pipe, generate):
    method = AttentionAttenuation(pipe.transformer, **SETTINGS)
    with guard(pipe, method):
        generate(pipe)
    assert not any(module._forward_hooks for module in pipe.transformer.modules())


def test_depth_takes_the_first_attentions_of_a_pass():
    unet = make_stable_diffusion().unet
    names = {layer: name for name, layer in unet.named_modules()}

    def taken(depth):
        method = AttentionAttenuation(unet, depth=depth)
        return [names[layer].partition(".")[0] for layer in method._layers]

    assert taken(0.25) == ["down_blocks"]
    assert taken(1.0) == ["down_blocks", "mid_block", "up_blocks", "up_blocks"]


def test_ends_that_are_no_words_are_left_alone():
    generator = torch.Generator().manual_seed(0)
    queries, keys = (torch.randn(1, 4, n, 8, generator=generator) for n in (5, 6))
    keys[:, :, 0] *= 100
    keys[:, :, -1] *= 100
    loud = outlying(queries, keys, 0.0, first=1, last=1)
    assert not loud[..., 0].any()
    assert not loud[..., -1].any()
    assert loud.any()
    shared = outlying(queries, keys[:, ::2], 0.0, first=1, last=1)
    assert shared.shape == (1, 2, 6)


def test_another_network_is_refused(pipe, generate):
    with pytest.raises(BadSetting, match="got SD3Transformer2DModel"):
        AttentionAttenuation(make_stable_diffusion_3().transformer)
    with pytest.raises(BadSetting, match="got Linear"):
        AttentionAttenuation(torch.nn.Linear(2, 2))
    other = AttentionAttenuation(make_pipe().transformer)
    with pytest.raises(GuardError, match="was not evaluated"), guard(pipe, other):
        generate(pipe)
    assert set(NO_WORDS) == {"UNet2DConditionModel", "StableAudioDiTModel"}


def test_a_compiled_network_is_refused(pipe):
    with pytest.raises(BadSetting, match="is compiled"):
        AttentionAttenuation(torch.compile(pipe.transformer))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"repulsion": -1.0}, "repulsion of 0"),
        ({"factor": 1.0}, "factor of 0 or more and below 1"),
        ({"threshold": -0.1}, "threshold of 0"),
        ({"depth": 0.0}, "depth, a share"),
        ({"scale": 1.0}, "scale above 1"),
    ],
)
def test_a_setting_out_of_range_is_refused(given, says, pipe):
    with pytest.raises(BadSetting, match=says):
        AttentionAttenuation(pipe.transformer, **given)


def test_the_scale_is_told_as_what_is_left_of_it(pipe, generate):
    method = AttentionAttenuation(pipe.transformer, scale=7.0, repulsion=2.0)
    with guard(pipe, method) as trace:
        generate(pipe)
    assert trace.column("scale")[0].tolist() == pytest.approx([5.0, 5.0])
