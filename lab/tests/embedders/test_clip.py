"""Clip against the stock processor and model of transformers, on a tiny random CLIP."""

from __future__ import annotations

import shutil

import pytest
import torch
from anechoic_lab.embedders.clip import ClipEmbedder
from PIL import Image
from support import embedder_models as models
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPVisionModelWithProjection

from anechoic.embedders import embedder
from anechoic.errors import UnknownEmbedder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return models.save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def clip(folder):
    return ClipEmbedder(str(folder))


def picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Soft blobs in 8-bit colours, [1, 3, h, w]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 6, 6, generator=generator)
    soft = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    return (soft * 255).round() / 255


def stock_pixels(folder, image: torch.Tensor) -> torch.Tensor:
    pillow = Image.fromarray((image[0] * 255).round().byte().permute(1, 2, 0).numpy())
    processor = CLIPImageProcessorPil.from_pretrained(folder)
    return processor(pillow, return_tensors="pt")["pixel_values"]


@pytest.mark.parametrize("size", [(64, 64), (48, 81), (97, 40), (32, 32), (20, 31)])
def test_the_front_end_is_the_stock_processor_to_its_rounding(clip, folder, size):
    image = picture(*size)
    # One level of 8 bits, or so, over the smallest deviation of a channel.
    atol = 1.2 / 255 / 0.26
    torch.testing.assert_close(clip.features(image), stock_pixels(folder, image), atol=atol, rtol=0)


def test_an_image_of_the_networks_size_embeds_as_in_the_stock_model(clip, folder):
    image = picture(32, 32)
    pixels = stock_pixels(folder, image)
    stock = CLIPModel.from_pretrained(folder).eval().get_image_features(pixels).pooler_output
    stock = torch.nn.functional.normalize(stock)
    torch.testing.assert_close(clip(image), stock, atol=1e-4, rtol=0)
    assert (clip(picture(32, 32, seed=1)) * stock).sum() < 0.99


def test_captions_embed_as_in_the_stock_model(clip, folder):
    captions = ["a dog barks", "two cats", "a very long caption about rain " * 20]
    emb = clip.text(captions)
    tokens = clip._text[1](captions, padding=True, truncation=True, return_tensors="pt")
    stock = CLIPModel.from_pretrained(folder).eval().get_text_features(**tokens).pooler_output
    torch.testing.assert_close(emb, torch.nn.functional.normalize(stock))
    assert (emb[0] * emb[1]).sum() < 0.99


def test_an_image_tower_alone_embeds_images_and_refuses_captions(clip, folder, tmp_path):
    tower = CLIPVisionModelWithProjection.from_pretrained(folder, config=clip._model.config)
    tower.save_pretrained(tmp_path)
    shutil.copy(folder / "preprocessor_config.json", tmp_path)
    alone = ClipEmbedder(str(tmp_path))
    assert alone.revision == clip.revision
    seen = picture(40, 40)  # to the last bit or so: sums depend on where weights lie in memory
    torch.testing.assert_close(alone(seen), clip(seen), atol=1e-6, rtol=0)
    with pytest.raises(UnknownEmbedder, match=r"^expected text tower .*, got none; name"):
        alone.text(["a dog"])


def test_the_name_makes_the_same_embedder_again(clip):
    again = embedder(clip.name)
    assert (again.name, again.revision, again.dim) == (clip.name, clip.revision, 24)


@pytest.mark.parametrize(
    "settings",
    [
        {"size": {"height": 32, "width": 32}},
        {"do_center_crop": False},
        {"resample": 0},
        {"crop_size": {"height": 40, "width": 40}},
    ],
)
def test_a_processor_that_does_something_else_is_refused(folder, tmp_path, settings):
    shutil.copytree(folder, tmp_path / "clip")
    stock = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    CLIPImageProcessorPil(**(stock | settings)).save_pretrained(tmp_path / "clip")
    with pytest.raises(UnknownEmbedder, match=r"^expected an image processor .*, got .*; take"):
        ClipEmbedder(str(tmp_path / "clip"))


def test_a_model_of_another_kind_is_refused(tmp_path):
    models.save_clap(tmp_path)
    with pytest.raises(UnknownEmbedder, match=r"^expected a CLIP, got a model of type 'clap' .*; "):
        ClipEmbedder(str(tmp_path))
