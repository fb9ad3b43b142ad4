"""What serves a search in a large index: derived from its shards, and made again at will.

search/
  vectors.npy     projected vectors [n, d], memory-mapped
  clips.arrow     what the rows stand for, memory-mapped
  trained.bin     the empty search structure
  codes/*.npy     of each shard, named by its hash
  index.faiss     the structure with all codes, memory-mapped
  about.json      what it was derived from; written last
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from anechoic.errors import IndexMismatch
from anechoic.index import shards, structure
from anechoic.index.manifest import Manifest, hash_of
from anechoic.index.shards import Shard
from anechoic.index.stored import StoredClips
from anechoic.index.structure import Plan
from anechoic.index.vectors import Mapped, project
from anechoic.storage import Storage, whole_file

FOLDER = "search"
RESIDENT = 2 * 2**30  # bytes of vectors that are searched in memory, where nothing is derived

Progress = Callable[[str, int, int], None]  # what is being done, shards done, shards in all
# codes of some shards, as they are made: elsewhere, with `anechoic_ray.encode`
Encode = Callable[[Storage, Manifest, bytes, Sequence[Shard]], Iterable[tuple[Shard, np.ndarray]]]


def derive(
    folder: Path,
    manifest: Manifest,
    plan: Plan,
    *,
    encode: Encode | None = None,
    progress: Progress = lambda what, done, total: None,
) -> None:
    """Make the search of an index; what a stopped run has finished is not made again.

    After clips were added or removed, only the changed shards are encoded, in the structure that
    was trained before.

    Args:
        folder: of the index, on this machine.
        manifest: of the index.
        plan: how to search; an exact one needs nothing on disk, and what is there is removed.
        encode: makes the codes of the shards whose codes are missing; by default it is done here.
        progress: told of each shard.

    Raises:
        CannotWrite: the disk is full or read-only.
        IndexMismatch: the shards are damaged.
    """
    place = Storage(folder)
    place.remove(f"{FOLDER}/about.json")
    if plan.kind == "exact":
        place.remove(FOLDER)
        return
    with place.alone(), place.writing():
        made = folder / FOLDER
        (made / "codes").mkdir(parents=True, exist_ok=True)
        _lay_out(place, manifest, made, progress)
        vectors = np.load(made / "vectors.npy", mmap_mode="r")
        trained = _trained(made, manifest, plan, vectors)
        _encode(place, made, manifest, trained, encode or _here(manifest, vectors), progress)
        codes = (np.load(_codes(made, shard)) for shard in manifest.shards)
        structure.assemble(trained, codes, made / "index.faiss")
        wanted = {_codes(made, shard) for shard in manifest.shards}
        for file in set((made / "codes").iterdir()) - wanted:
            file.unlink()  # of shards that were removed or replaced
        about = {"of": manifest.content, "plan": asdict(plan)}
        place.write(f"{FOLDER}/about.json", json.dumps(about, indent=1).encode())


def open_search(folder: Path, manifest: Manifest) -> tuple[Mapped, StoredClips] | None:
    """The derived search of an index, or None where nothing was derived.

    Raises:
        IndexMismatch: it was derived from other shards, was stopped, or is damaged.
    """
    made = folder / FOLDER
    try:
        about = json.loads((made / "about.json").read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        if made.is_dir():
            raise stale(folder, "was not finished") from None
        return None
    if about["of"] != manifest.content:
        raise stale(folder, "is older than its shards")
    plan = Plan(**about["plan"])
    try:
        searcher = structure.open_searcher(made / "index.faiss", plan)
        mapped = Mapped(made / "vectors.npy", searcher, plan.candidates)
    except (OSError, ValueError) as error:
        raise stale(folder, f"is damaged ({error})") from error
    clips = StoredClips(made / "clips.arrow")
    if not len(mapped) == len(clips) == manifest.rows:
        raise stale(folder, "is damaged: not a row for each row")
    return mapped, clips


def told(plan: Plan | None) -> str:
    """How an index is searched, for people; None: nothing was derived."""
    if plan is None or plan.kind == "exact":
        return "exact, in memory"
    return (
        f"IVF-PQ from disk: {plan.probes} of {plan.lists} lists, codes of {plan.code_bytes} bytes, "
        f"{plan.candidates} candidates scored exactly"
    )


def plan_of(folder: Path) -> Plan | None:
    """How an index is searched, or None where nothing was derived; its files are not looked at."""
    try:
        about = json.loads((folder / FOLDER / "about.json").read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    return Plan(**about["plan"])


def require_small(place: Storage, manifest: Manifest) -> None:
    """Refuse to search in memory what is too large for it.

    Raises:
        IndexMismatch: with the mend.
    """
    size = manifest.rows * manifest.dim * 4
    if size <= RESIDENT:
        return
    held = f"index '{place.name}' holds {size / 2**30:.1f} GiB of vectors"
    if place.local is None:
        raise IndexMismatch(
            f"{held} and is not on this machine; fetch it with 'anechoic index fetch {place.name}'"
        )
    raise IndexMismatch(
        f"{held} and has no search yet; make it with 'anechoic index optimise {place.name}'"
    )


def stale(folder: Path, what: str) -> IndexMismatch:
    """The error for a search that cannot serve."""
    return IndexMismatch(
        f"the search of index '{folder}' {what}; make it again with 'anechoic index optimise "
        f"{folder}'"
    )


def _lay_out(place: Storage, manifest: Manifest, made: Path, progress: Progress) -> None:
    """Write the vectors and the clips of all shards, each as one file."""
    import pyarrow as pa

    done = made / "laid-out.json"
    if done.exists() and json.loads(done.read_text()) == manifest.content:
        return
    done.unlink(missing_ok=True)
    mean = None if manifest.mean is None else torch.tensor(manifest.mean)
    shape = (manifest.rows, manifest.dim)
    with (
        whole_file(made / "vectors.npy", alone=True) as vectors_part,
        whole_file(made / "clips.arrow", alone=True) as clips_part,
    ):
        vectors = np.lib.format.open_memmap(vectors_part, "w+", manifest.dtype, shape)
        start, writer = 0, None
        for number, shard in enumerate(manifest.shards):
            table = shards.read_table(place, shard)
            rows = project(torch.from_numpy(shards.embeddings_of(table)), mean)
            vectors[start : start + shard.rows] = rows.numpy()
            start += shard.rows
            about = table.drop_columns("embedding")
            writer = writer or pa.ipc.new_file(str(clips_part), about.schema)
            writer.write_table(about)
            progress("laying out", number + 1, len(manifest.shards))
        assert writer is not None  # an index has a shard
        writer.close()
        vectors.flush()
    place.write(f"{FOLDER}/{done.name}", json.dumps(manifest.content).encode())


def _trained(made: Path, manifest: Manifest, plan: Plan, vectors: np.ndarray) -> bytes:
    """The trained structure: the one that is there, if it is of this plan."""
    file, note = made / "trained.bin", made / "trained.json"
    # what a query looks at may be changed without training again
    wanted = {"plan": asdict(replace(plan, probes=0, candidates=0)), "mean": hash_of(manifest.mean)}
    if file.exists() and note.exists() and json.loads(note.read_text()) == wanted:
        return file.read_bytes()
    note.unlink(missing_ok=True)
    rows = np.unique(np.linspace(0, len(vectors) - 1, plan.sample).round().astype(np.int64))
    trained = structure.train(vectors[rows].astype(np.float32), plan)
    Storage(made).write(file.name, trained)
    Storage(made).write(note.name, json.dumps(wanted).encode())
    shutil.rmtree(made / "codes")
    (made / "codes").mkdir()
    return trained


def _codes(made: Path, shard: Shard) -> Path:
    return made / "codes" / f"{shard.sha256[:24]}.npy"


def _encode(
    place: Storage,
    made: Path,
    manifest: Manifest,
    trained: bytes,
    encode: Encode,
    progress: Progress,
) -> None:
    """Encode the shards whose codes are not there."""
    missing = [shard for shard in manifest.shards if not _codes(made, shard).exists()]
    done = len(manifest.shards) - len(missing)
    for number, (shard, codes) in enumerate(encode(place, manifest, trained, missing), done + 1):
        buffer = io.BytesIO()
        np.save(buffer, codes)
        Storage(made / "codes").write(_codes(made, shard).name, buffer.getvalue())
        progress("encoding", number, len(manifest.shards))


def _here(manifest: Manifest, vectors: np.ndarray) -> Encode:
    """Encode on this machine, from the vectors that are laid out."""
    ends = np.cumsum([shard.rows for shard in manifest.shards]).tolist()
    stretch = {
        shard.name: slice(end - shard.rows, end)
        for shard, end in zip(manifest.shards, ends, strict=True)
    }

    def encode(
        place: Storage, manifest: Manifest, trained: bytes, wanted: Sequence[Shard]
    ) -> Iterable[tuple[Shard, np.ndarray]]:
        for shard in wanted:
            yield shard, structure.encode(trained, vectors[stretch[shard.name]].astype(np.float32))

    return encode
