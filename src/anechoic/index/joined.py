"""Several training sets as one: that of a model, and those of what it was fine-tuned on."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TypeVar

import torch
from torch import Tensor

from anechoic.errors import BadSetting, IndexMismatch
from anechoic.index.stored import LazySequence
from anechoic.index.training import TrainingIndex
from anechoic.types import Embedder, Neighbours

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class JoinedIndex:
    """Several indexes by one embedder, searched as one; each stays as it is.

    Each index compares in its own space, with its own mean removed, so the same cosine says more
    in one than in another. `limits` puts them on one scale: a similarity s to a clip of index i
    becomes

        1 - (1 - s) * (1 - limits[0]) / (1 - limits[i])

    so that an exact copy stays at 1, and each index's limit is where the first one's is. The
    nearest clip is then the one that is farthest over its own limit.

    A projected embedding holds those of all indexes, one after the other, and the vector of a row
    is zero in the places of the others: their product is the cosine in the row's own index.

    Args:
        parts: the indexes; their rows are numbered one after the other.
        limits: a similarity for each that means the same; None: cosines are compared as they are.

    Raises:
        BadSetting: fewer than two indexes, one twice, or limits that do not match.
        IndexMismatch: they are not of one embedder.

    >>> one, two = (TrainingIndex.from_embeddings(torch.eye(2)[i : i + 1]) for i in (0, 1))
    >>> joined = JoinedIndex((one, two))
    >>> joined.search(joined.project(torch.tensor([[0.6, 0.8]])), 2)
    Neighbours(scores=tensor([[0.8000, 0.6000]]), rows=tensor([[1, 0]]))
    """

    parts: tuple[TrainingIndex, ...]
    limits: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))
        if len(self.parts) < 2 or len({part.content for part in self.parts}) < len(self.parts):
            raise BadSetting(
                f"expected two different indexes or more, got {self.name}; give each once"
            )
        first = self.parts[0]
        for part in self.parts[1:]:
            made_by = (part.embedder_name, part.revision, part.dim)
            if made_by != (first.embedder_name, first.revision, first.dim):
                raise IndexMismatch(
                    f"indexes that guard together are built by one embedder, but '{first.name}' "
                    f"is by '{first.embedder_name}' and '{part.name}' by '{part.embedder_name}'; "
                    f"build it with 'anechoic index build --embedder {first.embedder_name}'"
                )
        if self.limits is not None and (
            len(self.limits) != len(self.parts) or not all(-1 <= one < 1 for one in self.limits)
        ):
            raise BadSetting(
                f"expected a cosine of -1 to below 1 for each of {len(self.parts)} indexes, got "
                f"{self.limits}"
            )

    @classmethod
    def of(cls, indexes: Sequence[TrainingIndex]) -> TrainingIndex | JoinedIndex:
        """Several indexes as one; one as it is.

        Raises:
            BadSetting, IndexMismatch: as the class; or there is none.
        """
        return indexes[0] if len(indexes) == 1 else cls(tuple(indexes))

    @property
    def name(self) -> str:
        """The names of all."""
        return " and ".join(f"'{part.name}'" for part in self.parts) or "none"

    @property
    def model(self) -> None:
        """None: each of `parts` names its own."""

    @property
    def embedder_name(self) -> str:
        """That of all."""
        return self.parts[0].embedder_name

    @cached_property
    def content(self) -> str:
        """A hash of all rows of all indexes."""
        return hashlib.sha256(" ".join(part.content for part in self.parts).encode()).hexdigest()

    @cached_property
    def captions(self) -> Sequence[str]:
        """The caption of each row."""
        return _Chain([part.captions for part in self.parts])

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __repr__(self) -> str:
        return f"<JoinedIndex {self.name}: {len(self)} rows by '{self.embedder_name}'>"

    def check_embedder(self, embedder: Embedder) -> None:
        """As `TrainingIndex.check_embedder`, for each."""
        for part in self.parts:
            part.check_embedder(embedder)

    def project(self, emb: Tensor) -> Tensor:
        """Embeddings [b, d] as each index compares them, one after the other, [b, n * d]."""
        return torch.cat([part.project(emb) for part in self.parts], dim=-1)

    def search(self, query: Tensor, k: int = 1) -> Neighbours:
        """The k nearest clips of all, of projected queries [b, n * d], on one scale.

        Raises:
            BadSetting, BadAudio, IndexMismatch: as `TrainingIndex.search`.
        """
        width = self.parts[0].dim
        if query.dim() != 2 or query.shape[1] != width * len(self.parts):
            raise IndexMismatch(
                f"expected embeddings [b, {width * len(self.parts)}] for indexes {self.name}, got "
                f"{list(query.shape)}; project them first"
            )
        scores, rows = [], []
        for number, (part, own) in enumerate(zip(self.parts, query.split(width, 1), strict=True)):
            found = part.search(own, k)
            # the vector of a row is a query of its own index alone
            asked = (own != 0).any(1, keepdim=True)
            scaled = self._scaled(number, found.scores)
            scores.append(scaled.where(asked, -torch.ones_like(scaled)))
            rows.append(found.rows + self._starts[number])
        every, where = torch.cat(scores, 1), torch.cat(rows, 1)
        order = every.argsort(dim=1, descending=True, stable=True)[:, :k]
        return Neighbours(every.gather(1, order), where.gather(1, order))

    def vectors(self, rows: Tensor) -> Tensor:
        """The projected embeddings of some rows, [*rows.shape, n * d]."""
        width = self.parts[0].dim
        made: Tensor | None = None
        for number, part in enumerate(self.parts):
            start = self._starts[number]
            own = (rows >= start) & (rows < start + len(part))
            if own.any():
                found = part.vectors(rows[own] - start)
                if made is None:
                    made = found.new_zeros(*rows.shape, width * len(self.parts))
                place = slice(number * width, (number + 1) * width)
                made[..., place][own] = found
        assert made is not None, "rows of no index"
        return made

    def nearest_others(self) -> Tensor:
        """How near the clips of each index come to each other, of all indexes."""
        return torch.cat([part.nearest_others() for part in self.parts])

    @cached_property
    def _starts(self) -> list[int]:
        """The first row of each index."""
        return [0, *accumulate(map(len, self.parts))][:-1]

    def _scaled(self, number: int, scores: Tensor) -> Tensor:
        """Similarities in one index on the scale of the first."""
        if self.limits is None or number == 0:
            return scores
        return 1 - (1 - scores) * ((1 - self.limits[0]) / (1 - self.limits[number]))


class _Chain(LazySequence[T]):
    """Sequences, one after the other."""

    def __init__(self, parts: Sequence[Sequence[T]]):
        self._parts = parts
        self._ends = list(accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self._ends[-1]

    def read(self, row: int) -> T:
        number = bisect_right(self._ends, row)
        return self._parts[number][row - (self._ends[number - 1] if number else 0)]
