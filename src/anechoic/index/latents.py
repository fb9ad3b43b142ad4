"""Latents of training clips: points in a network's own space, compared by their distance.

The latents of an index are an index themselves, in its folder `latents`: built, hashed, searched
and withdrawn as its embeddings are. A latent of more than `LARGE` numbers is reduced to blockwise
means, each multiplied by the root of its block's length. This map has orthonormal rows: it
lengthens no distance, and the smallest step of a reduced latent is the same one spread over the
blocks.

An index compares unit vectors. For points of dimension m, with y = z / sqrt(m),

    v(z) = (y, |y|^2 / 2, c) / M      with c so that |v| = 1
    q(x) = (x / sqrt(m), -1, 0)       made unit

have a product <q, v> that falls with |x - z|: the nearest rows are the nearest points.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from itertools import chain
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from anechoic.errors import IndexMismatch
from anechoic.index import shards
from anechoic.index.manifest import NAME, Manifest
from anechoic.index.training import TrainingIndex
from anechoic.storage import Storage
from anechoic.types import Embedder, NearLatents

LARGE = 4096  # numbers of a latent that are stored as they are
LONGEST = 4.0  # norm of a point, in units of the root of its dimension: noise has 1
WHOLE = math.sqrt(LONGEST**2 + LONGEST**4 / 4)  # M
SAMPLE = 256  # clips whose nearest other gives the radius


def reduced(latents: Tensor) -> Tensor:
    """Latents [b, *latent] as points [b, m], in blocks along their longest axis, which is time.

    >>> reduced(torch.ones(2, 64, 1024)).shape
    torch.Size([2, 4096])
    """
    if latents[0].numel() <= LARGE:
        return latents.flatten(1)
    blocks, lengths = _blocks(latents)
    return (blocks.sum(-1) / lengths.sqrt()).flatten(1)


def spread(steps: Tensor, latents: Tensor) -> Tensor:
    """Steps of points [b, m] as steps of latents like these, [b, *latent]."""
    if latents[0].numel() <= LARGE:
        return steps.reshape(latents.shape)
    blocks, lengths = _blocks(latents)
    wide = (steps.reshape(blocks.shape[:-1]) / lengths.sqrt())[..., None].expand(blocks.shape)
    axis, length = _axis(latents), latents.shape[_axis(latents)]
    return wide.flatten(-2)[..., :length].movedim(-1, axis)


def _blocks(latents: Tensor) -> tuple[Tensor, Tensor]:
    """Latents [b, ..., blocks, block] with time last and padded, and the lengths of the blocks."""
    last = latents.movedim(_axis(latents), -1)
    length = last.shape[-1]
    block = min(length, math.ceil(latents[0].numel() / LARGE))
    count = math.ceil(length / block)
    padded = F.pad(last, (0, count * block - length))
    ends = torch.arange(1, count + 1, device=latents.device) * block
    lengths = block - (ends - length).clamp_min(0)
    return padded.unflatten(-1, (count, block)), lengths.to(latents.dtype)


def _axis(latents: Tensor) -> int:
    """The longest axis of a sample, the last of several."""
    sizes = latents.shape[1:]
    return len(sizes) - sizes[::-1].index(max(sizes))


def unit_rows(points: Tensor) -> Tensor:
    """The rows [n, m + 2] of an index of points [n, m].

    Raises:
        IndexMismatch: a point that is not finite, or too long for the latent of a diffusion model.
    """
    scaled = points / math.sqrt(points.shape[1])
    half = scaled.square().sum(1, keepdim=True) / 2
    if not bool((half <= LONGEST**2 / 2).all()):
        raise IndexMismatch(
            f"expected latents of a root mean square of up to {LONGEST:g}, got "
            f"{float((2 * half).max().sqrt()):.3g}; check the codec of the model, and the clips"
        )
    rest = (WHOLE**2 - 2 * half - half.square()).clamp_min(0).sqrt()
    return torch.cat([scaled, half, rest], 1) / WHOLE


def points_of(rows: Tensor) -> Tensor:
    """The points [..., m] of rows [..., m + 2]."""
    m = rows.shape[-1] - 2
    return rows[..., :m] * (WHOLE * math.sqrt(m))


class LatentIndex(TrainingIndex):
    """Latents of training clips, as a guidance asks for them; its rows are those of `unit_rows`.

    >>> LatentIndex.of(torch.eye(3)).nearest(torch.tensor([[0.0, 0.5, 0.0]]), 1).distances
    tensor([[0.5000]])
    """

    @classmethod
    def of(cls, latents: Tensor) -> LatentIndex:
        """Latents [n, *latent] in memory."""
        return cast(LatentIndex, cls.from_embeddings(unit_rows(reduced(latents))))

    @property
    def latents(self) -> LatentIndex:
        """These: a guidance asks an index for its latents."""
        return self

    @property
    def codec(self) -> str | None:
        """The fingerprint of the codec that made them."""
        return self.revision

    def reduced(self, latents: Tensor) -> Tensor:
        return reduced(latents)

    def spread(self, steps: Tensor, latents: Tensor) -> Tensor:
        return spread(steps, latents)

    def nearest(self, latents: Tensor, k: int) -> NearLatents:
        """See `anechoic.types.LatentStore`.

        Raises:
            IndexMismatch: latents of another size than the stored ones.
        """
        points = reduced(latents)
        if points.shape[1] != self.dim - 2:
            raise IndexMismatch(
                f"expected latents that reduce to {self.dim - 2} numbers, as those of index "
                f"'{self.name}' do, got {list(latents.shape[1:])}, which reduce to "
                f"{points.shape[1]}; store latents of this model ('anechoic index latents')"
            )
        return self._nearest(points.to(torch.promote_types(points.dtype, torch.float32)), k)

    def _nearest(self, points: Tensor, k: int) -> NearLatents:
        scaled = points / math.sqrt(points.shape[1])
        query = torch.cat([scaled, -torch.ones_like(scaled[:, :1]), 0 * scaled[:, :1]], 1)
        rows = self.search(F.normalize(query, dim=1), k).rows
        centres = points_of(self.vectors(rows)).to(points)
        distances, order = torch.linalg.vector_norm(points[:, None] - centres, dim=2).sort(dim=1)
        centres = centres.gather(1, order[..., None].expand_as(centres))
        return NearLatents(distances, rows.gather(1, order), points, centres)

    @cached_property
    def radius(self) -> float:
        """Half of the clips have another clip within this distance, and half have none.

        It is measured on up to 256 clips that are spread evenly over the index.

        Raises:
            IndexMismatch: a single clip, or copies of one, have no distance to another.
        """
        rows = torch.linspace(0, len(self) - 1, min(SAMPLE, len(self))).round().long()
        nearest = [self._nearest(points_of(self.vectors(row)), 2) for row in rows.split(1)]
        radius = float(torch.cat([near.distances[:, -1] for near in nearest]).median())
        if not radius > 0:
            raise IndexMismatch(
                f"half of the latents of index '{self.name}' are equal to another, so they tell no "
                "radius; give one, in units of the latent"
            )
        return radius


class LatentEmbedder(Embedder):
    """Encodes sound as rows of a `LatentIndex`, for the builder of an index.

    Args:
        name: its name in errors.
        encode: sound [b, c, t] at a rate to latents [b, *latent].
        sample_rate: of the codec, in Hz.
        seconds: the length of the model's sound.
        codec: the codec's fingerprint.
    """

    stereo = True

    def __init__(
        self,
        name: str,
        encode: Callable[[Tensor, int], Tensor],
        sample_rate: int,
        seconds: float,
        codec: str,
    ) -> None:
        self.name, self.sample_rate, self.seconds, self.revision = name, sample_rate, seconds, codec
        self._encode = encode
        self.dim = self(torch.zeros(1, 1, round(seconds * sample_rate)), sample_rate).shape[1]

    def __call__(self, wav: Tensor, sample_rate: int) -> Tensor:
        return unit_rows(reduced(self._encode(wav, sample_rate)))


def require_same_clips(place: Storage, indexed: Manifest, folder: Storage, built: Manifest) -> None:
    """Remove latents of other clips than those of their index.

    Raises:
        IndexMismatch: they were such.
    """

    def ids(place: Storage, manifest: Manifest) -> set[str]:
        columns = (shards.read_column(place, shard, "id") for shard in manifest.shards)
        return set(chain.from_iterable(columns))

    if other := ids(place, indexed) ^ ids(folder, built):
        folder.remove(NAME)
        folder.remove("")
        raise IndexMismatch(
            f"expected the clips that index '{place.name}' was built from, got {len(other)} that "
            f"are in one of the two alone, such as '{min(other)}'; give the same clips, or build "
            "the index again"
        )
