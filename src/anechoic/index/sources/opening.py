"""Finds the kind of source that a name means."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from anechoic.audio import SUFFIXES
from anechoic.errors import BadSetting, some
from anechoic.index.captions import AUDIOFOLDER
from anechoic.index.sources.amg import AmgSource
from anechoic.index.sources.folder import FolderSource, sound_files
from anechoic.index.sources.hub import Stream, StreamSource
from anechoic.index.sources.patterns import files, is_shard
from anechoic.index.sources.protocol import Columns, Source
from anechoic.index.sources.saved import SavedSource
from anechoic.index.sources.vectors import EMBEDDING, VectorSource, open_parquet
from anechoic.index.sources.webdataset import TarSource
from anechoic.parsing import UNREADABLE, require_limit

KINDS = (
    "expected a folder of sounds with captions, WebDataset tars (a folder, or 'clips-{000..127}"
    ".tar'), Parquet with an 'embedding' or 'audio' column, the JSON of AMG-audio, a saved "
    "Hugging Face dataset, or 'hf:NAME:SPLIT'"
)
SHARDS = (".tar", ".parquet", ".arrow")
COMPRESSED = (".tgz", *(f".tar.{kind}" for kind in ("gz", "bz2", "xz", "zst")))


def open_source(
    where: str | Path, captions: str | Path | None = None, columns: Columns | None = None
) -> Source:
    """The source of clips that a name means, recognized by its content.

    Args:
        where: a folder of sounds with captions; a WebDataset tar, a folder of tars, or a pattern
            of them; Parquet with embeddings, or with sounds as `datasets` writes it; the JSON of
            AMG-audio; a folder that `Dataset.save_to_disk` wrote; `hf:NAME:SPLIT`,
            `hf:NAME:CONFIG:SPLIT`, or `hf:NAME@REVISION:SPLIT` on the Hugging Face Hub.
        captions: the caption file of a folder of sounds.
        columns: names of columns in a dataset or Parquet, where they are not the usual ones.

    Raises:
        BadSetting: an unknown source, or captions or columns for a source that has none.
        BadAudio, BadCaptions, IndexMismatch: what the source itself finds wrong.
    """
    length = len(str(where))
    require_limit("NAME", length, f"the name of a source has {length} characters", BadSetting)
    source = _open(str(where), captions, columns)
    kind = type(source)
    if captions is not None and kind is not FolderSource:
        raise BadSetting(f"captions belong to a folder of sounds; '{where}' has its own")
    if columns is not None and kind in (FolderSource, TarSource, AmgSource):
        raise BadSetting(f"only a dataset or Parquet has columns to name; '{where}' is neither")
    if columns is not None and (columns.audio if kind is VectorSource else columns.embedding):
        raise BadSetting(f"'{where}' is read for its sound or its embeddings, not both; name one")
    return source


def _open(where: str, captions: str | Path | None, columns: Columns | None) -> Source:
    if where.startswith("hf:") and not where.startswith("hf://"):
        return StreamSource(parse_hub(where), columns)
    folder = Path(where)
    if folder.is_dir():
        return _open_folder(folder, captions, columns)
    suffix = folder.suffix.lower()
    if suffix == ".tar":
        return TarSource(where)
    if suffix in (".parquet", ".arrow"):
        return _open_table(where, suffix, columns)
    if suffix == ".json":
        return AmgSource(where)
    if suffix in SUFFIXES and folder.is_file():
        raise BadSetting(
            f"'{where}' is one sound file; name the folder that holds it and its captions"
        )
    if suffix or "://" in where:
        raise BadSetting(f"'{where}' is not a source of clips; {KINDS}")
    return FolderSource(where, captions)  # refuses a folder that does not exist


def _open_folder(folder: Path, captions: str | Path | None, columns: Columns | None) -> Source:
    saved = ("state.json", "dataset_dict.json")
    if any((folder / name).is_file() for name in saved):
        return SavedSource(folder, columns)
    tables = {*AUDIOFOLDER, Path(captions or "").name}
    names = [file for file in _walk(folder) if file not in tables]
    if packed := [name for name in names if is_shard(name, COMPRESSED)]:
        raise BadSetting(
            f"'{folder}' holds compressed tars ({some(packed)}), which are not read; unpack them"
        )
    suffixes = [suffix for suffix in SHARDS if any(is_shard(name, suffix) for name in names)]
    sounds = captions is not None or next(sound_files(folder), None) is not None
    if len(suffixes) + sounds > 1:
        kinds = ["sounds"] * sounds + [f"{suffix} files" for suffix in suffixes]
        raise BadSetting(
            f"'{folder}' holds {' and '.join(kinds)}; name those that are meant by a pattern "
            f"('{folder}/*{suffixes[0]}'), or move the others"
        )
    if suffixes == [".tar"]:
        return TarSource(folder)
    if suffixes:
        return _open_table(str(folder), suffixes[0], columns)
    return FolderSource(folder, captions)


def _walk(folder: Path) -> Iterator[str]:
    """All files below a folder, relative to it."""
    for place, _, names in os.walk(folder):
        for name in names:
            yield os.path.relpath(os.path.join(place, name), folder)


def _open_table(where: str, suffix: str, columns: Columns | None) -> Source:
    """Parquet of embeddings, or files of rows with sound that `datasets` reads."""
    found = files(where, suffix)
    if suffix == ".parquet":
        try:
            with open_parquet(found[0]) as file:
                names = file.schema_arrow.names
        except UNREADABLE:
            return VectorSource(where, columns)  # tells what is wrong with the file
        if ((columns and columns.embedding) or EMBEDDING) in names:
            return VectorSource(where, columns)
    return StreamSource(Stream(suffix[1:], files=tuple(found)), columns)


def parse_hub(where: str) -> Stream:
    """Parse `hf:NAME[@REVISION][[:CONFIG]:SPLIT]`.

    >>> parse_hub("hf:ashraq/esc50@main:train")
    Stream(path='ashraq/esc50', config=None, split='train', revision='main', files=())
    """
    name, *rest = where.removeprefix("hf:").split(":")
    path, _, revision = name.partition("@")
    if not path or len(rest) > 2 or not all(rest):
        raise BadSetting(
            f"expected a dataset as 'hf:NAME:SPLIT' or 'hf:NAME:CONFIG:SPLIT', got '{where}'"
        )
    split = rest[-1] if rest else None
    return Stream(path, rest[0] if len(rest) == 2 else None, split, revision or None)
