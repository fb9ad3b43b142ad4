"""Builds of an index from seeded noise."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from anechoic.errors import IndexMismatch
from anechoic.index.build import Work
from anechoic.index.embedding import Windows
from anechoic.index.manifest import About
from anechoic.index.sources.protocol import Item
from anechoic.types import Embedder

DIM = 24


@dataclass(frozen=True)
class Bands(Embedder):
    """A descriptor by its papers only: the energy of bands."""

    name: str = "bands"
    dim: int = DIM
    sample_rate: int = 8000
    pause_s: float = 0.0  # a batch takes so much longer

    def __call__(self, wav: Tensor, sample_rate: int) -> Tensor:
        time.sleep(self.pause_s)
        spectrum = torch.fft.rfft(wav.mean(1)).abs()
        bands = torch.nn.functional.adaptive_avg_pool1d(spectrum[:, None], self.dim)[:, 0]
        return torch.nn.functional.normalize(bands, dim=1)


@dataclass(frozen=True)
class Noise:
    """A unit of seeded noise."""

    key: str
    first: int
    count: int
    bad: int | None = None  # a clip whose file is broken

    @property
    def identity(self) -> str:
        return f"{self.first}+{self.count}"

    def items(self, start: int = 0) -> Iterator[Item]:
        for number in range(self.first + start, self.first + self.count):
            yield Item(f"n{number}", f"noise {number}", None, {"licence": "CC0-1.0"},
                       lambda number=number: self._read(number))  # fmt: skip

    def _read(self, number: int) -> tuple[Tensor, int]:
        if number == self.bad:
            raise IndexMismatch("the drive is gone")
        drawn = torch.randn(1, 800, generator=torch.Generator().manual_seed(number))
        return drawn.cumsum(1) if number % 3 else drawn, 8000


@dataclass(frozen=True)
class Source:
    """Noise in units."""

    sizes: tuple[int, ...] = (7, 12, 4)
    name: str = "noise"
    embedder_name: str | None = None
    clips_folder: str | None = None
    bad: int | None = None
    offset: int = 0

    @property
    def total(self) -> int:
        return sum(self.sizes)

    def units(self) -> Sequence[Noise]:
        firsts = np.cumsum([self.offset, *self.sizes]).tolist()
        return [
            Noise(f"u{i}", first, size, self.bad)
            for i, (first, size) in enumerate(zip(firsts, self.sizes, strict=False))
        ]


ABOUT = About("bands", 8000)


def work(folder: Path | str, **changes: object) -> Work:
    return Work(
        **{"folder": str(folder), "embedder": Bands, "windows": Windows(), "clips": 5, **changes}
    )


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }
