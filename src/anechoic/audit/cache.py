"""The work folder of an audit: generated sounds, results, and the media of the report."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anechoic.audit.examine import SampleResult
from anechoic.audit.excerpts import Picture, Shown
from anechoic.cache import ResultCache, Untrusted
from anechoic.detectors import Match
from anechoic.storage import write_whole


@dataclass(frozen=True)
class AuditCache(ResultCache):
    """A work folder that audits can share."""

    user: str = "audit"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """See `ResultCache.alone`."""
        for name in ("sounds", "media"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        with super().alone():
            yield

    def sound(self, name: str) -> Path:
        """The file of a generated sound."""
        return self.folder / "sounds" / f"{name}.flac"

    def medium(self, key: str) -> Path:
        """The file of a sound or picture for the report."""
        return self.folder / "media" / key

    def add_medium(self, content: bytes, suffix: str) -> str:
        """Store a sound or picture under the hash of its bytes; returns its key."""
        key = _key(content, suffix)
        if not self._has(key):
            write_whole(self.medium(key), content, sync=False)
        return key

    def _has(self, key: str) -> bool:
        path = self.medium(key)
        return path.is_file() and _key(path.read_bytes(), path.suffix) == key

    def result(self, name: str) -> SampleResult | None:
        """The result of a sound; None if there is none, it cannot be trusted, or a picture of it
        is missing."""
        try:
            content = self.get(name)
            found = None if content is None else _result(content)
        except (Untrusted, ValueError, KeyError, TypeError):
            return None
        if found is None or (found.shown and not all(map(self._has, found.shown.keys))):
            return None
        return found

    def add_result(self, name: str, result: SampleResult) -> None:
        """Store the result of a sound."""
        self.put(name, asdict(result))


def _key(content: bytes, suffix: str) -> str:
    return hashlib.sha256(content).hexdigest()[:20] + suffix


def _result(content: Mapping[str, Any]) -> SampleResult:
    shown = content["shown"]
    if shown is not None:
        pictures = {
            name: shown[name] and Picture(**shown[name]) for name in ("made", "training", "own")
        }
        shown = Shown(**{**shown, **pictures})
    matches = {name: Match(**match) for name, match in content["matches"].items()}
    match = Match(**content["match"])
    return SampleResult(**{**content, "matches": matches, "match": match, "shown": shown})
