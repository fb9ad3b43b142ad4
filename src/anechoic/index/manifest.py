"""The manifest of an index: one JSON file with the hashes of all its files, and its own.

The manifest is written last; an index exists once it has one.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from anechoic import __version__
from anechoic.errors import IndexMismatch
from anechoic.index.shards import Shard, damaged
from anechoic.parsing import parse_object, parse_record
from anechoic.storage import Storage

FORMAT = 2
NAME = "manifest.json"
BESIDE = ("format", "anechoic", "rows", "clips")  # what it tells of itself, and sums
RESTORE = "restore it, or rebuild the index with 'anechoic index build'"
NOTES = "building"  # the folder for the notes of an unfinished build
LATENTS = "latents"  # the folder for the latents of the clips, an index itself


@dataclass(frozen=True)
class About:
    """How the rows of an index were made, and what they are for."""

    embedder_name: str
    sample_rate: int | None  # sample rate of the embedder in Hz; None: it was never loaded here
    centred: bool = True
    window_s: float | None = None  # None: a row is a whole clip
    hop_s: float | None = None
    revision: str | None = None  # revision of the embedder's weights, if it has any
    model: str | None = None  # the fingerprint of the model that was trained on the clips
    thresholds: dict[str, float] = field(default_factory=dict)  # "copy": a copy scores above it
    clips_folder: str | None = None  # where the clips' paths start
    covers: tuple[str, ...] = ()  # fingerprints of more models that know the clips, as with a LoRA


@dataclass(frozen=True)
class Manifest:
    """The shards of an index, in the order of its rows."""

    about: About
    dim: int
    dtype: str
    mean: tuple[float, ...] | None  # the mean that is subtracted; None: the index is not centred
    shards: tuple[Shard, ...]
    plan: str = ""  # a hash of what it was built from, and how; "": it was made in memory

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    @property
    def clips(self) -> int:
        """Training clips that the rows come from."""
        return sum(shard.clips for shard in self.shards)

    @property
    def content(self) -> str:
        """A hash of all rows, and of the mean."""
        return hash_of([[shard.sha256 for shard in self.shards], self.mean])

    def write(self, place: Storage) -> None:
        """Write the manifest; the index exists from then on.

        Raises:
            CannotWrite: the storage is full or read-only.
        """
        record = {
            "format": FORMAT,
            "anechoic": __version__,
            "rows": self.rows,
            "clips": self.clips,
            **asdict(self),
        }
        record["sha256"] = hash_of(record)
        place.write(NAME, (json.dumps(record, indent=1) + "\n").encode())


def read(place: Storage) -> Manifest:
    """The manifest of an index, which is checked against its own hash.

    Raises:
        IndexMismatch: no index, an unfinished build, another format, or an edited manifest.
    """
    try:
        content = place.read(NAME)
    except (FileNotFoundError, NotADirectoryError):
        begun = place.exists(NOTES)
        raise IndexMismatch(
            f"index '{place.name}' is not finished: its build was stopped; run the same "
            "'anechoic index build' again, which continues it"
            if begun
            else f"index '{place.name}' does not exist (no {NAME}); build one with 'anechoic index "
            "build'"
        ) from None
    record = parse_object(content, f"{NAME} of index '{place.name}'", IndexMismatch, RESTORE)
    version = record.get("format")
    if not isinstance(version, int) or version < 1:
        raise damaged(place, f"{NAME} has no format")
    if version != FORMAT:
        fix = "upgrade anechoic" if version > FORMAT else "rebuild it with 'anechoic index build'"
        raise IndexMismatch(
            f"index '{place.name}' has format {version}, and anechoic {__version__} reads format "
            f"{FORMAT}; {fix}"
        )
    if record.pop("sha256", None) != hash_of(record):
        raise damaged(place, f"{NAME} is not what was written")
    fields = {name: value for name, value in record.items() if name not in BESIDE}
    manifest = parse_record(Manifest, fields, place.path(NAME), IndexMismatch, RESTORE)
    sizes = [manifest.dim, *(shard.rows for shard in manifest.shards)]
    if min(sizes) < 0 or (manifest.mean and len(manifest.mean) != manifest.dim):
        raise damaged(place, f"{NAME} tells sizes that cannot be")
    return manifest


def hash_of(value: Any) -> str:
    """Of a JSON value, however it is laid out."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
