"""The files that search a large index: derived from its shards, and made again at any time.

search/
  vectors.npy     projected vectors [n, d], memory-mapped
  clips.arrow     the clips of the rows, memory-mapped
  trained.bin     the empty search structure
  codes/*.npy     the codes of each shard, named by its hash and their own
  index.faiss     the structure with all codes, memory-mapped
  about.json      the plan, written first, and at the end a hash of the rows that it is derived
                  from, and the hashes of the mapped files
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anechoic.errors import IndexMismatch
from anechoic.index import shards, structure
from anechoic.index.filehash import FileHash
from anechoic.index.manifest import Manifest, hash_of
from anechoic.index.shards import Shard
from anechoic.index.stored import StoredClips
from anechoic.index.structure import Plan
from anechoic.index.vectors import Mapped, project
from anechoic.parsing import parse_json, parse_object, parse_record
from anechoic.storage import Storage, whole_file

FOLDER = "search"
ABOUT = f"{FOLDER}/about.json"
LAID_OUT_NOTE = "laid-out.json"
LAID_OUT = ("vectors.npy", "clips.arrow")
MAPPED = (*LAID_OUT, "index.faiss")
RESIDENT = 2 * 2**30  # bytes of vectors that may be searched in memory, if nothing is derived

Progress = Callable[[str, int, int], None]  # the current task, shards done, shards in all
# yields the codes of some shards as they are made, such as by `anechoic_ray.encode`
Encode = Callable[[Storage, Manifest, bytes, Sequence[Shard]], Iterable[tuple[Shard, np.ndarray]]]


def derive(
    folder: Path,
    manifest: Manifest,
    plan: Plan,
    *,
    encode: Encode | None = None,
    progress: Progress = lambda what, done, total: None,
) -> None:
    """Make the search of an index, or continue one that was stopped.

    After clips were added or removed, only the changed shards are encoded, with the structure that
    was trained before.

    Args:
        folder: the folder of the index, on this machine.
        manifest: the manifest of the index.
        plan: how to search; an exact plan needs no files, so existing ones are removed.
        encode: makes missing codes; by default, this process does.
        progress: called after each shard.

    Raises:
        CannotWrite: the disk is full or read-only.
        IndexMismatch: the shards are damaged.
    """
    place = Storage(folder)
    if plan.kind == "exact" and not place.exists(FOLDER):
        return
    with place.alone(), place.writing():
        make(place, manifest, plan, encode, progress)


def make(
    place: Storage,
    manifest: Manifest,
    plan: Plan,
    encode: Encode | None = None,
    progress: Progress = lambda what, done, total: None,
) -> None:
    """`derive`, for a caller that has locked the index."""
    if place.local is None:
        return
    if plan.kind == "exact":
        place.remove(ABOUT)
        place.remove(FOLDER)
        return
    made = place.local / FOLDER
    begin(place, plan)
    (made / "codes").mkdir(exist_ok=True)
    laid_out = _lay_out(place, manifest, made, progress)
    vectors = np.load(made / "vectors.npy", mmap_mode="r")
    trained = _trained(made, manifest, plan, vectors)
    encode = encode or _here(manifest, vectors)
    files = _encode(place, made, manifest, trained, encode, progress)
    codes = (np.load(files[shard.name]) for shard in manifest.shards)
    structure.assemble(trained, codes, made / "index.faiss")
    for file in set((made / "codes").iterdir()) - set(files.values()):
        file.unlink()  # codes of shards that were removed or replaced
    hashes = laid_out | {"index.faiss": FileHash.of(made / "index.faiss")}
    _write_about(place, plan, manifest.content, hashes)


def begin(place: Storage, plan: Plan) -> None:
    """Record that a search will be made by this plan: a stopped command continues with it."""
    _write_about(place, plan, "", {})


def discard(place: Storage, manifest: Manifest) -> None:
    """Remove files of a search that belong to other rows than the index's; its plan stays."""
    if is_finished(place, manifest):
        return
    made, codes = Path(place.path(FOLDER)), {shard.sha256[:24] for shard in manifest.shards}
    note = _note(made / LAID_OUT_NOTE)
    current = isinstance(note, dict) and note.get("of") == manifest.content
    stays = {"about.json", "trained.bin", "trained.json", "codes"}
    stays |= {*LAID_OUT, LAID_OUT_NOTE} if current else set()
    for file in (*made.glob("*"), *made.glob("codes/*")):
        known = stays if file.parent == made else codes
        if file.name.partition("-")[0] not in known and file.name not in known:
            with place.writing():
                file.unlink()


def is_finished(place: Storage, manifest: Manifest) -> bool:
    """Whether an index has the search that was begun for it, or none was begun."""
    if place.local is None or not place.exists(FOLDER):
        return True
    about = _read_about(place.local)
    return about is not None and about.of == manifest.content


def open_search(
    folder: Path, manifest: Manifest, *, whole: bool = False
) -> tuple[Mapped, StoredClips] | None:
    """The derived search of an index; None if nothing was derived.

    The mapped files are compared with their hashes: sampled blocks, or the `whole` files.

    Raises:
        IndexMismatch: it was derived from other shards, was stopped, or is damaged.
    """
    made = folder / FOLDER
    about = _read_about(folder)
    if about is None:
        if made.is_dir():
            raise stale(folder, "was not finished")
        return None
    if about.of != manifest.content:
        raise stale(folder, "is older than its shards" if about.of else "was not finished")
    plan = about.plan
    try:
        for name in MAPPED:
            if not about.files[name].fits(made / name, whole=whole):
                raise stale(folder, f"is damaged ({name} is not the file that was written)")
        searcher = structure.open_searcher(made / "index.faiss", plan)
        mapped = Mapped(made / "vectors.npy", searcher, plan.candidates)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise stale(folder, f"is damaged ({error})") from error
    clips = StoredClips(made / "clips.arrow")
    if not len(mapped) == len(clips) == manifest.rows or mapped.dim != manifest.dim:
        raise stale(folder, "is damaged: its rows are not those of the index")
    return mapped, clips


def format_plan(plan: Plan | None) -> str:
    """A plan as text for people; None: nothing was derived."""
    if plan is None or plan.kind == "exact":
        return "exact, in memory"
    return (
        f"IVF-PQ from disk: {plan.probes} of {plan.lists} lists, codes of {plan.code_bytes} bytes, "
        f"{plan.candidates} candidates scored exactly"
    )


def plan_of(folder: Path) -> Plan | None:
    """How an index is searched, or None where nothing was derived; its files are not looked at."""
    about = _read_about(folder)
    return None if about is None else about.plan


@dataclass(frozen=True)
class DerivedSearch:
    """What a search says of itself."""

    of: str  # `Manifest.content` of the index; "": it is not finished
    plan: Plan
    files: dict[str, FileHash]


def _read_about(folder: Path) -> DerivedSearch | None:
    """What a search says of itself, checked against its own hash; None where it says nothing.

    Raises:
        IndexMismatch: it is damaged or was edited.
    """

    def damaged(reason: str) -> IndexMismatch:
        return stale(folder, f"is damaged ({reason})")

    try:
        about = parse_object((folder / ABOUT).read_bytes(), ABOUT, damaged)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if about.pop("sha256", None) != hash_of(about):
        raise damaged("about.json is not what was written")
    return parse_record(DerivedSearch, about, ABOUT, damaged)


def _write_about(place: Storage, plan: Plan, of: str, files: dict[str, FileHash]) -> None:
    hashes = {name: asdict(known) for name, known in files.items()}
    about: dict[str, Any] = {"of": of, "plan": asdict(plan), "files": hashes}
    about["sha256"] = hash_of(about)
    place.write(ABOUT, json.dumps(about, indent=1).encode())


def require_small(place: Storage, manifest: Manifest) -> None:
    """Refuse to search in memory what is too large for it.

    Raises:
        IndexMismatch: it is too large.
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
    """The error for a search that cannot be used."""
    return IndexMismatch(
        f"the search of index '{folder}' {what}; make it again with 'anechoic index optimise "
        f"{folder}'"
    )


def _lay_out(
    place: Storage, manifest: Manifest, made: Path, progress: Progress
) -> dict[str, FileHash]:
    """Write the vectors and the clips of all shards to a file each, and return their hashes."""
    import pyarrow as pa

    if (hashes := _laid_out(made, manifest)) is not None:
        return hashes
    place.remove(f"{FOLDER}/{LAID_OUT_NOTE}")
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
        del vectors  # on Windows a mapped file cannot be renamed
    hashes = {name: FileHash.of(made / name) for name in LAID_OUT}
    note = {"of": manifest.content, "files": {name: asdict(h) for name, h in hashes.items()}}
    place.write(f"{FOLDER}/{LAID_OUT_NOTE}", json.dumps(note).encode())
    return hashes


def _laid_out(made: Path, manifest: Manifest) -> dict[str, FileHash] | None:
    """The hashes of the files that are laid out, if they are whole and belong to these rows."""
    note = _note(made / LAID_OUT_NOTE)
    try:
        if note["of"] != manifest.content:
            return None
        hashes = FileHash.read(note["files"])
        whole = all(hashes[name].fits(made / name, whole=True) for name in LAID_OUT)
    except (KeyError, TypeError, AttributeError, OSError):
        return None
    return hashes if whole else None


def _note(file: Path) -> Any:
    """The content of a note on finished work; None if it is missing or damaged."""
    try:
        return parse_json(file.read_bytes(), file.name, IndexMismatch)
    except (OSError, IndexMismatch):
        return None


def _trained(made: Path, manifest: Manifest, plan: Plan, vectors: np.ndarray) -> bytes:
    """The trained structure: the existing one, if it is whole and belongs to this plan."""
    file, note = made / "trained.bin", made / "trained.json"
    # probes and candidates may change without training again
    wanted = {"plan": asdict(replace(plan, probes=0, candidates=0)), "mean": hash_of(manifest.mean)}
    if file.exists():
        trained = file.read_bytes()
        if _note(note) == wanted | {"sha256": hashlib.sha256(trained).hexdigest()}:
            return trained
    note.unlink(missing_ok=True)
    rows = np.unique(np.linspace(0, len(vectors) - 1, plan.sample).round().astype(np.int64))
    trained = structure.train(vectors[rows].astype(np.float32), plan)
    shutil.rmtree(made / "codes")
    (made / "codes").mkdir()
    Storage(made).write(file.name, trained)
    wanted["sha256"] = hashlib.sha256(trained).hexdigest()
    Storage(made).write(note.name, json.dumps(wanted).encode())
    return trained


def _codes(made: Path, shard: Shard) -> Path | None:
    """The codes of a shard, if they exist and are whole."""
    for file in (made / "codes").glob(f"{shard.sha256[:24]}-*.npy"):
        if file.stem.endswith(hashlib.sha256(file.read_bytes()).hexdigest()[:24]):
            return file
    return None


def _encode(
    place: Storage,
    made: Path,
    manifest: Manifest,
    trained: bytes,
    encode: Encode,
    progress: Progress,
) -> dict[str, Path]:
    """Encode the shards without codes, and return the files of all codes by their shards."""
    found = {shard.name: _codes(made, shard) for shard in manifest.shards}
    files = {name: file for name, file in found.items() if file}
    missing = [shard for shard in manifest.shards if shard.name not in files]
    for number, (shard, codes) in enumerate(
        encode(place, manifest, trained, missing), len(files) + 1
    ):
        buffer = io.BytesIO()
        np.save(buffer, codes)
        own = hashlib.sha256(buffer.getvalue()).hexdigest()[:24]
        name = f"{shard.sha256[:24]}-{own}.npy"
        Storage(made / "codes").write(name, buffer.getvalue())
        files[shard.name] = made / "codes" / name
        progress("encoding", number, len(manifest.shards))
    return files


def _here(manifest: Manifest, vectors: np.ndarray) -> Encode:
    """Encode in this process, from the vectors that are laid out."""
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
