"""The training set as points on the unit sphere: search, and the road to and from disk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from anechoic.errors import BadAudio, BadSetting, IndexMismatch
from anechoic.index import storage
from anechoic.index.clips import Clip, Folder, Sound
from anechoic.index.embedding import Progress, embed
from anechoic.types import Embedder, Neighbours

# Both backends offer a few rows more than were asked for, and these are scored again from the
# stored vectors: so rounding and duplicates come out the same, whatever the backend and batch.
SPARE = 16
NO_DIRECTION = 1e-5  # a norm below this is rounding


@dataclass(eq=False, repr=False)
class TrainingIndex:
    """Embeddings of the training clips, and what each one stands for.

    Raw cosines of clips that have nothing in common are around 0.7 already, because the
    embeddings of sound share a mean. A centred index takes the training mean off, from its own
    vectors and from every query (`project`), and only then compares:

        p(e) = (e - m) / |e - m|,    score_j = <p(query), p(e_j)>

    Raises:
        IndexMismatch: no clips, as many clips as embeddings not, or a vector that is NaN or
            has no direction.
    """

    embeddings: Tensor  # as the embedder gave them, unit norm, [n, d]
    clips: list[Clip]
    embedder_name: str
    sample_rate: int  # the embedder's, in Hz
    centred: bool = True
    window_s: float | None = None  # None: a row is a whole clip
    hop_s: float | None = None
    revision: str | None = None  # of the embedder's weights, if it has any
    model: str | None = None  # whose training set this is
    thresholds: dict[str, float] = field(default_factory=dict)  # "copy": a copy scores above it
    clips_folder: str | None = None  # where the clips' paths start
    name: str = "in memory"  # what errors call it
    backend: Literal["exact", "faiss"] = "exact"

    def __post_init__(self) -> None:
        if self.backend not in ("exact", "faiss"):
            raise BadSetting(f"backend '{self.backend}' is neither 'exact' nor 'faiss'")
        self.captions = [clip.caption for clip in self.clips]
        self._require_directions(self.embeddings, "embedding")
        mean = self.embeddings.double().mean(0) if self.centred else torch.zeros(self.dim)
        self._mean = mean.to(self.embeddings)
        self._require_directions(self.embeddings - self._mean, "centred embedding")
        self._vectors = self.project(self.embeddings)
        self._faiss: Any = None

    def _require_directions(self, rows: Tensor, what: str) -> None:
        if rows.dim() != 2 or len(rows) != len(self.clips):
            raise IndexMismatch(
                f"index '{self.name}' has embeddings {list(rows.shape)} for {len(self.clips)} "
                "clips; expected [clips, d]; rebuild it with 'anechoic index build'"
            )
        if len(rows) == 0:
            raise IndexMismatch(f"index '{self.name}' is empty (0 clips); build it from clips")
        bad = ~(rows.norm(dim=1) > NO_DIRECTION) | ~torch.isfinite(rows).all(1)
        if bad.any():
            clip = self.clips[int(bad.nonzero()[0])]
            mend = "leave it out"
            if what.startswith("centred"):
                mend = "a single clip, or copies of one, can only be indexed uncentred"
            raise IndexMismatch(
                f"index '{self.name}': the {what} of clip '{clip.id}' is NaN or has no direction "
                f"({int(bad.sum())} of {len(rows)} rows); {mend}"
            )

    # ------------------------------------------------------------------ to make one

    @classmethod
    def build(
        cls,
        clips: str | Path | Iterable[Sound],
        embedder: Embedder,
        *,
        captions: str | Path | None = None,
        window_s: float | None = None,
        hop_s: float | None = None,
        centre: bool = True,
        model: str | None = None,
        thresholds: dict[str, float] | None = None,
        progress: Progress | None = None,
    ) -> TrainingIndex:
        """Embed training clips.

        Args:
            clips: a folder of sound files, or `Sound`s in memory.
            embedder: what to embed them with; its name is recorded.
            captions: the caption file of a folder of clips (`captions.read`); by default the
                folder's own metadata.csv, metadata.jsonl or metadata.parquet.
            window_s, hop_s: index windows of the clips, so many seconds long and apart (by
                default without overlap); whole clips where there is no window.
            centre: compare with the training mean taken off.
            model: whose training set this is.
            thresholds: scores above which a detector speaks; `anechoic check` reads "copy".
            progress: called after each clip with the number done and in all, if known.

        Raises:
            BadAudio: a clip that is not usable sound: the index never is silently smaller.
            BadCaptions: captions that do not fit the clips.
            BadSetting: two clips of one id, a window and hop that do not fit, or clips longer
                than the embedder hears (its `seconds`, if it has a fixed length) and no window.
            IndexMismatch: no clips, or an embedding without direction.

        """
        folder = None
        if isinstance(clips, (str, Path)):
            folder = str(Path(clips).resolve())
            clips = Folder(clips, captions)
        elif captions is not None:
            raise BadSetting("captions belong to a folder of clips; a Sound has its own")
        embeddings, rows = embed(clips, embedder, window_s, hop_s, progress)
        return cls(
            embeddings,
            rows,
            embedder.name,
            embedder.sample_rate,
            centred=centre,
            window_s=window_s,
            hop_s=None if window_s is None else hop_s or window_s,
            revision=getattr(embedder, "revision", None),
            model=model,
            thresholds=dict(thresholds or {}),
            clips_folder=folder,
        )

    @classmethod
    def from_embeddings(
        cls,
        embeddings: Tensor,
        captions: Sequence[str] | None = None,
        *,
        embedder_name: str = "given",
        sample_rate: int = 16_000,
        centre: bool = False,
    ) -> TrainingIndex:
        """An index of embeddings [n, d] made elsewhere; they are brought to unit norm.

        >>> index = TrainingIndex.from_embeddings(torch.eye(3), ["a", "b", "c"])
        >>> index.search(torch.tensor([[0.6, 0.8, 0.0]]), k=2)
        Neighbours(scores=tensor([[0.8000, 0.6000]]), rows=tensor([[1, 0]]))
        """
        names = [str(i) for i in range(len(embeddings))] if captions is None else captions
        clips = [Clip(str(i), caption) for i, caption in enumerate(names)]
        unit = F.normalize(embeddings, dim=-1)
        return cls(unit, clips, embedder_name, sample_rate, centred=centre)

    # --------------------------------------------------------------------- to ask it

    def __len__(self) -> int:
        return len(self.clips)

    def __repr__(self) -> str:
        size = f"{len(self)} rows of {self.dim} by '{self.embedder_name}'"
        return f"<TrainingIndex '{self.name}': {size}>"

    @property
    def dim(self) -> int:
        return self.embeddings.shape[1]

    def project(self, emb: Tensor) -> Tensor:
        """Embeddings [b, d] as the index compares them: unit norm, centred if it is centred.

        Differentiable; the answer is on the device of `emb`, in the index's dtype.
        """
        emb = emb.to(self._mean.dtype)
        if not self.centred:
            return emb
        return F.normalize(emb - self._mean.to(emb.device), dim=-1)

    def vectors(self, rows: Tensor) -> Tensor:
        """The projected embeddings of some rows, [*rows.shape, d]."""
        return self._on(rows.device)[rows]

    def _on(self, device: torch.device) -> Tensor:
        """All projected vectors; they follow a guard to its accelerator, once."""
        if self._vectors.device != device:
            self._vectors = self._vectors.to(device)
        return self._vectors

    def search(self, query: Tensor, k: int = 1) -> Neighbours:
        """The k nearest clips of projected queries [b, d].

        The scores carry the query's gradient. Equal scores stand in the order of the rows.

        Returns:
            Scores and rows, [b, min(k, n)], nearest first.

        Raises:
            BadSetting: k below 1.
            IndexMismatch: queries of another dimension.
            BadAudio: a query that is NaN or infinite.
        """
        if k < 1:
            raise BadSetting(f"k = {k} neighbours; ask for at least 1")
        if query.dim() != 2 or query.shape[1] != self.dim:
            raise IndexMismatch(
                f"index '{self.name}' compares [b, {self.dim}] embeddings of "
                f"'{self.embedder_name}'; {list(query.shape)} was given; use that embedder"
            )
        if not torch.isfinite(query).all():
            raise BadAudio("a query embedding is NaN or infinite, so the sound behind it is too")
        query = query.to(self._vectors.dtype)
        rows = self._candidates(query.detach(), min(k + SPARE, len(self))).sort(dim=1).values
        scores = (query[:, None] * self.vectors(rows)).sum(-1)
        order = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
        return Neighbours(scores.gather(1, order), rows.gather(1, order))

    def _candidates(self, query: Tensor, count: int) -> Tensor:
        """Rows among which the nearest are, [b, count], in any order."""
        if self.backend == "exact":
            return (query @ self._on(query.device).T).topk(count).indices
        if self._faiss is None:
            import faiss

            self._faiss = faiss.IndexFlatIP(self.dim)
            self._faiss.add(self._vectors.float().cpu().numpy())
        _, rows = self._faiss.search(query.float().cpu().numpy(), count)
        return torch.from_numpy(rows).to(query.device)

    def check_embedder(self, embedder: Embedder) -> None:
        """Refuse an embedder other than the one that built this index.

        The same weights may go by another path: "clap:/a" equals "clap:/b" where both know
        their revision, and it is the same.

        Raises:
            IndexMismatch: another name, dimension or revision.
        """
        revision = getattr(embedder, "revision", None)
        kinds = [name.partition(":")[0] for name in (embedder.name, self.embedder_name)]
        known = revision is not None and kinds[0] == kinds[1]
        if (embedder.name, embedder.dim) != (self.embedder_name, self.dim) and not known:
            built, given = f"({self.dim}-d)", f"({embedder.dim}-d)"
        elif revision != self.revision:
            built, given = f"(revision {self.revision})", f"(revision {revision})"
        else:
            return
        raise IndexMismatch(
            f"index '{self.name}' was built with '{self.embedder_name}' {built} but "
            f"'{embedder.name}' {given} was given; rebuild it with 'anechoic index build "
            f"--embedder {embedder.name}'"
        )

    def file(self, row: int) -> Path | None:
        """The sound file behind a row, or None if it was built from arrays."""
        path = self.clips[row].path
        return None if path is None else Path(self.clips_folder or "", path)

    # ------------------------------------------------------------------ to and from disk

    def save(
        self,
        folder: str | Path,
        *,
        overwrite: bool = False,
        dtype: Literal["float32", "float16"] = "float32",
    ) -> Path:
        """Write the index as one folder (`storage`), whole or not at all.

        Args:
            folder: where to; missing folders above it are made.
            overwrite: replace an index that is there.
            dtype: "float16" halves the embeddings, for scores that differ by some 1e-3.

        Raises:
            OutputExists: the folder is there, and `overwrite` is off or it is no index.
        """
        about = {name: getattr(self, name) for name in storage.ABOUT}
        return storage.save(
            Path(folder), self.embeddings, self.clips, about, overwrite=overwrite, dtype=dtype
        )

    @classmethod
    def load(
        cls,
        folder: str | Path,
        embedder: Embedder | None = None,
        *,
        backend: Literal["exact", "faiss"] = "exact",
    ) -> TrainingIndex:
        """Read an index, and check that it is whole.

        Args:
            folder: what `save` wrote.
            embedder: refuse the index if another embedder built it.
            backend: "exact" compares by matrix product, "faiss" by its flat index.

        Raises:
            IndexMismatch: no index there, of a newer format, damaged or edited by hand, or of
                another embedder.
        """
        embeddings, clips, about = storage.load(Path(folder))
        index = cls(embeddings, clips, **about, name=Path(folder).name, backend=backend)
        if embedder is not None:
            index.check_embedder(embedder)
        return index
