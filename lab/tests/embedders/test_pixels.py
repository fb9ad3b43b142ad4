"""What every image embedder does first, against Pillow."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from anechoic_lab.embedders.pixels import crop, prepare, resize, standardise
from PIL import Image

from anechoic.errors import BadSetting

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def noise(height: int, width: int) -> torch.Tensor:
    """The hardest image to scale: each of its 8-bit values is drawn by itself, [1, 3, h, w]."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (1, 3, height, width), generator=generator) / 255


def to_pillow(image: torch.Tensor) -> Image.Image:
    return Image.fromarray((image[0] * 255).round().byte().permute(1, 2, 0).numpy())


def of_pillow(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255


@pytest.mark.parametrize("mode", FILTERS)
@pytest.mark.parametrize("size", [(512, 512), (300, 451), (97, 64)])
def test_resizing_is_pillows_to_its_rounding(mode, size):
    image = noise(*size)
    ours = resize(image, 288, mode)
    height, width = ours.shape[-2:]
    stock = of_pillow(to_pillow(image).resize((width, height), FILTERS[mode]))
    # Pillow rounds to 8 bits after the width and after the height: at most one level, or so.
    torch.testing.assert_close(ours, stock, atol=1.2 / 255, rtol=0)


@pytest.mark.parametrize("size", [(512, 512), (300, 451), (97, 64)])
def test_without_rounding_resizing_is_pillows(size):
    image = noise(*size)
    ours = resize(image, 288, "bilinear")[0]
    height, width = ours.shape[-2:]
    for channel, plain in zip(ours, image[0], strict=True):
        stock = Image.fromarray(plain.numpy()).resize((width, height), FILTERS["bilinear"])
        # the weights of a filter are single precision there
        torch.testing.assert_close(channel, torch.from_numpy(np.array(stock)), atol=1e-4, rtol=0)


def test_an_image_of_the_right_size_is_left_as_it_is():
    image = noise(288, 300)
    assert torch.equal(resize(image, 288, "bicubic"), image)


def test_a_flat_image_stays_flat():
    flat = torch.full((1, 3, 31, 77), 0.25)
    assert (resize(flat, 288, "bicubic") - 0.25).abs().max() < 1e-6


def test_the_middle_is_cut_out_half_pixels_up_and_left():
    image = torch.arange(5.0 * 4).reshape(1, 1, 5, 4)
    assert crop(image, 2, 3)[0, 0].tolist() == [[4.0, 5.0, 6.0], [8.0, 9.0, 10.0]]


def test_standardising_by_an_images_own_moments_leaves_mean_0_and_deviation_1():
    image = noise(16, 16)
    mean, std = image.mean((0, 2, 3)).tolist(), image.std((0, 2, 3)).tolist()
    after = standardise(image, mean, std)
    torch.testing.assert_close(after.mean((0, 2, 3)), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(after.std((0, 2, 3)), torch.ones(3))


def test_half_precision_is_raised_and_double_is_kept():
    image = noise(4, 4)
    assert prepare(image.bfloat16(), 0).dtype == torch.float32
    assert prepare(image.double(), 0).dtype == torch.float64


@pytest.mark.parametrize(
    ("images", "sample_rate"),
    [
        (torch.zeros(1, 3, 8), 0),
        (torch.zeros(1, 1, 8), 44_100),
        (torch.zeros(1, 3, 8, 8), 16_000),
        (torch.zeros(1, 4, 8, 8), 0),
        (torch.zeros(0, 3, 8, 8), 0),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), 0),
        (torch.full((1, 3, 8, 8), 255.0), 0),
        (torch.full((1, 3, 8, 8), -1.0), 0),
        (torch.full((1, 3, 8, 8), math.nan), 0),
    ],
)
def test_what_is_no_image_is_refused_in_one_sentence(images, sample_rate):
    with pytest.raises(BadSetting, match=r"^expected images .*, got .*; "):
        prepare(images, sample_rate)
