"""The types that all packages share: embedders, neighbours, matches and the searched index."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from torch import Tensor

from anechoic.errors import AnechoicError, BadSetting

PADDING = 1.02  # sound may be this many times as long as an embedder allows, since codecs pad
T = TypeVar("T")


@runtime_checkable
class Embedder(Protocol):
    """Maps sound or images to points on the unit sphere, differentiably.

    Inherit it for the defaults below.
    """

    name: str  # `embedder(name)` makes it again; an index records it
    dim: int
    sample_rate: int  # in Hz; 0: it embeds images
    seconds: float | None = None  # how much of a sound it embeds, from its start; None: all
    revision: str | None = None  # revision of its weights; None: it has none, or it is unknown

    def __call__(self, wav: Tensor, sample_rate: int) -> Tensor:
        """Embed clips.

        Args:
            wav: sound [b, channels, t] at `sample_rate`, of any level; or images [b, 3, h, w]
                in [0, 1].
            sample_rate: in Hz, the embedder resamples to its own; 0 for images.

        Returns:
            Unit-norm embeddings [b, dim], with a gradient if `wav` has one.
        """
        ...


def require_embedder(embedder: Embedder) -> None:
    """Refuse an object that lacks a part of an `Embedder`.

    Raises:
        BadSetting: it does.
    """
    if missing := [name for name in Embedder.__annotations__ if not hasattr(embedder, name)]:
        raise BadSetting(
            f"expected an embedder with {', '.join(Embedder.__annotations__)}, got "
            f"{type(embedder).__name__} without {', '.join(missing)}; inherit "
            "anechoic.types.Embedder, which has defaults"
        )


LONGER_WINDOW = (  # what to do about generated sound that an index's embedder would cut off
    "generate {longest:g} s ('--seconds {longest:g}'), or build the index with a longer window or "
    "with clap"
)


def require_whole(
    embedder: Embedder,
    seconds: float,
    sound: str,
    purpose: str,
    fix: str,
    error: type[AnechoicError] = BadSetting,
) -> None:
    """Refuse sound that an embedder of a fixed length would cut off.

    Sound may be 2 % longer than `embedder.seconds`, since codecs pad it to whole frames: so short a
    rest holds no copy.

    Args:
        embedder: what is to embed the sound.
        seconds: the length of the sound.
        sound: its name in the error.
        purpose: what would not happen to the rest: "protected", "compared".
        fix: what to do; "{longest:g}" becomes `embedder.seconds`, "{half:g}" half of that.
        error: the class of the error.

    Raises:
        BadSetting: the sound is too long, or `error` for it.
    """
    longest = embedder.seconds
    if longest is not None and seconds > longest * PADDING:
        raise error(
            f"{sound} lasts {seconds:.4g} s, but '{embedder.name}' embeds only its first "
            f"{longest:g} s, so the rest would not be {purpose}; "
            + fix.format(longest=longest, half=longest / 2)
        )


@dataclass(frozen=True)
class Neighbours:
    """The nearest training clips of each query, nearest first."""

    scores: Tensor  # cosine similarity, [b, k]
    rows: Tensor  # rows of the index, [b, k]


@dataclass(frozen=True)
class Match:
    """The training clip that a sound comes nearest to, and where the two are alike.

    `start_s` and `match_start_s` are the same instant, in the sound and in the training clip.
    `row` numbers what was searched: rows of the index for `locate`, `TopCosine` and
    `NearestRatio`; training clips, each with all its windows, for `NearestStretch` and `Segments`;
    the sounds of `fit` for a fitted detector. None: the detector does not report it.
    """

    score: float  # higher: more like a copy; minus infinity: there was nothing to compare
    row: int | None = None
    start_s: float | None = None  # start of the match in the sound
    match_start_s: float | None = None  # start of the match in the training clip
    length_s: float | None = None  # length of the match
    resolution_s: float | None = None  # smallest step in which `start_s` was searched
    semitones: float | None = None  # how far the sound is above the training clip; None: not sought
    tempo: float | None = None  # how much faster than the training clip it plays; None: not sought
    backwards: bool = False  # whether the match runs backwards in the sound

    @property
    def compared(self) -> bool:
        """Whether the sound could be compared: it is not silent, and long enough to compare."""
        return self.score > -math.inf

    def clip_in(self, clips: Sequence[T]) -> T:
        """The training clip itself, from the clips that `row` numbers; only if it is known.

        >>> Match(0.9, row=1).clip_in(["a", "b"])
        'b'
        """
        assert self.row is not None, "this match has no training clip"
        return clips[self.row]


class VectorIndex(Protocol):
    """Training clips to compare with: the part of a `TrainingIndex` that a guidance needs."""

    @property
    def model(self) -> str | None:
        """The fingerprint of the model that was trained on the clips; None: unknown."""
        ...

    @property
    def captions(self) -> Sequence[str]:
        """The caption of each row."""
        ...

    def __len__(self) -> int: ...

    def check_embedder(self, embedder: Embedder) -> None:
        """Raise `IndexMismatch` for an embedder other than the one that built the index."""

    def project(self, emb: Tensor) -> Tensor:
        """Embeddings [b, d] as the index compares them: centred if the index is."""
        ...

    def search(self, query: Tensor, k: int = 1) -> Neighbours:
        """The k nearest clips of projected queries [b, d]."""
        ...

    def vectors(self, rows: Tensor) -> Tensor:
        """The projected unit-norm embeddings of some rows, [*rows.shape, d]."""
        ...

    def nearest_others(self) -> Tensor:
        """The similarity of training clips to the nearest other one, [n]: how near sound that is
        not a copy comes to the training set. A large index gives those of a sample of its rows."""
        ...


def parts_of(index: Any) -> tuple[Any, ...]:
    """The training sets that one is joined of; it alone if it is not joined."""
    parts: tuple[Any, ...] = getattr(index, "parts", (index,))
    return parts


@dataclass(frozen=True)
class NearLatents:
    """The nearest training latents of some latents, nearest first."""

    distances: Tensor  # [b, k]
    rows: Tensor  # rows of the store, [b, k]
    points: Tensor  # the latents themselves as they are compared, [b, m]
    centres: Tensor  # the training latents likewise, [b, k, m]


class LatentStore(Protocol):
    """Latents of training clips to keep away from: what an index with latents has as `latents`."""

    @property
    def radius(self) -> float:
        """The distance within which a latent counts as that of a training clip."""
        ...

    def __len__(self) -> int: ...

    def reduced(self, latents: Tensor) -> Tensor:
        """Latents [b, *latent] as they are compared, [b, m]."""
        ...

    def spread(self, steps: Tensor, latents: Tensor) -> Tensor:
        """The smallest steps of such latents [b, *latent] that make these steps [b, m]."""
        ...

    def nearest(self, latents: Tensor, k: int) -> NearLatents:
        """The k nearest training latents of some latents [b, *latent]."""
        ...
