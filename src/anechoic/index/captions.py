"""Caption files: which sound file has which caption, and what else is known of it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from anechoic.errors import BadCaptions, some
from anechoic.parsing import Row, caption_of, read_rows, text_of

# the first is the Hugging Face audiofolder's
FILE_COLUMNS = ("file_name", "file", "path", "audio")
CAPTION_COLUMNS = ("caption", "text")
AUDIOFOLDER = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


@dataclass(frozen=True, slots=True)
class Captioned:
    """One line of a caption file."""

    file: str  # as the line names it: relative to the folder of clips
    caption: str
    info: Mapping[str, str] = field(default_factory=dict)  # the other columns: licence, source

    @property
    def id(self) -> str:
        """The `id` of the line, if it has one, or the name of the file."""
        return self.info.get("id", self.file)


def read(path: str | Path) -> list[Captioned]:
    """Read a caption file.

    CSV (with a header), JSON lines, or Parquet, by the suffix; UTF-8. The columns
    are `file_name` (or file, path, audio) and `caption` (or text); others are kept as `info`.

    Raises:
        BadCaptions: no such file, another format or encoding, no such columns, no lines, a
            line without a file or caption, or a file or id named twice.
    """
    path = Path(path)
    out = _captioned(path, read_rows(path, "captions", BadCaptions))
    if not out:
        raise BadCaptions(f"captions '{path}' have no lines; expected one for each clip")
    _refuse(path, "no file name in lines", [str(i + 1) for i, c in enumerate(out) if not c.file])
    _refuse(path, "no caption for", [c.file for c in out if not c.caption])
    _refuse(path, "more than one line for", _repeated(os.path.normpath(c.file) for c in out))
    _refuse(path, "more than one line with the id", _repeated(c.id for c in out))
    return out


def find(folder: str | Path) -> Path:
    """The caption file of a Hugging Face audiofolder.

    Raises:
        BadCaptions: the folder has none.
    """
    for name in AUDIOFOLDER:
        if (path := Path(folder) / name).is_file():
            return path
    raise BadCaptions(
        f"'{folder}' has no {AUDIOFOLDER[0]}; name the caption file ('--captions FILE')"
    )


def require_match(
    path: Path, folder: Path, captioned: Sequence[Captioned], sounds: Iterable[str | Path]
) -> None:
    """Refuse captions that do not fit the clips, both ways.

    Args:
        path: the caption file.
        folder: of the clips.
        captioned: its lines.
        sounds: the sound files that are in the folder.

    Raises:
        BadCaptions: a line names a file that is not in `folder`, or a sound has no line.
    """
    files = [os.path.normpath(os.path.join(folder, c.file)) for c in captioned]
    found = {os.path.normpath(sound) for sound in sounds}
    missing = [
        c.file
        for c, file in zip(captioned, files, strict=True)
        if file not in found and not os.path.isfile(file)
    ]
    _refuse(path, f"no such file in '{folder}':", missing)
    without = sorted(found.difference(files))
    if without:  # a line may name the same file by another path
        resolved = {os.path.realpath(file) for file in files}
        without = [sound for sound in without if os.path.realpath(sound) not in resolved]
    _refuse(path, "no line for the clips", [os.path.relpath(sound, folder) for sound in without])


def _column(path: Path, columns: list[str], known: tuple[str, ...]) -> str:
    for name in known:
        if name in columns:
            return name
    raise BadCaptions(
        f"captions '{path}' have the columns {', '.join(map(repr, columns))}; expected one "
        f"called {' or '.join(map(repr, known))}"
    )


def _captioned(path: Path, rows: Iterable[Row]) -> list[Captioned]:
    out: list[Captioned] = []
    file_column = caption_column = ""
    for row in rows:
        if not out:
            file_column = _column(path, list(row), FILE_COLUMNS)
            caption_column = _column(path, list(row), CAPTION_COLUMNS)
        values = dict(row)
        file, caption = values.pop(file_column, None), caption_of(values.pop(caption_column, None))
        if isinstance(file, Mapping):  # datasets' own Audio column: {"bytes": ..., "path": ...}
            file = file.get("path")
        info = {name: text for name, value in values.items() if (text := text_of(value))}
        out.append(Captioned(text_of(file), caption, info))
    return out


def _repeated(names: Iterable[str]) -> list[str]:
    seen: set[str] = set()
    return [name for name in names if name in seen or seen.add(name)]  # type: ignore[func-returns-value]


def _refuse(path: Path, complaint: str, names: Sequence[str]) -> None:
    """Raise if there are any `names`, showing three and telling how many there are."""
    if not names:
        return
    raise BadCaptions(
        f"captions '{path}' do not fit ({len(names)} in all): {complaint} {some(names)}; "
        "correct the file or the clips"
    )
