"""Reads a report that `write_report` wrote: its document, and its sounds and pictures."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from anechoic.audit.report import DATA, FORMAT, MEDIA, PAGE, parts, schema
from anechoic.errors import BadSetting
from anechoic.parsing import parse_object, read_file

AGAIN = "run 'anechoic audit' again: finished work is not done again"


@dataclass(frozen=True, eq=False)
class StoredReport:
    """A report on disk. `open_report` opens it."""

    name: str  # as it was named
    places: Mapping[str, Path]  # as by `parts`
    data: bytes  # the file of the document
    content: Mapping[str, Any]  # the document, as from `anechoic.audit.document`

    @property
    def guards(self) -> list[str]:
        """The guards, in the order of the report."""
        return [group["guard"] for group in self.content["guards"]]

    def medium(self, key: str) -> bytes:
        """A sound or picture: its key is the hash of its bytes.

        Raises:
            BadSetting: the report does not hold it, or it was changed.
        """
        if (inside := self._inside.get(_stem(key))) is not None:
            return inside
        beside = self.places[MEDIA] / Path(key).name
        content = beside.read_bytes() if beside.is_file() else b""
        if _hash(content) != _stem(key):
            raise BadSetting(
                f"the report '{self.name}' does not hold '{key}' as it was written, a sound or a "
                f"picture of it; copy the report with all its files, or {AGAIN}"
            )
        return content

    @cached_property
    def _inside(self) -> dict[str, bytes]:
        """The sounds and pictures in the page, by the hash of their bytes."""
        page = read_file(self.places[PAGE], "page of the report", BadSetting)
        texts = re.findall(rb'(?:;base64,|id="m-[^"]*">)([A-Za-z0-9+/]+=*)', page)
        found = (base64.b64decode(text + b"=" * (-len(text) % 4)) for text in texts)
        return {_hash(content): content for content in found}


def open_report(path: str | Path) -> StoredReport:
    """Read a report.

    Args:
        path: its folder, its page, or its document.

    Raises:
        BadSetting: there is none, it is damaged, or an older version wrote it.
    """
    path = Path(path)
    places = parts(path.with_suffix(".html") if path.suffix.lower() == ".json" else path)
    data = read_file(places[DATA], "document of a report", BadSetting)
    what = f"'{places[DATA]}'"
    content = parse_object(data, what, BadSetting, AGAIN)
    wanted = schema()
    if content.get("format") != FORMAT or (missing := _missing(content, wanted)):
        why = missing if content.get("format") == FORMAT else f"the format is not {FORMAT}"
        raise BadSetting(
            f"expected {what} to be a report of this version of 'anechoic audit', but {why}; "
            f"{AGAIN}"
        )
    return StoredReport(str(path), places, data, content)


def _missing(content: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The first part that a document lacks, as a clause; empty: it has all."""
    lost = [name for name in wanted["required"] if name not in content]
    if lost:
        return f"it has no '{lost[0]}'"
    for part in ("examined", "unexamined", "guards", "detectors"):
        needed = set(wanted["properties"][part]["items"]["required"])
        for number, row in enumerate(content[part], 1):
            if not isinstance(row, dict) or needed - row.keys():
                return f"number {number} of '{part}' is not complete"
    return ""


def _stem(key: str) -> str:
    return key.partition(".")[0]


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:20]
