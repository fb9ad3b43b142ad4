"""API keys: random, stored as their SHA-256, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable

from anechoic_serve.settings import Key


def new_key(name: str) -> tuple[str, Key]:
    """A key of 256 random bits, and what the settings hold of it.

    A key of so many random bits cannot be guessed from its hash, so the hash needs no salt.
    """
    key = secrets.token_urlsafe(32)
    return key, Key(name=name, sha256=_hash(key))


def owner(keys: Iterable[Key], given: str) -> str | None:
    """The name of the owner of a key; None: it is nobody's.

    All keys are compared, so that the time does not tell which one was close.
    """
    hashed, found = _hash(given), None
    for key in keys:
        if hmac.compare_digest(key.sha256, hashed):
            found = key.name
    return found


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
