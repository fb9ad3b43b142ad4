"""What every embedder promises, over all that can be built here, and how they are found by name."""

from __future__ import annotations

import importlib.util
import math
from importlib.metadata import EntryPoint, entry_points

import pytest
import torch
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

from anechoic.embed import GROUP, embedder
from anechoic.embed.aisfx import Aisfx
from anechoic.embed.clap import Clap
from anechoic.embed.magmel import MagMel
from anechoic.errors import UnknownEmbedder
from anechoic.types import Embedder

RATE = 22_050


def tiny_clap(folder):
    torch.manual_seed(0)
    text = {"vocab_size": 10, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    audio = {"patch_embeds_hidden_size": 8, "hidden_size": 64, "depths": [1, 1, 1, 1]}
    audio |= {"num_attention_heads": [1, 1, 2, 2], "initializer_factor": 10.0}
    ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=16)).save_pretrained(
        folder
    )
    ClapFeatureExtractor(truncation="rand_trunc").save_pretrained(folder)
    return Clap(str(folder))


@pytest.fixture(scope="module", params=["magmel", "magmel, 2 s", "clap", "aisfx"])
def embed(request, tmp_path_factory):
    if request.param == "clap":
        return tiny_clap(tmp_path_factory.mktemp("clap"))
    if request.param == "aisfx":
        if importlib.util.find_spec("aisfx") is None:
            pytest.skip("the weights are not installed: pip install --no-deps aisfx")
        return Aisfx()
    return MagMel() if request.param == "magmel" else MagMel(seconds=2.0)


@pytest.fixture(scope="module")
def sounds() -> torch.Tensor:
    """A plucked tone and a burst of noise, stereo, [2, 2, t]."""
    time = torch.arange(RATE) / RATE
    pluck = torch.sin(2 * math.pi * 330 * time) * torch.exp(-3 * time)
    burst = torch.randn(RATE, generator=torch.Generator().manual_seed(0)) * torch.exp(-9 * time)
    return torch.stack([pluck, 0.05 * burst])[:, None].repeat(1, 2, 1)


def test_an_embedding_is_a_point_on_the_unit_sphere(embed, sounds):
    assert isinstance(embed, Embedder)
    emb = embed(sounds, RATE)
    assert emb.shape == (2, embed.dim)
    assert emb.dtype == torch.float32
    torch.testing.assert_close(emb.norm(dim=1), torch.ones(2))


def test_a_batch_of_two_is_two_batches_of_one(embed, sounds):
    alone = torch.cat([embed(sounds[:1], RATE), embed(sounds[1:], RATE)])
    torch.testing.assert_close(embed(sounds, RATE), alone, atol=1e-5, rtol=0)
    assert (alone[0] * alone[1]).sum() < 0.99  # or the claim would be empty


def test_the_level_does_not_matter(embed, sounds):
    torch.testing.assert_close(embed(sounds * 1e-3, RATE), embed(sounds, RATE), atol=1e-3, rtol=0)


def test_the_same_sound_gives_the_same_bits(embed, sounds):
    assert torch.equal(embed(sounds, RATE), embed(sounds, RATE))


def test_the_gradient_reaches_the_sound_and_climbs(embed, sounds):
    target = embed(sounds[1:], RATE)
    wav = sounds[:1].clone().requires_grad_()
    score = (embed(wav, RATE) * target).sum()
    (grad,) = torch.autograd.grad(score, wav)
    assert grad.isfinite().all()
    climbed = (embed(wav + 1e-3 * grad / grad.abs().max(), RATE) * target).sum()
    assert climbed > score


def test_silence_is_finite_in_value_and_gradient(embed):
    wav = torch.zeros(1, 1, RATE, requires_grad=True)
    emb = embed(wav, RATE)
    assert emb.isfinite().all()
    (grad,) = torch.autograd.grad(emb.sum(), wav)
    assert grad.isfinite().all()


def test_what_was_made_in_inference_mode_still_carries_gradients(embed, sounds):
    rate = 32_000  # of this test alone: its resampling kernel is made inside
    with torch.inference_mode():
        embed(sounds, rate)
    wav = sounds.clone().requires_grad_()
    embed(wav, rate).sum().backward()
    assert wav.grad is not None


def test_sound_of_any_length_is_embedded(embed):
    for samples in (1, 700, 3 * RATE):
        wav = torch.randn(1, 1, samples, generator=torch.Generator().manual_seed(1))
        assert embed(wav, RATE).isfinite().all()


@pytest.mark.parametrize("name", ["magmel", "magmel:seconds=2.0"])
def test_a_name_makes_the_same_embedder_again(name):
    assert embedder(name).name == name


@pytest.mark.parametrize("point", entry_points(group=GROUP), ids=lambda point: point.name)
def test_every_registered_name_leads_to_an_embedder_with_its_source_cited(point):
    made = point.load()
    assert callable(made)
    assert "Source: " in (made.__doc__ or "")


@pytest.mark.parametrize("name", ["mfcc", "", "Magmel", "plain:source"])
def test_an_unknown_name_is_refused_in_one_sentence(name, monkeypatch):
    add_plugin(monkeypatch)
    with pytest.raises(UnknownEmbedder, match=r"^expected .*, got .*; "):
        embedder(name)


def test_a_plugin_comes_through_the_same_door(monkeypatch):
    add_plugin(monkeypatch)
    assert isinstance(embedder("plain"), Plain)


class Plain:
    name, dim, sample_rate = "plain", 1, 8000

    def __call__(self, wav, sample_rate):
        return torch.ones(len(wav), 1)


def add_plugin(monkeypatch):
    class Point(EntryPoint):
        def load(self):
            return Plain

    points = [Point("plain", "somewhere:Plain", "anechoic.embedders")]
    monkeypatch.setattr("anechoic.embed.entry_points", lambda group: points)
