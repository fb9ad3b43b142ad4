"""The embeddings of AMG-audio's authors: one JSON file, read as it comes.

    {id: {"embedding": [...], "conditioning": {"prompt", "seconds_start", "seconds_total"}}}

Source: Messina et al., 2025 (arXiv:2509.14934), `embeddings_new.json` of the published code.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from anechoic.errors import BadCaptions, BadSetting, IndexMismatch, some
from anechoic.index.clips import Clip
from anechoic.index.sources.vectors import unit_rows
from anechoic.parsing import number_of, require_limit, text_of

NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
BATCH = 256  # entries that are in memory at once
BUFFER = 1 << 20  # bytes read at once
MEND = "fetch or write it again"


class _Shallow:
    """A file of JSON that is read as far as it is not nested too deep: ijson's time grows with the
    square of the depth."""

    def __init__(self, file: BinaryIO, name: str):
        self.file, self.name, self.open = file, name, b""

    def read(self, size: int = -1) -> bytes:
        content = self.file.read(size)
        runs = re.split(rb"[]}]", self.open + content.translate(None, NO_BRACKETS))
        depth, self.open = max(map(len, runs)), runs[-1]  # brackets opened with none closed between
        require_limit("DEPTH", depth, f"'{self.name}' is nested {depth} levels deep", IndexMismatch)
        return content


@dataclass(frozen=True)
class AmgUnit:
    """The whole file: where an entry starts in it is not known before it is read."""

    key: str
    identity: str  # hash of the file's content
    file: str

    def rows(self, start: int = 0) -> Iterator[tuple[Clip, np.ndarray]]:
        """Clips and their embeddings, unit norm, float32 [d].

        Raises:
            IndexMismatch: a file that is cut off, no JSON, or of another shape; embeddings that
                are NaN, infinite, without direction, or of another length than the first.
            BadCaptions: an entry without a prompt.
        """
        entries = self._entries()
        dim = None
        number = 0
        while chunk := list(islice(entries, BATCH)):
            dim = len(self._embedding(*chunk[0])) if dim is None else dim
            number += len(chunk)
            wanted = chunk[max(0, start - number + len(chunk)) :]
            if wanted:
                yield from self._rows(wanted, dim)
        if number == 0:
            raise IndexMismatch(f"'{self.file}' has no embeddings; {MEND}")

    def _entries(self) -> Iterator[tuple[str, Any]]:
        import ijson

        id = None
        try:
            with open(self.file, "rb") as file:
                if (start := file.read(64).lstrip()[:1]) not in (b"{", b""):
                    raise self._bad(f"starts with {start!r}")
                file.seek(0)
                shallow = _Shallow(file, self.file)
                for id, entry in ijson.kvitems(shallow, "", use_float=True, buf_size=BUFFER):
                    yield id, entry
        except ijson.JSONError as error:
            after = "at its start" if id is None else f"after '{id}'"
            # JSON knows neither, but Python writes them
            if any(word in str(error) for word in ("NaN", "Infinity")):
                raise self._bad(f"has an embedding with NaN or Infinity {after}") from error
            reason = str(error).strip("b'\"").split("\\n")[0].splitlines()[0]
            raise self._bad(f"is cut off or no JSON {after} ({reason})") from error
        except (MemoryError, RecursionError) as error:  # ijson's, for brackets without an end
            raise self._bad("is nested too deep") from error
        except OSError as error:
            raise self._bad(f"cannot be read ({error})") from error

    def _rows(
        self, entries: Sequence[tuple[str, Any]], dim: int
    ) -> Iterator[tuple[Clip, np.ndarray]]:
        embeddings = [self._embedding(id, entry) for id, entry in entries]
        ids = [id for id, _ in entries]
        other = [id for id, emb in zip(ids, embeddings, strict=True) if len(emb) != dim]
        if other:
            raise self._bad(f"has embeddings of another length than {dim} for {some(other)}")
        clips = [self._clip(id, entry) for id, entry in entries]
        if without := [clip.id for clip in clips if not clip.caption]:
            raise BadCaptions(
                f"'{self.file}' has no prompt for {some(without)}; expected one in each "
                "'conditioning'"
            )
        vectors = unit_rows(np.stack(embeddings), ids, f"'{self.file}'")
        yield from zip(clips, vectors, strict=True)

    def _embedding(self, id: str, entry: Any) -> np.ndarray:
        emb = entry.get("embedding") if isinstance(entry, dict) else None
        try:
            values = np.array(emb)
        except ValueError:  # lists of different lengths
            values = np.array(None)
        if values.ndim != 1 or values.size == 0 or values.dtype.kind not in "fi":
            raise self._bad(f"has no list of numbers as the 'embedding' of '{id}'")
        return values

    def _clip(self, id: str, entry: Any) -> Clip:
        conditioning = entry.get("conditioning")
        conditioning = dict(conditioning) if isinstance(conditioning, dict) else {}
        caption = text_of(conditioning.pop("prompt", None))
        start_s, total_s = (
            number_of(
                conditioning.pop(name, None), f"'{self.file}': '{name}' of '{id}'", IndexMismatch
            )
            for name in ("seconds_start", "seconds_total")
        )
        info = {name: text for name, value in conditioning.items() if (text := text_of(value))}
        return Clip(id, caption, None, start_s, max(0.0, total_s - start_s), info)

    def _bad(self, what: str) -> IndexMismatch:
        expected = "{id: {embedding: [...], conditioning: {prompt: ...}}}"
        return IndexMismatch(f"'{self.file}' {what}; expected JSON like {expected}: {MEND}")


class AmgSource:
    """The JSON file of AMG-audio's code, of any size: an entry is in memory at a time, or few.

    Raises:
        BadSetting: no such file.
    """

    embedder_name = None
    clips_folder = None
    total = None

    def __init__(self, file: str | Path):
        self.path = Path(file)
        if not self.path.is_file():
            raise BadSetting(f"file '{file}' does not exist; check the path")
        self.name = str(file)

    @cached_property
    def _sha256(self) -> str:
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def units(self) -> Sequence[AmgUnit]:
        """One: JSON cannot be read from the middle."""
        return [AmgUnit("amg", self._sha256, str(self.path.resolve()))]
