"""Hashes of large files: sampled blocks are compared on every opening, whole files on request."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

BLOCK = 2**17  # bytes
BLOCKS = 64  # blocks that are compared on every opening: all of a file of up to 8 MiB


@dataclass(frozen=True)
class FileHash:
    """The hashes of a file when it was written."""

    bytes: int
    sampled: str  # SHA-256 of its size and of evenly spread blocks
    sha256: str

    @classmethod
    def of(cls, path: Path) -> FileHash:
        """Read a file whole. Raises `OSError`."""
        with path.open("rb") as file:
            whole = hashlib.file_digest(file, "sha256").hexdigest()
        return cls(path.stat().st_size, _sampled(path), whole)

    def fits(self, path: Path, *, whole: bool = False) -> bool:
        """Whether a file is unchanged; of a large one, only the size and sampled blocks are
        compared unless `whole`. Raises `OSError`."""
        if path.stat().st_size != self.bytes:
            return False
        return self == FileHash.of(path) if whole else self.sampled == _sampled(path)

    @classmethod
    def read(cls, files: Mapping[str, Any]) -> dict[str, FileHash]:
        """The hashes of some files by name, as JSON holds them."""
        return {name: cls(**content) for name, content in files.items()}


def contents(files: Sequence[str | Path]) -> list[str]:
    """What tells the contents of files of this machine apart: SHA-256 of their sizes and bytes, of
    which those of large files are sampled. A file that did not change is read once.

    Raises:
        OSError: a file cannot be read.
    """

    def content(file: str | Path) -> str:
        found = os.stat(file)
        return _content(os.fspath(file), found.st_size, found.st_mtime_ns, found.st_ino)

    with ThreadPoolExecutor() as pool:
        return list(pool.map(content, files))


@lru_cache(maxsize=2**20)
def _content(file: str, *version: int) -> str:
    return _sampled(Path(file))


def _sampled(path: Path) -> str:
    size = path.stat().st_size
    last = max(size - BLOCK, 0)
    starts = sorted({last * number // (BLOCKS - 1) for number in range(BLOCKS)})
    if size <= BLOCK * BLOCKS:
        starts = list(range(0, size, BLOCK))
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb", buffering=0) as file:
        for start in starts:
            file.seek(start)
            digest.update(file.read(BLOCK))
    return digest.hexdigest()
