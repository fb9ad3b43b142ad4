"""The nouns that every room speaks: embedders, neighbours, the index that is searched."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

from torch import Tensor

from anechoic.errors import AnechoicError, BadSetting

PADDING = 1.02  # codecs pad to whole frames: what a sound may be longer than an embedder takes
T = TypeVar("T")


@runtime_checkable
class Embedder(Protocol):
    """Sound or images to a point on the unit sphere, differentiably."""

    name: str  # what `embedder(name)` makes again; it is recorded in an index
    dim: int
    sample_rate: int  # in Hz; 0: it embeds images

    def __call__(self, wav: Tensor, sample_rate: int) -> Tensor:
        """Embed clips.

        Args:
            wav: sound [b, channels, t] at `sample_rate`, of any level; or images [b, 3, h, w]
                in [0, 1].
            sample_rate: in Hz, the embedder resamples to its own; 0 of images.

        Returns:
            Unit-norm embeddings [b, dim], with a gradient if `wav` has one.
        """
        ...


def require_whole(
    embedder: Embedder,
    seconds: float,
    sound: str,
    purpose: str,
    fix: str,
    error: type[AnechoicError] = BadSetting,
) -> None:
    """Refuse sound that an embedder of a fixed length would cut off.

    Sound may be 2 % longer than the embedder takes, since codecs pad it to whole frames: so short a
    rest holds no copy.

    Args:
        embedder: embeds the first `embedder.seconds` of a sound; None: any length.
        seconds: how long the sound is.
        sound: what the error calls it.
        purpose: what would not happen to the rest: "protected", "compared".
        fix: what to do about it; "{longest:g}" in it are the seconds that the embedder
            takes, "{half:g}" half of them.
        error: the class of the error.

    Raises:
        BadSetting: the sound is too long, or `error` for it.
    """
    longest = getattr(embedder, "seconds", None)
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
    `row` counts what was searched: rows of an index for `locate`, `TopCosine` and `NearestRatio`;
    training clips, of which windows are one, for `NearestStretch` and `Segments`; the sounds that
    it was fitted to for a detector with `fit`. None: the detector does not tell.
    """

    score: float  # higher: more like a copy; minus infinity: there was nothing to compare
    row: int | None = None
    start_s: float | None = None  # of the match, in the sound
    match_start_s: float | None = None  # of the match, in the training clip
    length_s: float | None = None  # of the match
    resolution_s: float | None = None  # `start_s` was looked for in steps of so much

    @property
    def compared(self) -> bool:
        """Whether the sound could be compared: it sounds, and is long enough for the detector."""
        return self.score > -math.inf

    def clip_in(self, clips: Sequence[T]) -> T:
        """The training clip of a match that has one, of what `row` counts.

        >>> Match(0.9, row=1).clip_in(["a", "b"])
        'b'
        """
        assert self.row is not None, "this match has no training clip"
        return clips[self.row]


class VectorIndex(Protocol):
    """Training clips to compare with: what a guidance needs of a `TrainingIndex`."""

    @property
    def model(self) -> str | None:
        """The fingerprint of the model that was trained on the clips; None: it is not known."""
        ...

    @property
    def captions(self) -> Sequence[str]:
        """The caption of each row."""
        ...

    def __len__(self) -> int: ...

    def check_embedder(self, embedder: Embedder) -> None:
        """Raise `IndexMismatch` for an embedder other than the one that built the index."""

    def project(self, emb: Tensor) -> Tensor:
        """Embeddings [b, d] as the index compares them: centred, where it was built so."""
        ...

    def search(self, query: Tensor, k: int = 1) -> Neighbours:
        """The k nearest clips of projected queries [b, d]."""
        ...

    def vectors(self, rows: Tensor) -> Tensor:
        """The projected unit-norm embeddings of some rows, [*rows.shape, d]."""
        ...
