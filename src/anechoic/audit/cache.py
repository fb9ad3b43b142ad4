"""The work folder of an audit: what is finished is a file in it, named by all that determines it.

A file is written under another name and renamed, so it is whole or not there; what is read back is
checked, and what cannot be trusted is made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from anechoic.audit.examine import SampleResult
from anechoic.audit.excerpts import Picture, Shown
from anechoic.detectors import Match
from anechoic.errors import BadSetting

FORMAT = 1


def identity(*parts: Any) -> str:
    """A hash of whatever JSON can hold."""
    content = json.dumps([FORMAT, *parts], sort_keys=True, default=str)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class ResultCache:
    """A work folder; audits may share it."""

    folder: Path

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the folder; the lock ends with the process, however it ends.

        Raises:
            BadSetting: another audit holds it.
        """
        for name in ("sounds", "examined", "media"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.folder / "audit.lock", timeout=0):
                yield
        except Timeout as error:
            raise BadSetting(
                f"another audit is at work in '{self.folder}'; wait for it, or name another "
                "'--work'"
            ) from error

    def sound(self, name: str) -> Path:
        """Where a generated sound belongs."""
        return self.folder / "sounds" / f"{name}.flac"

    def medium(self, key: str) -> Path:
        """Where a sound or picture for the report is."""
        return self.folder / "media" / key

    def put(self, content: bytes, suffix: str) -> str:
        """Keep a sound or picture under the hash of its bytes; the key to find it by."""
        key = _key(content, suffix)
        if not self._has(key):
            write_whole(self.medium(key), content, sync=False)
        return key

    def _has(self, key: str) -> bool:
        path = self.medium(key)
        return path.is_file() and _key(path.read_bytes(), path.suffix) == key

    def examination(self, name: str) -> SampleResult | None:
        """What was found of a sound; None where it was not examined, or no longer can be trusted:
        its file is damaged, or a picture that it names is gone."""
        try:
            content = json.loads(self._path(name).read_text("utf-8"))
            found = _loaded(content["examination"]) if content["identity"] == name else None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if found is None or (found.shown and not all(map(self._has, found.shown.keys))):
            return None
        return found

    def keep(self, name: str, examination: SampleResult) -> None:
        """Keep what was found of a sound."""
        content = {"identity": name, "examination": asdict(examination)}
        text = json.dumps(content, default=_dictionary)
        write_whole(self._path(name), text.encode())

    def _path(self, name: str) -> Path:
        return self.folder / "examined" / f"{name}.json"


def _key(content: bytes, suffix: str) -> str:
    return hashlib.sha256(content).hexdigest()[:20] + suffix


def write_whole(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Write a file whole, or not at all; in sync, renamed means written, after a power cut too."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with part.open("wb") as file:
            file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _dictionary(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)


def _loaded(content: Mapping[str, Any]) -> SampleResult:
    findings = {name: Match(**told) for name, told in content["findings"].items()}
    shown = None
    if content["shown"] is not None:
        pictures = {
            name: told and Picture(**told)
            for name, told in content["shown"].items()
            if name in ("made", "training", "own")
        }
        shown = Shown(**{**content["shown"], **pictures})
    match = Match(**content["match"])
    return SampleResult(**{**content, "findings": findings, "match": match, "shown": shown})
