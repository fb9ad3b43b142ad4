"""The training set as points on the unit sphere: search, save and load."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import chain, count, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anechoic import display
from anechoic.errors import BadAudio, BadSetting, IndexMismatch
from anechoic.index import manifest as manifests
from anechoic.index import search, shards
from anechoic.index.build import VECTORS, Progress
from anechoic.index.clips import Clip, Sound
from anechoic.index.embedding import Windows, embed
from anechoic.index.ending import require_free
from anechoic.index.manifest import About, Manifest
from anechoic.index.sources.protocol import Item
from anechoic.index.vectors import Mapped, Resident, Vectors, project, require_directions
from anechoic.storage import Storage
from anechoic.types import Embedder, Neighbours, require_embedder

SAMPLE = 2048  # rows from which `nearest_others` is read
NEIGHBOURS = 16  # nearest rows among which it looks for one of another clip
EXACT = 1 - 1e-4  # a cosine above this is that of the same sound: half precision changes it by less

if TYPE_CHECKING:
    from anechoic.index.latents import LatentIndex


@dataclass(eq=False, repr=False)
class TrainingIndex:
    """Embeddings of the training clips, with the clip of each one.

    Raw cosines of unrelated clips are around 0.7 already, because embeddings of sound share a
    mean. A centred index subtracts the training mean from its own vectors and from every query
    (`project`) before it compares them:

        p(e) = (e - m) / |e - m|,    score_j = <p(query), p(e_j)>

    Make one with `build`, `from_embeddings` or `load`.

    Args:
        rows: the projected vectors.
        clips: the clip of each vector.
        about: how they were made.
        mean: the training mean, [d]; None: not centred.
        name: its name in errors.
    """

    rows: Vectors
    clips: Sequence[Clip]
    about: About
    mean: Tensor | None = None
    name: str = "in memory"
    _embeddings: Tensor | None = None  # before centring; None: they are in the shards
    _manifest: tuple[Storage, Manifest] | None = None  # where it was read from

    def __post_init__(self) -> None:
        self.captions: Sequence[str] = getattr(self.clips, "captions", None) or [
            clip.caption for clip in self.clips
        ]

    # parts of `about`

    @property
    def folder(self) -> str | None:
        """The folder or URL that it was loaded from; None: it was made in memory."""
        return None if self._manifest is None else self._manifest[0].name

    @property
    def embedder_name(self) -> str:
        return self.about.embedder_name

    @property
    def sample_rate(self) -> int | None:
        """Sample rate of the embedder in Hz."""
        return self.about.sample_rate

    @property
    def centred(self) -> bool:
        return self.mean is not None

    @property
    def window_s(self) -> float | None:
        """None: a row is a whole clip."""
        return self.about.window_s

    @property
    def hop_s(self) -> float | None:
        return self.about.hop_s

    @property
    def revision(self) -> str | None:
        """Revision of the embedder's weights."""
        return self.about.revision

    @property
    def model(self) -> str | None:
        """The fingerprint of the model that was trained on the clips."""
        return self.about.model

    @property
    def covers(self) -> tuple[str, ...]:
        """The fingerprints of more models that know the clips, such as that one with a LoRA."""
        return self.about.covers

    @property
    def thresholds(self) -> dict[str, float]:
        """Thresholds of scores; `anechoic check` uses "copy"."""
        return self.about.thresholds

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
        thresholds: Mapping[str, float] | None = None,
        progress: Progress = lambda done, total: None,
    ) -> TrainingIndex:
        """Build an index in memory; `anechoic.index.build` builds one of any size on disk.

        Args:
            clips: a folder of sound files, or `Sound`s in memory.
            embedder: embeds them; its name is recorded.
            captions: the caption file of a folder of clips (`captions.read`); by default the
                folder's own metadata.csv, metadata.jsonl or metadata.parquet.
            window_s: length of windows of the clips, in seconds; None: whole clips.
            hop_s: from one window to the next, in seconds; None: no overlap.
            centre: subtract the training mean before comparing.
            model: the fingerprint of the model that was trained on the clips.
            thresholds: thresholds of scores; `anechoic check` uses "copy".
            progress: called after each clip with the number done, and in all, if known.

        Raises:
            BadAudio: a clip that is not usable sound; none is left out silently.
            BadCaptions: captions that do not match the clips.
            BadSetting: two clips with one id, a window and hop that do not match, or, without a
                window, clips longer than the `seconds` of the embedder.
            IndexMismatch: no clips, or an embedding without direction.
        """
        folder, total, done = None, None, count(1)
        windows = Windows(window_s, hop_s)
        if isinstance(clips, (str, Path)):
            from anechoic.index.sources.folder import FolderSource

            source = FolderSource(clips, captions)
            folder, total = source.clips_folder, source.total
            items: Iterable[Item] = chain.from_iterable(unit.items() for unit in source.units())
        elif captions is not None:
            raise BadSetting("captions belong to a folder of clips; a Sound has its own")
        else:
            total = len(clips) if isinstance(clips, Sized) else None
            items = map(_item, clips)
        embeddings, rows = embed(items, embedder, windows, lambda item: progress(next(done), total))
        if not rows:
            raise IndexMismatch("expected at least one clip for an index, got none; add clips")
        about = About(
            embedder.name,
            embedder.sample_rate,
            centre,
            windows.window_s,
            windows.hop_s,
            embedder.revision,
            model,
            dict(thresholds or {}),
            folder,
        )
        return cls._resident(embeddings, rows, about)

    @classmethod
    def from_embeddings(
        cls,
        embeddings: Tensor,
        captions: Sequence[str] | None = None,
        *,
        embedder_name: str = "given",
        sample_rate: int = 16_000,
        revision: str | None = None,
        centre: bool = False,
    ) -> TrainingIndex:
        """An index of embeddings [n, d] made elsewhere, which are scaled to unit norm.

        >>> index = TrainingIndex.from_embeddings(torch.eye(3), ["a", "b", "c"])
        >>> index.search(torch.tensor([[0.6, 0.8, 0.0]]), k=2)
        Neighbours(scores=tensor([[0.8000, 0.6000]]), rows=tensor([[1, 0]]))
        """
        names = [str(i) for i in range(len(embeddings))] if captions is None else captions
        clips = [Clip(str(i), caption) for i, caption in enumerate(names)]
        wide = torch.promote_types(embeddings.dtype, torch.float32)  # what an index can store
        unit = F.normalize(embeddings.detach().to(wide), dim=-1)
        return cls._resident(
            unit, clips, About(embedder_name, sample_rate, centre, revision=revision)
        )

    @classmethod
    def _resident(
        cls,
        embeddings: Tensor,
        clips: Sequence[Clip],
        about: About,
        mean: Tensor | None = None,
        name: str = "in memory",
        loaded: tuple[Storage, Manifest] | None = None,
    ) -> TrainingIndex:
        require_directions(embeddings, clips, "embedding", name)
        if about.centred:
            given = embeddings.double().mean(0) if mean is None else mean
            mean = given.to(embeddings)
            require_directions(embeddings - mean, clips, "centred embedding", name)
        rows = Resident(project(embeddings, mean))
        return cls(rows, clips, about, mean, name, embeddings, loaded)

    # --------------------------------------------------------------------- to ask it

    def __len__(self) -> int:
        return len(self.rows)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """An index that is searched from disk is loaded again in the receiving process."""
        if self._manifest is None or not isinstance(self.rows, Mapped):
            return super().__reduce_ex__(protocol)
        place, _ = self._manifest
        return type(self).load, (place.root if place.local else place.name,)

    def __repr__(self) -> str:
        size = f"{len(self)} rows of {self.dim} by '{self.embedder_name}'"
        return f"<TrainingIndex '{self.name}': {size}>"

    @property
    def dim(self) -> int:
        return self.rows.dim

    @cached_property
    def latents(self) -> LatentIndex | None:
        """The latents of its clips, which 'anechoic index latents' stores; None: there are none.

        Raises:
            IndexMismatch: they are damaged, or of more or fewer clips.
        """
        from anechoic.index.latents import LatentIndex

        if self._manifest is None:
            return None
        place, manifest = self._manifest
        beside = Storage(f"{place.root if place.local else place.name}/{manifests.LATENTS}")
        if not beside.exists(manifests.NAME):
            return None
        if manifest.clips != manifests.read(beside).clips:
            raise IndexMismatch(
                f"the latents of index '{self.name}' are not of its clips; end the 'anechoic index "
                "remove' that was stopped, or make them again with 'anechoic index latents'"
            )
        return cast(LatentIndex, LatentIndex.load(beside.name))

    @property
    def embeddings(self) -> Tensor:
        """The embeddings before centring, unit norm, [n, d]; those of a large index are read from
        its shards, and need memory."""
        if self._embeddings is None:
            assert self._manifest is not None  # it was loaded
            place, manifest = self._manifest
            parts = [shards.read(place, shard)[1] for shard in manifest.shards]
            return torch.from_numpy(np.concatenate(parts))
        return self._embeddings

    @cached_property
    def content(self) -> str:
        """A hash of all rows: their vectors and their clips."""
        if self._manifest is not None and self._embeddings is None:
            return self._manifest[1].content
        digest = sha256(json.dumps([vars(clip) for clip in self.clips]).encode())
        for part in (self.embeddings, self.mean):
            digest.update(b"" if part is None else part.contiguous().numpy().tobytes())
        return digest.hexdigest()

    @cached_property
    def seconds(self) -> float:
        """How long its clips last together; 0 if their lengths are unknown."""
        each = groupby(self.clips, key=lambda clip: clip.id)  # the windows of a clip stand together
        return math.fsum(max(row.start_s + row.seconds for row in rows) for _, rows in each)

    def stored(self) -> tuple[Storage, Manifest]:
        """Where the index was loaded from, and its manifest, which is still the same.

        Raises:
            IndexMismatch: it was made in memory, or has been changed on disk since.
        """
        if self._manifest is None:
            raise IndexMismatch(
                "expected an index that was loaded, got one that was made in memory, which nobody "
                "else can name; save it, and load it with 'TrainingIndex.load'"
            )
        place, manifest = self._manifest
        if manifests.read(place) != manifest:
            raise IndexMismatch(
                f"index '{self.name}' has changed in '{place.name}' since it was loaded; load it "
                "again, and judge again"
            )
        return place, manifest

    def project(self, emb: Tensor) -> Tensor:
        """Embeddings [b, d] as the index compares them: unit norm, centred if it is centred.

        Differentiable; the result is on the device of `emb`, in the index's dtype.
        """
        emb = emb.to(self.rows.dtype)
        return project(emb, None if self.mean is None else self.mean.to(emb.device))

    def vectors(self, rows: Tensor) -> Tensor:
        """The projected embeddings of some rows, [*rows.shape, d]."""
        return self.rows.take(rows)

    def search(self, query: Tensor, k: int = 1) -> Neighbours:
        """The k nearest clips of projected queries [b, d].

        The scores are exact for the rows that are found, and carry the query's gradient. Ties are
        in the order of the rows.

        Returns:
            Scores and rows, [b, min(k, n)], nearest first.

        Raises:
            BadSetting: k below 1.
            IndexMismatch: queries of another dimension, or a score that is not finite, as from
                damaged vectors.
            BadAudio: a query that is NaN or infinite.
        """
        if k < 1:
            raise BadSetting(f"expected k of 1 or more, got {k}")
        if query.dim() != 2 or query.shape[1] != self.dim:
            raise IndexMismatch(
                f"expected embeddings [b, {self.dim}] for index '{self.name}', got "
                f"{list(query.shape)}; use its embedder '{self.embedder_name}'"
            )
        if not torch.isfinite(query.sum()):  # NaN and infinity stay in a sum
            raise BadAudio("a query embedding is NaN or infinite, so the sound behind it is too")
        query = query.to(self.rows.dtype)
        rows = self.rows.candidates(query.detach(), k).sort(dim=1).values
        scores = (query[:, None] * self.rows.take(rows)).sum(-1)
        if not torch.isfinite(scores).all():
            raise IndexMismatch(
                f"index '{self.name}' gave a score that is NaN or infinite, so nothing can be "
                "judged; check it with 'anechoic index info --check'"
            )
        order = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
        return Neighbours(scores.gather(1, order), rows.gather(1, order))

    def _repr_html_(self) -> str:
        facts: dict[str, object] = {
            "rows": len(self),
            "embedder": self.embedder_name,
            "windows": "whole clips" if self.window_s is None else f"{self.window_s:g} s",
            "model": self.model or "not named",
        }
        return display.facts_html(f"Training index '{self.name}'", facts)

    def plot(self) -> Any:
        """How near the clips come to each other, as a histogram: what is near 1 stands in the
        training set more than once. Returns a matplotlib `Figure`.

        Raises:
            BadSetting: matplotlib is not installed.
            IndexMismatch: fewer than two different clips.
        """
        nearest = self.nearest_others().numpy()
        figure, (axes,) = display.axes(1, f"{len(self)} rows by '{self.embedder_name}'")
        axes.hist(nearest, bins=50, color=display.GUARDED)
        axes.set_xlabel("similarity of each row to the nearest of another clip")
        axes.set_ylabel("rows")
        if (copy := self.thresholds.get("copy")) is not None:
            axes.axvline(copy, color=display.OPEN, label=f"copy: over {copy:.3f}")
            axes.legend()
        return figure

    def nearest_others(self) -> Tensor:
        """The similarity of each row to the nearest row of another clip, [n].

        Exact duplicates do not count, since they are the same sound once more. Of an index of more
        than 2,048 rows, as many are taken, evenly spread.

        Raises:
            IndexMismatch: fewer than two different clips.
        """
        rows = torch.linspace(0, len(self) - 1, min(len(self), SAMPLE)).long()
        scores = []
        for some in rows.split(256):
            found = self.search(self.vectors(some), NEIGHBOURS)
            for row, near, others in zip(
                some.tolist(), found.scores.tolist(), found.rows.tolist(), strict=True
            ):
                own = self.clips[row].id
                scores += [
                    score
                    for score, other in zip(near, others, strict=True)
                    if score < EXACT and self.clips[other].id != own
                ][:1]
        if not scores:
            raise IndexMismatch(
                f"index '{self.name}' has no two different clips near each other, so it does not "
                "show how near unrelated sound comes; calibrate it, or give the limits"
            )
        return torch.tensor(scores)

    def check_embedder(self, embedder: Embedder) -> None:
        """Refuse an embedder other than the one that built this index.

        The same weights may have another path: "clap:/a" equals "clap:/b" if both have the same
        known revision.

        Raises:
            IndexMismatch: another name, dimension or revision.
            BadSetting: an object that lacks a part of an embedder.
        """
        require_embedder(embedder)
        revision = embedder.revision
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
        """The sound file of a row; None if the index was built from arrays."""
        path = self.clips[row].path
        return None if path is None else Path(self.about.clips_folder or "", path)

    # ------------------------------------------------------------------ to and from disk

    def save(
        self,
        folder: str | Path,
        *,
        overwrite: bool = False,
        dtype: Literal["float32", "float16"] = "float32",
    ) -> Path:
        """Write an index, whole or not at all.

        Args:
            folder: the folder to write; missing parents are made.
            overwrite: replace an existing index.
            dtype: "float16" halves the size, and scores differ by some 1e-3.

        Raises:
            OutputExists: the folder exists, and `overwrite` is off or it is not an index.
            BadSetting: another dtype.
            CannotWrite: the storage is full or read-only.
        """
        if dtype not in shards.DTYPES:
            raise BadSetting(f"embeddings cannot be stored as '{dtype}'; use float32 or float16")
        place = Storage(folder)
        require_free(place, overwrite)
        new = Storage(f"{place.root}.new")
        new.remove("")
        stored = self.embeddings.cpu().numpy().astype(dtype)
        made = []
        for number, start in enumerate(range(0, len(self), VECTORS)):
            part, clips = stored[start : start + VECTORS], self.clips[start : start + VECTORS]
            taken = len({clip.id for clip in clips})
            made.append(shards.write(new, f"{number:05d}", clips, part, taken))
        mean = None if self.mean is None else tuple(self.mean.double().tolist())
        Manifest(self.about, self.dim, dtype, mean, tuple(made)).write(new)
        place.replace_with(new)
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path, embedder: Embedder | None = None) -> TrainingIndex:
        """Read an index.

        A small index is read into memory and checked against its hashes. A large one is searched
        from disk (`anechoic.index.search`): the sizes of its files and a sample of their content
        are checked, and vectors are checked as they are read.

        Args:
            folder: the folder of an index, or the URL of a small one.
            embedder: refuse the index if another embedder built it.

        Raises:
            IndexMismatch: no index, or one that has another format, is damaged or edited, or that
                another embedder built.
        """
        place = Storage(folder)
        manifest = manifests.read(place)
        name = place.root.rsplit("/", 1)[-1]
        mean = None if manifest.mean is None else torch.tensor(manifest.mean)
        found = None if place.local is None else search.open_search(place.local, manifest)
        if found is not None:
            shards.require_sizes(place, manifest.shards)
            index = cls(*found, manifest.about, mean, name, None, (place, manifest))
        else:
            search.require_small(place, manifest)
            parts = [shards.read(place, shard) for shard in manifest.shards]
            embeddings = torch.from_numpy(np.concatenate([vectors for _, vectors in parts]))
            clips = [clip for part, _ in parts for clip in part]
            loaded = place, manifest
            index = cls._resident(embeddings, clips, manifest.about, mean, name, loaded)
        if embedder is not None:
            index.check_embedder(embedder)
        return index


def _item(sound: Sound) -> Item:
    def read() -> tuple[Tensor, int]:
        return sound.wav, sound.sample_rate

    return Item(sound.id, sound.caption, sound.path, sound.info, read)
