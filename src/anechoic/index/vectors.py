"""The vectors that a search compares with: in memory, or mapped from disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anechoic.errors import IndexMismatch
from anechoic.index.clips import Clip
from anechoic.index.pruned import Pruned
from anechoic.index.structure import Searcher, rerank, take

# A search finds some more rows than requested and scores them again, one by one, so that the order
# under rounding and duplicates is the same in any batch.
SPARE = 16
LARGE = 2**20  # numbers: fewer fit in the processor's cache, where pruning saves nothing
OFTEN = 16  # single queries, after which finding the directions pays
NO_DIRECTION = 1e-5  # a norm below this is rounding


def project(embeddings: Tensor, mean: Tensor | None) -> Tensor:
    """Embeddings [b, d] as an index compares them: unit norm, with the training mean removed."""
    return embeddings if mean is None else F.normalize(embeddings - mean, dim=-1)


def require_directions(rows: Tensor, clips: Sequence[Clip], what: str, name: str) -> None:
    """Refuse rows [n, d] that cannot be compared; errors call them `what` of index `name`.

    Raises:
        IndexMismatch: no rows, not one for each clip, or one that is NaN or has no direction.
    """
    if rows.dim() != 2 or len(rows) != len(clips):
        raise IndexMismatch(
            f"expected embeddings [{len(clips)}, d] in index '{name}', got {list(rows.shape)}; "
            "rebuild it with 'anechoic index build'"
        )
    if len(rows) == 0:
        raise IndexMismatch(f"index '{name}' is empty (0 clips); build it from clips")
    norms = rows.norm(dim=1)
    bad = ~((norms > NO_DIRECTION) & torch.isfinite(norms))
    if bad.any():
        clip = clips[int(bad.nonzero()[0])]
        fix = "leave it out"
        if what.startswith("centred"):
            fix = "a single clip, or copies of one, can only be indexed uncentred"
        raise IndexMismatch(
            f"index '{name}': the {what} of clip '{clip.id}' is NaN or has no direction "
            f"({int(bad.sum())} of {len(rows)} rows); {fix}"
        )


class Vectors(Protocol):
    """The projected vectors of all rows."""

    dim: int
    dtype: torch.dtype

    def __len__(self) -> int: ...

    def take(self, rows: Tensor) -> Tensor:
        """The vectors of some rows, [*rows.shape, d], on the rows' device."""
        ...

    def candidates(self, query: Tensor, k: int) -> Tensor:
        """Rows [b, at least min(k, n)] that include the k nearest, in any order."""
        ...


class Resident:
    """All vectors in memory: a search is a matrix product.

    After some single queries, as a guard makes them, `Pruned` answers: it finds the same rows in
    about half the time.
    """

    def __init__(self, projected: Tensor):
        self._vectors = projected
        self._asked = 0
        self._pruned: Pruned | None = None
        self.dim = projected.shape[1]
        self.dtype = projected.dtype

    def __len__(self) -> int:
        return len(self._vectors)

    def take(self, rows: Tensor) -> Tensor:
        return self._on(rows.device)[rows]

    def candidates(self, query: Tensor, k: int) -> Tensor:
        if len(query) == 1 and query.device.type == "cpu" and self._vectors.numel() > LARGE:
            self._asked += 1
            often = self._asked >= OFTEN and self.dtype == torch.float32
            if often and self._pruned is None:
                self._pruned = Pruned(self._on(query.device))
            if self._pruned is not None and (rows := self._pruned.candidates(query, k)) is not None:
                return rows
        count = min(k + SPARE, len(self))
        return (query @ self._on(query.device).T).topk(count).indices

    def _on(self, device: torch.device) -> Tensor:
        """All vectors, moved once to the device of the query."""
        vectors = self._vectors  # another thread may move them
        if vectors.device != device:
            vectors = self._vectors = vectors.to(device)
        return vectors


class Mapped:
    """Vectors on disk, and a search structure that finds candidates among them.

    Args:
        vectors: a .npy file [n, d], float32 or float16.
        searcher: an open structure of the same rows.
        candidates: number of rows that the searcher finds; they are scored exactly.
    """

    dtype = torch.float32

    def __init__(self, vectors: Path, searcher: Searcher, candidates: int):
        self._stored = np.load(vectors, mmap_mode="r")
        self._searcher = searcher
        self._candidates = candidates
        self.dim = self._stored.shape[1]

    def __len__(self) -> int:
        return len(self._stored)

    def take(self, rows: Tensor) -> Tensor:
        return torch.from_numpy(take(self._stored, rows.cpu().numpy())).to(rows.device)

    def candidates(self, query: Tensor, k: int) -> Tensor:
        asked, wanted = query.float().cpu().numpy(), min(k + SPARE, len(self))
        found = self._searcher.candidates(asked, min(max(wanted, self._candidates), len(self)))
        _, rows = rerank(self._stored, asked, found, wanted)
        return torch.from_numpy(rows).to(query.device)
