"""A folder of sound files with a caption file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from anechoic import audio
from anechoic.errors import BadAudio
from anechoic.index import captions
from anechoic.index.captions import Captioned
from anechoic.index.filehash import contents
from anechoic.index.sources.protocol import Item, digest

LINES = 1024  # in a unit
# sound, too, which `audio.read` refuses: it is not left out in silence
UNREAD = (".mp1", ".ape", ".tta", ".amr", ".dts", ".dsf", ".spx")


@dataclass(frozen=True)
class FolderUnit:
    """So many lines of the caption file."""

    key: str
    identity: str  # hash of the lines and the contents of the files
    folder: str
    lines: tuple[Captioned, ...]

    def items(self, start: int = 0) -> Iterator[Item]:
        """The clips of the lines from `start` on."""
        for line in self.lines[start:]:
            info = {name: value for name, value in line.info.items() if name != "id"}
            read = partial(audio.read, os.path.join(self.folder, line.file))
            yield Item(line.id, line.caption, line.file, info, read)


class FolderSource:
    """The sounds of a folder, in the order of the caption file.

    Args:
        folder: of the sounds; those in its subfolders belong to it, hidden ones do not.
        caption_file: CSV, JSON lines or Parquet (`captions.read`); by default the folder's own
            metadata.csv, metadata.jsonl or metadata.parquet, as in a Hugging Face audiofolder.

    Raises:
        BadAudio: no such folder, or none of its files is sound.
        BadCaptions: the captions do not fit the files, one way or the other.
    """

    embedder_name = None

    def __init__(self, folder: str | Path, caption_file: str | Path | None = None):
        self.path = Path(folder)
        if not self.path.is_dir():
            raise BadAudio(f"expected a folder of clips, but '{folder}' is none; check the path")
        found = sorted(sound_files(self.path))
        if not found:
            raise BadAudio(f"there are no sound files in '{folder}'; check the path")
        self.caption_file = Path(caption_file) if caption_file else captions.find(self.path)
        self.lines = captions.read(self.caption_file)
        captions.require_match(self.caption_file, self.path, self.lines, found)
        self.name = str(folder)
        self.clips_folder = str(self.path.resolve())
        self.total = len(self.lines)

    def units(self) -> Sequence[FolderUnit]:
        """A unit for each `LINES` lines."""
        return [self._unit(first) for first in range(0, len(self.lines), LINES)]

    def _unit(self, first: int) -> FolderUnit:
        folder, lines = self.clips_folder, tuple(self.lines[first : first + LINES])
        found = contents([os.path.join(folder, line.file) for line in lines])
        identity = digest(["folder", *zip(lines, found, strict=True)])
        return FolderUnit(f"lines-{first:09d}", identity, folder, lines)


def sound_files(folder: str | Path) -> Iterator[str]:
    """The sound files in a folder and those below it, without hidden ones, in any order.

    Links to folders are followed, each folder once.

    Raises:
        BadAudio: a sound that is a broken link, or a device.
    """
    folders, seen = [os.fspath(folder)], set()
    while folders:
        if (real := os.path.realpath(place := folders.pop())) in seen:
            continue
        seen.add(real)
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    folders.append(entry.path)
                elif is_sound(entry.name):
                    if not entry.is_file():
                        raise BadAudio(f"'{entry.path}' is a broken link or a device; remove it")
                    yield entry.path


def is_sound(name: str) -> bool:
    """Whether a file of this name is sound, of a kind that is read or not."""
    return os.path.splitext(name)[1].lower() in (*audio.SUFFIXES, *UNREAD)
