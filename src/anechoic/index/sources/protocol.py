"""What every source of training clips offers, so that the builder need not know where from."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from anechoic.index.clips import Clip


@dataclass(frozen=True)
class Item:
    """A training clip whose sound is not decoded yet."""

    id: str
    caption: str
    path: str | None  # relative to the source's `clips_folder`
    info: Mapping[str, str]
    read: Callable[[], tuple[Tensor, int]]  # wav [c, t] and its rate; thread-safe; BadAudio


@dataclass(frozen=True)
class Columns:
    """Names of a table's columns; None means the usual names."""

    audio: str | None = None
    caption: str | None = None
    id: str | None = None
    embedding: str | None = None


@runtime_checkable
class Unit(Protocol):
    """A stretch of a source that is read in one go, perhaps elsewhere.

    A frozen dataclass that can be pickled: another process or machine may read it.
    """

    @property
    def key(self) -> str:
        """Unique in the source, safe as a file name, the same from run to run."""

    @property
    def identity(self) -> str:
        """SHA-256 of what fixes its order and content, found without decoding."""

    def items(self, start: int = 0) -> Iterator[Item]:
        """The clips in their order, without the first `start`, which are not decoded."""


@runtime_checkable
class VectorUnit(Protocol):
    """A stretch of a source of embeddings that were made elsewhere."""

    @property
    def key(self) -> str:
        """Unique in the source, safe as a file name, the same from run to run."""

    @property
    def identity(self) -> str:
        """SHA-256 of what fixes its order and content, found without decoding."""

    def rows(self, start: int = 0) -> Iterator[tuple[Clip, np.ndarray]]:
        """Clips and their embeddings, unit norm, float32 [d], without the first `start`."""


@runtime_checkable
class Source(Protocol):
    """Training clips, or their embeddings."""

    @property
    def name(self) -> str:
        """What errors and the manifest call it."""

    @property
    def embedder_name(self) -> str | None:
        """What made the embeddings, where a source of embeddings tells it."""

    @property
    def clips_folder(self) -> str | None:
        """Where the clips' paths start, if they are files."""

    @property
    def total(self) -> int | None:
        """Clips in all, where that is known without reading them."""

    def units(self) -> Sequence[Unit] | Sequence[VectorUnit]:
        """All units, in the order of the clips."""


def unit_key(number: int, name: str) -> str:
    """A key for the unit of this number that shows its name, whatever characters that has.

    >>> unit_key(7, "deep/shard 0.tar")
    '00007-deep-shard-0.tar'
    """
    return f"{number:05d}-{re.sub(r'[^A-Za-z0-9._]+', '-', name)[-60:].strip('-.')}"


def digest(parts: Iterable[Any]) -> str:
    """SHA-256 of some values as they are printed, each kept apart from the next."""
    out = hashlib.sha256()
    for part in parts:
        out.update(repr(part).encode("utf-8", "surrogateescape") + b"\n")
    return out.hexdigest()
