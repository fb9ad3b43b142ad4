"""Files that are written whole or not at all, work folders that one process holds, and storage:
a folder of this machine, or wherever fsspec reaches."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from anechoic.errors import CannotWrite

BUILD_LOCK = ".lock"


def write_whole(path: Path, content: bytes, *, sync: bool = True, alone: bool = False) -> None:
    """Write a file under another name and rename it: it is whole, or not there.

    Args:
        path: in a folder that exists.
        content: of the file.
        sync: wait for the disk, so that a renamed file is written, after a power cut too.
        alone: nobody else writes here, so that what a killed process left is written over.
    """
    part = path.with_name(f".{path.name}.{'part' if alone else secrets.token_hex(4)}")
    try:
        with part.open("wb") as file:
            file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def locked(file: Path, busy: Exception) -> Iterator[None]:
    """Hold a lock that ends with this process, however it ends; `busy` is raised if it is held."""
    from filelock import FileLock, Timeout

    lock = FileLock(file, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise busy from error
    try:
        yield
    finally:
        lock.release()


class Storage:
    """Files below one folder, by name; each is written whole or not at all.

    Args:
        where: a path, or a URL such as s3://bucket/clips.index.
    """

    def __init__(self, where: str | Path):
        self.name = str(where)
        self.fs, self.root = fsspec.core.url_to_fs(self.name)
        self.root = self.root.rstrip("/")

    @property
    def local(self) -> Path | None:
        """The folder, if it is one of this machine."""
        return Path(self.root) if isinstance(self.fs, LocalFileSystem) else None

    def path(self, name: str) -> str:
        """A file's full path, as the filesystem `fs` takes it."""
        return f"{self.root}/{name}" if name else self.root

    def exists(self, name: str = "") -> bool:
        """Whether there is such a file or folder; without a name, whether the place is there."""
        return self.fs.exists(self.path(name))

    def names(self, folder: str) -> list[str]:
        """The files of a folder, sorted; none where there is no such folder."""
        try:
            found = self.fs.ls(self.path(folder), detail=False, refresh=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        names = (path.rstrip("/").rsplit("/", 1)[-1] for path in found)
        return sorted(name for name in names if not name.startswith("."))

    def size(self, name: str) -> int:
        """Of a file, in bytes. Raises `FileNotFoundError`."""
        return int(self.fs.size(self.path(name)))

    def read(self, name: str) -> bytes:
        """A file. Raises `FileNotFoundError`."""
        return self.fs.cat_file(self.path(name))

    def write(self, name: str, data: bytes) -> None:
        """Write a file, under another name first where this is a folder of this machine.

        Raises:
            CannotWrite: the place is full or read-only.
        """
        with self.writing():
            if self.local is None:
                self.fs.pipe_file(self.path(name), data)  # an object store keeps all or nothing
                return
            target = Path(self.path(name))
            target.parent.mkdir(parents=True, exist_ok=True)
            write_whole(target, data, alone=True)

    def remove(self, name: str) -> None:
        """Remove a file or a folder, if it is there; without a name, all of the place."""
        with self.writing():
            if self.exists(name):
                self.fs.rm(self.path(name), recursive=True)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turn what a filesystem complains of into one sentence."""
        try:
            yield
        except OSError as error:
            raise CannotWrite(
                f"'{self.name}' cannot be written to ({error.strerror or error}); free some space "
                "or name another place, and start again: what was finished is kept"
            ) from error

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep others from writing here; on this machine only, where a lock ends with its holder.

        Raises:
            CannotWrite: another process is writing here.
        """
        if self.local is None:
            yield
            return
        with self.writing():
            self.local.mkdir(parents=True, exist_ok=True)
        busy = CannotWrite(
            f"another process is writing to '{self.name}'; wait for it, or name another place"
        )
        with locked(self.local / BUILD_LOCK, busy):
            yield
