"""Files and folders that are written whole or not at all, locks, and storage on this machine or
wherever fsspec reaches."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from anechoic.errors import BadSetting, CannotWrite

LOCK = ".lock"  # in a folder that is written to


@contextmanager
def whole_file(path: Path, *, sync: bool = True, alone: bool = False) -> Iterator[Path]:
    """Give a hidden name beside `path` to write to, renamed to `path` if the block succeeds.

    Args:
        path: in a folder that exists; an existing file is replaced.
        sync: wait for the disk, so that a renamed file is complete even after a power cut.
        alone: no other process writes here, so overwrite what a killed process left.
    """
    part = path.with_name(f".{path.name}.{'part' if alone else secrets.token_hex(4)}")
    try:
        yield part
        if sync:
            with part.open("r+b") as file:
                os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_whole(path: Path, content: bytes, *, sync: bool = True, alone: bool = False) -> None:
    """Write a file whole or not at all. The arguments are those of `whole_file`."""
    with whole_file(path, sync=sync, alone=alone) as part:
        part.write_bytes(content)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder beside `path` to fill, renamed to `path` if the block succeeds.

    An existing folder is replaced; missing parents are made.
    """
    part = path.with_name(f".{path.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        replace_folder(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def replace_folder(new: Path, path: Path) -> None:
    """Rename a finished folder to `path`, over one that may be there; each is always whole."""
    old = path.with_name(f"{path.name}.old")
    if old.exists():  # a killed process left it
        shutil.rmtree(old)
    if path.exists():
        path.rename(old)
    new.rename(path)
    if old.exists():
        shutil.rmtree(old)


@contextmanager
def locked(file: Path, busy: Exception) -> Iterator[None]:
    """Hold a lock, which ends with this process even if killed; raise `busy` if it is taken."""
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


def file_system(name: str) -> tuple[Any, str]:
    """The fsspec file system that a path or URL is on, and its path there.

    Raises:
        BadSetting: a protocol that is unknown, or needs a package that is not installed.
    """
    try:
        system, path = fsspec.core.url_to_fs(name)
    except Exception as error:  # of any file system: a protocol, a package or a login is missing
        raise BadSetting(
            f"'{name}' cannot be reached ({error}); check its protocol, and that the package of "
            "fsspec for it is installed"
        ) from error
    if name.find("://") == 1:  # fsspec takes one letter for a drive of Windows
        raise BadSetting(f"'{name}' cannot be reached (protocol '{name[0]}' is unknown); check it")
    return system, str(path)


class Storage:
    """Files below one folder, by name; each is written whole or not at all.

    Args:
        where: a path, or a URL such as s3://bucket/clips.index.

    Raises:
        BadSetting: a URL whose protocol is unknown, or needs a package that is not installed.
    """

    def __init__(self, where: str | Path):
        self.name = str(where)
        self.fs, root = file_system(self.name)
        self.root = root.rstrip("/")

    @property
    def local(self) -> Path | None:
        """The folder, if it is on this machine."""
        return Path(self.root) if isinstance(self.fs, LocalFileSystem) else None

    def path(self, name: str) -> str:
        """A file's full path on `fs`."""
        return f"{self.root}/{name}" if name else self.root

    def exists(self, name: str = "") -> bool:
        """Whether a file or folder exists; without a name, whether the storage itself does."""
        return bool(self.fs.exists(self.path(name)))

    def names(self, folder: str, *, hidden: bool = False) -> list[str]:
        """The names of the files in a folder, sorted; none if the folder does not exist.

        `hidden` includes files that are being written, or were when a process was killed.
        """
        try:
            found = self.fs.ls(self.path(folder), detail=False, refresh=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        names = (path.rstrip("/").rsplit("/", 1)[-1] for path in found)
        return sorted(name for name in names if hidden or not name.startswith("."))

    def size(self, name: str) -> int:
        """The size of a file in bytes. Raises `FileNotFoundError`."""
        return int(self.fs.size(self.path(name)))

    def read(self, name: str) -> bytes:
        """The content of a file. Raises `FileNotFoundError`."""
        content: bytes = self.fs.cat_file(self.path(name))
        return content

    def write(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all.

        Raises:
            CannotWrite: the storage is full or read-only.
        """
        with self.writing():
            if self.local is None:
                self.fs.pipe_file(self.path(name), data)  # an object store stores all or nothing
                return
            target = Path(self.path(name))
            target.parent.mkdir(parents=True, exist_ok=True)
            write_whole(target, data, alone=True)

    def remove(self, name: str) -> None:
        """Remove a file or folder, if it exists; without a name, everything."""
        with self.writing():
            if self.exists(name):
                self.fs.rm(self.path(name), recursive=True)

    def replace_with(self, new: Storage) -> None:
        """Rename finished storage on this machine over this one.

        Raises:
            CannotWrite: the disk is read-only.
        """
        with self.writing():
            replace_folder(Path(new.root), Path(self.root))

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turn an error of the filesystem into one sentence."""
        try:
            yield
        except OSError as error:
            raise CannotWrite(
                f"'{self.name}' cannot be written to ({error.strerror or error}); free some space "
                "or name another place, and start again: finished work is not lost"
            ) from error

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Lock this storage against other writers; on this machine only.

        Raises:
            CannotWrite: another process is writing here.
        """
        if self.local is None:
            yield
            return
        if not self.local.is_dir():
            with self.writing():
                self.local.mkdir(parents=True, exist_ok=True)
        busy = CannotWrite(
            f"another process is writing to '{self.name}'; wait for it, or name another place"
        )
        with locked(self.local / LOCK, busy):
            yield
