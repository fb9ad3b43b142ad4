"""Sounds that were released, for as long as their links hold."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from threading import Lock
from typing import Any


@dataclass(frozen=True)
class Shelved:
    """A released sound: its file, and its certificate."""

    content: bytes
    media: str
    certificate: dict[str, Any]
    owner: str  # whose key asked for it
    until: float  # in seconds of time.monotonic


@dataclass
class Shelf:
    """Holds sounds in memory, each under a random name. A name is looked up, and is never a path.

    Args:
        most_bytes: of all sounds; the oldest go first.
        seconds: after which a sound goes.
    """

    most_bytes: int
    seconds: float
    _kept: OrderedDict[str, Shelved] = field(default_factory=OrderedDict)
    _bytes: int = 0
    _one_at_a_time: Lock = field(default_factory=Lock)

    def put(self, content: bytes, media: str, certificate: dict[str, Any], owner: str) -> str:
        """Keep a sound: its name."""
        name = secrets.token_urlsafe(18)
        with self._one_at_a_time:
            self._kept[name] = Shelved(
                content, media, certificate, owner, time.monotonic() + self.seconds
            )
            self._bytes += len(content)
            self._drop()
        return name

    def get(self, name: str, owner: str) -> Shelved | None:
        """The sound of a name; None: it is gone, was never there, or is somebody else's."""
        with self._one_at_a_time:
            self._drop()
            found = self._kept.get(name)
        return found if found is not None and found.owner == owner else None

    def _drop(self) -> None:
        now = time.monotonic()
        while self._kept:
            oldest = next(iter(self._kept.values()))
            if self._bytes <= self.most_bytes and oldest.until > now:
                return
            self._kept.popitem(last=False)
            self._bytes -= len(oldest.content)
