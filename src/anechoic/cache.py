"""Finished results in a work folder: each is a file, named by a hash of all that determines it.

A file is written whole or not at all, and checked when it is read. So work that was stopped at any
moment continues from its finished results, and a damaged result is computed again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anechoic.errors import AnechoicError, BadSetting
from anechoic.parsing import parse_object
from anechoic.storage import locked, write_whole


class Untrusted(AnechoicError):
    """A stored result that cannot be trusted; the message is the reason, as a clause."""


def identity(*parts: Any) -> str:
    """A hash of values that JSON can hold; any others count as their text."""
    content = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class ResultCache:
    """A work folder; runs that ask for the same results may share it.

    Args:
        folder: made if it does not exist.
        user: the name in errors of the work that uses it, such as "audit".
    """

    folder: Path
    user: str

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Lock the folder; the lock ends with the process, even if it is killed.

        Raises:
            BadSetting: another run holds it.
        """
        (self.folder / "results").mkdir(parents=True, exist_ok=True)
        busy = BadSetting(
            f"another {self.user} is running in '{self.folder}'; wait for it, or name another "
            "'--work'"
        )
        with locked(self.folder / f"{self.user}.lock", busy):
            yield

    @property
    def is_empty(self) -> bool:
        """Whether no result is stored."""
        return not any((self.folder / "results").glob("*.json"))

    def path(self, name: str) -> Path:
        """The file for the result of an identity."""
        return self.folder / "results" / f"{name}.json"

    def put(self, name: str, content: Any, about: str = "") -> None:
        """Store a result, described by `about`. Values that JSON cannot hold become text."""
        result = json.dumps(content, default=_plain)
        digest = hashlib.sha256(result.encode()).hexdigest()
        head = json.dumps({"identity": name, "about": about, "sha256": digest})
        write_whole(self.path(name), f"{head}\n{result}\n".encode())

    def get(self, name: str) -> Any:
        """The result of an identity; None if there is none.

        Raises:
            Untrusted: it is damaged, or belongs to another identity.
        """
        try:
            head, _, result = self.path(name).read_text("utf-8").partition("\n")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise Untrusted(f"it is damaged ({' '.join(str(error).split())[:80]})") from error
        about, result = parse_object(head, "its head", Untrusted), result.removesuffix("\n")
        if about.get("identity") != name:
            raise Untrusted(f"it holds another result: {about.get('about')}")
        if about.get("sha256") != hashlib.sha256(result.encode()).hexdigest():
            raise Untrusted("it is damaged (its checksum differs)")
        return json.loads(result)  # as `put` wrote it


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)
