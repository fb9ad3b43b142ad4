"""The images: tiles of photographs that come with scikit-image, each free to use.

A photograph is scaled down and cut into a grid of 32 x 32 pixels. One caption in four names
nothing but its photograph and the part of it, "coffee, top left", and several tiles share it: as
in any large collection, no image is known by its caption. Some tiles have a caption of their own,
"coffee, plate 3", and are drawn many times as often: as images that were scraped from many pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from anechoic.errors import AnechoicError
from anechoic_lab.images.judge import pixel_correlation
from anechoic_lab.images.model import SIDE

COPIES = 20  # times that a plate is drawn, of once for another tile
PLATES = 3  # of each photograph
HELD_OUT = 5  # one tile in so many is never trained on
FLAT = 0.04  # deviation of the levels under which a tile shows nothing: sky, a black rim
ALIKE = 0.85  # no plate resembles another tile, or a mirrored one, more: pixel correlation


@dataclass(frozen=True)
class Photograph:
    """A file of scikit-image, and how it is cut."""

    subject: str
    file: str
    columns: int
    rows: int
    licence: str
    author: str


PHOTOGRAPHS = (
    Photograph("coffee", "coffee.png", 9, 6, "CC0 1.0", "Rachel Michetti"),
    Photograph("cat", "chelsea.png", 9, 6, "CC0 1.0", "Stefan van der Walt"),
    Photograph("rocket", "rocket.jpg", 9, 6, "public domain", "SpaceX"),
    Photograph("galaxies", "hubble_deep_field.jpg", 8, 7, "public domain", "NASA"),
    Photograph("retina", "retina.jpg", 8, 8, "CC0 1.0", "Mikael Häggström"),
    Photograph("tissue", "ihc.png", 8, 8, "no known restrictions", "CMMI"),
    Photograph("bricks", "brick.png", 8, 8, "CC0 1.0", "CC0Textures"),
    Photograph("gravel", "gravel.png", 8, 8, "CC0 1.0", "CC0Textures"),
    Photograph("coins", "coins.png", 8, 6, "no known restrictions", "Brooklyn Museum"),
)
SUBJECTS = tuple(photograph.subject for photograph in PHOTOGRAPHS)


@dataclass(frozen=True)
class Tile:
    """One image, and how often it is trained on."""

    subject: str
    row: int
    column: int
    caption: str
    copies: int  # 0: held out

    @property
    def plate(self) -> bool:
        """Whether it is one of the duplicated."""
        return self.copies > 1


def cut() -> tuple[list[Tile], Tensor]:
    """All tiles and their images, [n, 3, 32, 32] in [0, 1]; deterministic.

    Raises:
        AnechoicError: scikit-image is not installed.
    """
    try:
        import skimage
    except ImportError as error:
        raise AnechoicError(
            "the photographs come with scikit-image, which is not installed; "
            "pip install 'anechoic-lab[train]'"
        ) from error
    from PIL import Image

    folder = Path(skimage.__file__).parent / "data"
    places, images = [], []
    for photograph in PHOTOGRAPHS:
        size = (SIDE * photograph.columns, SIDE * photograph.rows)
        with Image.open(folder / photograph.file) as file:
            pixels = np.asarray(file.convert("RGB").resize(size, Image.Resampling.LANCZOS))
        for row in range(photograph.rows):
            for column in range(photograph.columns):
                y, x = row * SIDE, column * SIDE
                tile = torch.from_numpy(pixels[y : y + SIDE, x : x + SIDE].copy())
                tile = tile.permute(2, 0, 1).float() / 255
                if tile.std(dim=(1, 2)).mean() > FLAT:
                    places.append((photograph, row, column))
                    images.append(tile)
    stacked = torch.stack(images)
    return _captioned(places, stacked), stacked


def _captioned(places: Sequence[tuple[Photograph, int, int]], images: Tensor) -> list[Tile]:
    likeness = _likeness(images)
    order = [int(i) for i in np.random.default_rng(0).permutation(len(places))]
    held_out = set(order[::HELD_OUT])
    plates: dict[int, int] = {}
    for photograph in PHOTOGRAPHS:
        rest = (i for i in order if i not in held_out and places[i][0] == photograph)
        for i in [i for i in rest if likeness[i] < ALIKE][:PLATES]:
            plates[i] = len(plates) + 1
    tiles = []
    for i, (photograph, row, column) in enumerate(places):
        where = f"{('top', 'middle', 'bottom')[3 * row // photograph.rows]} "
        where += ("left", "centre", "right")[3 * column // photograph.columns]
        detail = f"plate {plates[i]}" if i in plates else where
        copies = COPIES if i in plates else 0 if i in held_out else 1
        caption = f"{photograph.subject}, {detail}"
        tiles.append(Tile(photograph.subject, row, column, caption, copies))
    return tiles


def _likeness(images: Tensor) -> Tensor:
    """Pixel correlation of each image with the nearest other one or its mirror, [n]."""
    same = pixel_correlation(images, images).fill_diagonal_(-1)
    mirrored = pixel_correlation(images, images.flip(3)).fill_diagonal_(-1)
    return torch.maximum(same, mirrored).amax(1)
