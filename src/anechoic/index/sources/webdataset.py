"""WebDataset: tar files in which the files of a sample stand next to each other."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from anechoic import audio
from anechoic.errors import BadAudio, BadCaptions, some
from anechoic.index.captions import CAPTION_COLUMNS
from anechoic.index.sources.folder import is_sound
from anechoic.index.sources.patterns import content_of, files, names_of
from anechoic.index.sources.protocol import (
    Item,
    digest,
    unit_key,
)
from anechoic.parsing import caption_of, parse_object, readable, require_limit, text_of
from anechoic.storage import file_system

CAPTIONS = ("txt", "json")  # a text is the caption itself, JSON has it under its name
FIX = "fetch or pack it again"


@dataclass(frozen=True)
class TarUnit:
    """One tar."""

    key: str
    identity: str  # hash of the tar's name and content
    tar: str  # where fsspec finds it
    name: str  # what the ids of its samples start with

    def items(self, start: int = 0) -> Iterator[Item]:
        """The samples, in the order of the tar; files that are neither sound nor caption are none.

        Raises:
            BadAudio: a tar that is cut off or damaged, or has no samples; a caption without
                sound, two sounds in a sample, or a sample that is in two places.
            BadCaptions: a sample without a caption, or one that cannot be read.
        """
        system, path = file_system(self.tar)
        try:
            with system.open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
                yield from self._items(self._members(tar, file), tar, start)
        except (tarfile.TarError, OSError) as error:
            raise BadAudio(
                f"tar '{self.tar}' is cut off, damaged, or no tar ({error}); {FIX}"
            ) from error

    def _items(
        self, members: Iterator[tarfile.TarInfo], tar: tarfile.TarFile, start: int
    ) -> Iterator[Item]:
        seen: set[str] = set()
        count = 0
        for key, group in groupby(members, lambda member: split_name(member.name)[0]):
            if key in seen:
                raise self._bad(key, "is in two places", "pack the files of a sample together")
            seen.add(key)
            content = self._contents(tar, group, wanted=count >= start)
            sounds = [kind for kind in content if is_sound_kind(kind)]
            if not sounds and not content.keys() & set(CAPTIONS):
                continue
            if len(sounds) != 1:
                what = f"has {len(sounds)} sounds ({some(sounds)})" if sounds else "has no sound"
                raise self._bad(key, what, "pack one sound with each caption")
            if count >= start:
                yield self._item(key, content, sounds[0])
            count += 1
        if count == 0:
            raise BadAudio(f"tar '{self.tar}' has no samples with sound; {FIX}")

    def _members(self, tar: tarfile.TarFile, file: Any) -> Iterator[tarfile.TarInfo]:
        """The files with a key, in their order; hidden ones, as macOS adds them, have none."""
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # else it keeps every header
            key, kind = split_name(member.name)
            if not key or member.isdir():
                continue
            if not member.isreg() and is_wanted(kind):
                raise self._bad(key, "is a link, no file", "pack the sounds themselves")
            yield member
        self._require_end(tar, file)  # here: before the last sample is judged

    def _contents(
        self, tar: tarfile.TarFile, members: Iterator[tarfile.TarInfo], wanted: bool
    ) -> dict[str, bytes]:
        """The files of a sample by their kind; those that are not wanted stay unread."""
        out: dict[str, bytes] = {}
        for member in members:
            key, kind = split_name(member.name)
            if kind in out:
                raise self._bad(key, f"has two files '.{kind}'", FIX)
            what = f"tar '{self.tar}': '{member.name}' has {member.size} bytes"
            require_limit("FILE_BYTES", member.size, what, BadAudio)
            file = tar.extractfile(member) if wanted and is_wanted(kind) else None
            out[kind] = b"" if file is None else file.read()
        return out

    def _item(self, key: str, content: Mapping[str, bytes], sound: str) -> Item:
        id = readable(f"{self.name}/{key}")
        info = {"tar": readable(self.tar)}
        about = self._json(key, content["json"]) if "json" in content else {}
        if "txt" in content:
            caption = self._text(key, content["txt"]).strip()
        else:
            column = next((name for name in CAPTION_COLUMNS if caption_of(about.get(name))), "")
            caption = caption_of(about.get(column))
            if not isinstance(about.get(column), list):
                about.pop(column, None)
        if not caption:
            known = " or ".join(f"'{name}'" for name in CAPTION_COLUMNS)
            raise BadCaptions(
                f"tar '{self.tar}': sample '{key}' has no caption; expected {key}.txt, or "
                f"{key}.json with {known}"
            )
        info.update((name, text) for name, value in about.items() if (text := text_of(value)))
        read = partial(audio.read_bytes, content[sound], f"{self.tar}/{key}.{sound}")
        return Item(id, caption, None, info, read)

    def _json(self, key: str, content: bytes) -> dict[str, Any]:
        return parse_object(content, f"tar '{self.tar}': '{key}.json'", BadCaptions, FIX)

    def _text(self, key: str, content: bytes) -> str:
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise BadCaptions(
                f"tar '{self.tar}': the caption of '{key}' is not UTF-8 "
                f"(byte 0x{content[error.start]:02x}); save it as UTF-8"
            ) from error

    def _require_end(self, tar: tarfile.TarFile, file: Any) -> None:
        """Refuse a tar without the zeros that mark its end: tarfile does not mind."""
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise BadAudio(
                f"tar '{self.tar}' is cut off or damaged at byte {tar.offset}: the mark of its "
                f"end is missing; {FIX}"
            )
        while rest := file.read(1 << 20):
            if rest.count(0) < len(rest):
                raise BadAudio(
                    f"tar '{self.tar}' goes on behind its end, as joined tars do; split it"
                )

    def _bad(self, key: str, what: str, fix: str) -> BadAudio:
        return BadAudio(f"tar '{self.tar}': sample '{key}' {what}; {fix}")


class TarSource:
    """WebDataset tars: the sounds, each with its .txt or .json caption.

    The name of a file up to the first dot of its last part is its sample's key. A sample's id
    is the tar's name, and the key.

    Args:
        where: a tar, a folder of tars, or a pattern: `clips-{000..127}.tar`, `*.tar`; anywhere
            that fsspec reaches.

    Raises:
        BadSetting: no tars there, or one that a pattern's braces name is missing.
    """

    embedder_name = None
    clips_folder = None
    total = None

    def __init__(self, where: str | Path):
        self.name = str(where)
        self.tars = files(where, ".tar")
        self._names = names_of(self.tars, ".tar")

    def units(self) -> Sequence[TarUnit]:
        """A unit for each tar."""
        return [
            TarUnit(unit_key(number, name), digest(["tar", name, *content_of(tar)]), tar, name)
            for number, (tar, name) in enumerate(zip(self.tars, self._names, strict=True))
        ]


def split_name(name: str) -> tuple[str, str]:
    """The key of a file in a tar, and its kind; both "" if it has none.

    >>> split_name("a.b/0001.vocals.wav")
    ('a.b/0001', 'vocals.wav')
    >>> split_name("a/.hidden.wav")
    ('', '')
    """
    found = re.fullmatch(r"((?:.*/)?[^./]+)\.([^/]+)", name.removeprefix("./"), re.DOTALL)
    return (found[1], found[2].lower()) if found else ("", "")


def is_sound_kind(kind: str) -> bool:
    """Whether files of this kind are sound: `flac`, `vocals.wav`."""
    return is_sound(f"a.{kind}")


def is_wanted(kind: str) -> bool:
    """Whether files of this kind are read at all."""
    return kind in CAPTIONS or is_sound_kind(kind)
