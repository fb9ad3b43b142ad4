"""What every embedder promises, over all that can be built here, and how they are found by name."""

from __future__ import annotations

import importlib.util
import math
from importlib.metadata import EntryPoint, entry_points

import pytest
import torch
from anechoic_lab.embedders.aisfx import Aisfx
from anechoic_lab.embedders.clip import ClipEmbedder
from anechoic_lab.embedders.sscd import SSCD
from support import embedder_models as models

from anechoic.embedders import GROUP, embedder
from anechoic.embedders.clap import Clap
from anechoic.embedders.magmel import MagMel
from anechoic.errors import BadAudio, BadSetting, UnknownEmbedder
from anechoic.types import Embedder

RATE = 22_050
OF_SOUND = ["magmel", "magmel, 2 s", "clap", "clap, fused", "aisfx"]
OF_IMAGES = ["clip", "sscd"]


@pytest.fixture(scope="module", params=[*OF_SOUND, *OF_IMAGES])
def embed(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    match request.param:
        case "magmel":
            return MagMel()
        case "magmel, 2 s":
            return MagMel(seconds=2.0)
        case "clap" | "clap, fused" as kind:
            return Clap(str(models.save_clap(folder, fused=kind != "clap")))
        case "aisfx":
            if importlib.util.find_spec("aisfx") is None:
                pytest.skip("the weights are not installed: pip install --no-deps aisfx")
            return Aisfx()
        case "clip":
            return ClipEmbedder(str(models.save_clip(folder)))
        case "sscd":
            return SSCD(str(models.save_sscd(folder / "sscd.pt")))


def sounds() -> torch.Tensor:
    """A plucked tone and a burst of noise, stereo, [2, 2, t]."""
    time = torch.arange(RATE) / RATE
    pluck = torch.sin(2 * math.pi * 330 * time) * torch.exp(-3 * time)
    burst = torch.randn(RATE, generator=torch.Generator().manual_seed(0)) * torch.exp(-9 * time)
    return torch.stack([pluck, 0.05 * burst])[:, None].repeat(1, 2, 1)


def images() -> torch.Tensor:
    """A shading and a chequered pattern, [2, 3, h, w]."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 40), torch.linspace(0, 1, 56), indexing="ij")
    shading = torch.stack([x, y, 1 - x])
    chequered = ((6 * x).floor() + (6 * y).floor()).remainder(2).expand(3, -1, -1)
    return 0.1 + 0.8 * torch.stack([shading, chequered])


@pytest.fixture(scope="module")
def two(embed) -> torch.Tensor:
    """Two things to embed, at the rate `rate`."""
    return sounds() if embed.sample_rate else images()


@pytest.fixture(scope="module")
def rate(embed) -> int:
    return RATE if embed.sample_rate else 0


def blank(embed) -> torch.Tensor:
    """Silence, or black."""
    return torch.zeros(1, 1, RATE) if embed.sample_rate else torch.zeros(1, 3, 40, 40)


def test_an_embedding_is_a_point_on_the_unit_sphere(embed, two, rate):
    assert isinstance(embed, Embedder)
    emb = embed(two, rate)
    assert emb.shape == (2, embed.dim)
    assert emb.dtype == torch.float32
    torch.testing.assert_close(emb.norm(dim=1), torch.ones(2))


def test_a_batch_of_two_is_two_batches_of_one(embed, two, rate):
    alone = torch.cat([embed(two[:1], rate), embed(two[1:], rate)])
    torch.testing.assert_close(embed(two, rate), alone, atol=1e-5, rtol=0)
    assert (alone[0] * alone[1]).sum() < 0.99  # or the claim would be empty


def test_the_level_of_sound_does_not_matter(embed, two, rate):
    if embed.sample_rate:
        torch.testing.assert_close(embed(two * 1e-3, rate), embed(two, rate), atol=1e-3, rtol=0)


def test_the_same_thing_gives_the_same_bits(embed, two, rate):
    assert torch.equal(embed(two, rate), embed(two, rate))


def test_the_gradient_reaches_what_is_embedded_and_climbs(embed, two, rate):
    target = embed(two[1:], rate)
    one = two[:1].clone().requires_grad_()
    score = (embed(one, rate) * target).sum()
    (grad,) = torch.autograd.grad(score, one)
    assert grad.isfinite().all()
    climbed = (embed(one + 1e-3 * grad / grad.abs().max(), rate) * target).sum()
    assert climbed > score


def test_what_is_blank_is_finite_in_value_and_gradient(embed, rate):
    one = blank(embed).requires_grad_()
    emb = embed(one, rate)
    assert emb.isfinite().all()
    (grad,) = torch.autograd.grad(emb.sum(), one)
    assert grad.isfinite().all()


def test_what_was_made_in_inference_mode_still_carries_gradients(embed, two, rate):
    rate = 32_000 if rate else 0  # of this test alone: its resampling kernel is made inside
    with torch.inference_mode():
        embed(two, rate)
    one = two.clone().requires_grad_()
    embed(one, rate).sum().backward()
    assert one.grad is not None


def test_sound_of_any_length_and_images_of_any_size_are_embedded(embed, rate):
    shapes = [(1, 1, 1), (1, 1, 700), (1, 1, 3 * RATE)]
    if not embed.sample_rate:
        shapes = [(1, 3, 1, 1), (1, 3, 30, 77), (1, 3, 512, 512)]
    for shape in shapes:
        some = torch.rand(shape, generator=torch.Generator().manual_seed(1))
        assert embed(some, rate).isfinite().all()


def test_half_precision_is_nearly_the_same_point(embed, two, rate):
    assert (embed(two.half(), rate) * embed(two, rate)).sum(1).min() > 0.99


def test_sound_for_images_and_images_for_sound_are_refused(embed):
    other = (images(), 0) if embed.sample_rate else (sounds(), RATE)
    with pytest.raises((BadAudio, BadSetting), match=r"^expected .*, got .*; "):
        embed(*other)


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


class Plain(Embedder):
    name, dim, sample_rate = "plain", 1, 8000

    def __call__(self, wav, sample_rate):
        return torch.ones(len(wav), 1)


def add_plugin(monkeypatch):
    class Point(EntryPoint):
        def load(self):
            return Plain

    points = [Point("plain", "somewhere:Plain", "anechoic.embedders")]
    monkeypatch.setattr("anechoic.embedders.entry_points", lambda group: points)
