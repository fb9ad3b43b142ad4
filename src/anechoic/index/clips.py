"""What an index knows of each clip, and where clips come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from anechoic import audio
from anechoic.errors import BadAudio
from anechoic.index import captions as caption_files


@dataclass(frozen=True)
class Clip:
    """What one row of an index stands for: a clip, or a window of one."""

    id: str
    caption: str
    path: str | None = None  # relative to the index's `clips_folder`
    start_s: float = 0.0  # of the window, in the clip
    seconds: float = 0.0  # of the window
    info: Mapping[str, str] = field(default_factory=dict)  # licence, source, ...


@dataclass(frozen=True)
class Sound:
    """A training clip with its sound, to be embedded."""

    id: str
    caption: str
    wav: Tensor  # [c, t]
    sample_rate: int
    path: str | None = None
    info: Mapping[str, str] = field(default_factory=dict)


class Folder:
    """The sounds of a folder, each read when its turn comes, in the order of the captions.

    Raises:
        BadAudio: no such folder, or none of its files is sound.
        BadCaptions: the captions do not fit the files, one way or the other.
    """

    def __init__(self, folder: str | Path, captions: str | Path | None = None):
        self.path = Path(folder)
        if not self.path.is_dir():
            raise BadAudio(f"expected a folder of clips, but '{folder}' is none; check the path")
        found = sorted(
            file
            for file in self.path.rglob("*")
            if file.suffix.lower() in audio.SUFFIXES and not file.name.startswith(".")
            if file.is_file()
        )
        if not found:
            raise BadAudio(f"there are no sound files in '{folder}'; check the path")
        table = Path(captions) if captions else caption_files.find(self.path)
        self.lines = caption_files.read(table)
        caption_files.require_match(table, self.path, self.lines, found)

    def __len__(self) -> int:
        return len(self.lines)

    def __iter__(self) -> Iterator[Sound]:
        for line in self.lines:
            wav, sample_rate = audio.read(self.path / line.file)
            info = dict(line.info)
            name = info.pop("id", line.file)
            yield Sound(name, line.caption, wav, sample_rate, line.file, info)
