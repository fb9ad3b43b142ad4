"""Nearest training clip by the cosine of whole-clip embeddings, and how much nearer it is than
the next ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from anechoic.detectors.protocol import NOTHING, Finding
from anechoic.detectors.sound import is_silent, mono
from anechoic.errors import BadSetting
from anechoic.types import Embedder, Neighbours, VectorIndex

TOLERANCE = 1.02  # coders pad: a clip may be so much longer than an embedder hears


@dataclass(frozen=True, eq=False)
class TopCosine:
    """Cosine similarity of a clip to its nearest training clip.

        s = max_j <E(clip), e_j>

    A clip of any length is compared; the silent one is not.

    Raises:
        IndexMismatch: another embedder built the index.
        BadSetting: an index of windows.

    Source: Somepalli et al., 2023 (arXiv:2212.03860).
    """

    index: VectorIndex  # of whole clips
    embedder: Embedder

    def __post_init__(self) -> None:
        self.index.check_embedder(self.embedder)
        _require_whole_clips(self.index)

    @property
    def name(self) -> str:
        return f"cosine ({self.embedder.name})"

    def __call__(self, wav: Tensor, sample_rate: int) -> list[Finding]:
        """One finding a clip [b, c, t]; the row is that of the index.

        Raises:
            BadAudio: not usable sound.
            BadSetting: clips longer than the embedder hears.
        """
        near = nearest(wav, sample_rate, self.index, self.embedder, 1)
        return [
            NOTHING if one is None else Finding(min(one.scores[0, 0].item(), 1.0), _row(one))
            for one in near
        ]


@dataclass(frozen=True, eq=False)
class NearestRatio:
    """Distance to the nearest training clip, as a share of that to the clips around it.

        s = 1 - d_1 / (alpha * mean(d_1 ... d_k)),    d_j = ||E(clip) - e_j||

    A clip in a crowded corner of the training set is near to many; a copy is much nearer to one.
    Above 0 the paper calls a clip extracted.

    Raises:
        IndexMismatch: another embedder built the index.
        BadSetting: k below 2, an alpha that is not positive, or an index of windows or with fewer
            rows than k.

    Source: Carlini et al., 2023 (arXiv:2301.13188), alpha = 0.5 and k = 50.
    """

    index: VectorIndex
    embedder: Embedder
    k: int = 50
    alpha: float = 0.5

    def __post_init__(self) -> None:
        self.index.check_embedder(self.embedder)
        _require_whole_clips(self.index)
        if not 2 <= self.k <= len(self.index) or not self.alpha > 0:
            raise BadSetting(
                f"k from 2 to the {len(self.index)} rows of the index and an alpha above 0 were "
                f"expected, got k = {self.k} and alpha = {self.alpha:g}; change them"
            )

    @property
    def name(self) -> str:
        return f"nearest ratio ({self.embedder.name}, k={self.k}, alpha={self.alpha:g})"

    def __call__(self, wav: Tensor, sample_rate: int) -> list[Finding]:
        """One finding a clip [b, c, t]; the row is that of the index.

        Raises:
            BadAudio: not usable sound.
            BadSetting: clips longer than the embedder hears.
        """
        near = nearest(wav, sample_rate, self.index, self.embedder, self.k)
        return [NOTHING if one is None else Finding(self._score(one), _row(one)) for one in near]

    def _score(self, near: Neighbours) -> float:
        distances = (2 - 2 * near.scores[0].double()).clamp_min(0.0).sqrt()
        around = self.alpha * distances.mean()
        # all of the k are the clip itself, to rounding: a copy of a clip with so many duplicates
        return 1.0 - (distances[0] / around).item() if around > 1e-6 else 1.0


def nearest(
    wav: Tensor, sample_rate: int, index: VectorIndex, embedder: Embedder, k: int
) -> list[Neighbours | None]:
    """The k nearest rows of each clip [b, c, t]; None for a silent one.

    Raises:
        BadAudio: not usable sound.
        BadSetting: clips longer than the embedder hears.
    """
    heard = mono(wav, sample_rate)
    longest, seconds = getattr(embedder, "seconds", None), heard.shape[1] / sample_rate
    if longest is not None and seconds > longest * TOLERANCE:
        raise BadSetting(
            f"clips of {seconds:.2f} s were given, and '{embedder.name}' hears {longest:g} s at a "
            "time; search by segments, over an index of windows"
        )
    found: list[Neighbours | None] = []
    for clip in heard:
        if is_silent(clip):
            found.append(None)
            continue
        with torch.no_grad():  # one at a time: what stands beside a clip must not change a bit
            emb = index.project(embedder(clip[None, None], sample_rate))
        found.append(index.search(emb, k))
    return found


def _require_whole_clips(index: VectorIndex) -> None:
    if (window_s := getattr(index, "window_s", None)) is not None:
        raise BadSetting(
            f"whole clips are compared, and this index holds windows of {window_s:g} s; search by "
            "segments, or build an index without '--window'"
        )


def _row(near: Neighbours) -> int:
    return int(near.rows[0, 0])
