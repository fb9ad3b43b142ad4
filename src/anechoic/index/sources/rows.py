"""Rows of Hugging Face datasets as clips, and what goes wrong with them, in one sentence.

Since version 4 `datasets` decodes sound by torchcodec, which needs FFmpeg. Nothing is decoded by
it here: rows come as they lie in Arrow, and the bytes or the path of a sound go to `audio`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from anechoic import audio
from anechoic.errors import AnechoicError, BadAudio, BadCaptions, BadSetting
from anechoic.index.captions import CAPTION_COLUMNS, FILE_COLUMNS
from anechoic.index.sources.protocol import Columns, Item
from anechoic.parsing import caption_of, text_of


@dataclass(frozen=True)
class Chosen:
    """Which column of a dataset holds what."""

    audio: str
    caption: str
    id: str | None  # None: the rows are numbered


def found(named: Columns, name: str, columns: Sequence[str]) -> Chosen:
    """The columns of a dataset that hold the sound, caption and id.

    Raises:
        BadCaptions: it has no such columns.
    """

    def first(wanted: Sequence[str]) -> str:
        for column in wanted:
            if column in columns:
                return column
        raise BadCaptions(
            f"dataset '{name}' has the columns {', '.join(map(repr, columns))}; expected one "
            f"called {' or '.join(map(repr, wanted))}, or name it"
        )

    sound = first([named.audio] if named.audio else ("audio", *FILE_COLUMNS))
    caption = first([named.caption] if named.caption else CAPTION_COLUMNS)
    id = first([named.id]) if named.id else "id" if "id" in columns else None
    return Chosen(sound, caption, id)


def item(name: str, row: str, cells: Mapping[str, Any], columns: Chosen) -> Item:
    """A row of a dataset.

    Raises:
        BadCaptions: it has no caption, or no id.
        BadAudio: it has no sound.
    """
    cells = dict(cells)
    sound = cells.pop(columns.audio)
    caption = caption_of(cells.pop(columns.caption))
    id = text_of(cells.pop(columns.id)) if columns.id else row
    if not caption or not id:
        what = columns.id if caption else columns.caption
        raise BadCaptions(f"dataset '{name}': row {row} has no '{what}'; give each clip its own")
    texts = ((key, text_of(value)) for key, value in cells.items() if _is_info(value))
    info = {key: text for key, text in texts if text}
    is_packed = isinstance(sound, dict)
    content = sound.get("bytes") if is_packed else None
    file = sound.get("path") if is_packed else sound
    if isinstance(content, bytes):
        read = partial(audio.read_bytes, content, f"{name}: {file or id}")
    elif not isinstance(file, str):
        raise BadAudio(
            f"dataset '{name}': row {row} has no sound in '{columns.audio}'; expected the bytes or "
            "the path of a sound file"
        )
    elif "://" in file:
        read = partial(_read_remote, name, file)
    else:
        return Item(id, caption, os.path.abspath(file), info, partial(audio.read, file))
    return Item(id, caption, None, {"file": file, **info} if file else info, read)


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Say in one sentence what goes wrong in `datasets`.

    Raises:
        BadSetting: always, with what to do.
    """
    try:
        yield
    except AnechoicError:
        raise
    except ImportError as error:
        raise BadSetting(
            f"dataset '{name}' needs a package that is not installed ({error}); run pip install "
            "'anechoic[datasets]'"
        ) from error
    except ConnectionError as error:
        raise BadSetting(
            f"dataset '{name}' cannot be reached ({_first_line(error)}); check the network, or "
            "unset HF_HUB_OFFLINE, or fetch the dataset and name its folder"
        ) from error
    except Exception as error:  # from datasets, pyarrow, fsspec, httpx, huggingface_hub
        if "gated" in str(error):
            fix = "accept its terms on the Hub, and log in with 'hf auth login'"
        else:
            fix = "check its name, configuration and split, or fetch it again"
        raise BadSetting(
            f"dataset '{name}' cannot be read ({_first_line(error)}); {fix}"
        ) from error


def _read_remote(name: str, file: str) -> tuple[Tensor, int]:
    import fsspec

    with explained(name), fsspec.open(file, "rb") as opened:
        content = opened.read()
    return audio.read_bytes(content, file)


def _is_info(value: Any) -> bool:
    """Whether a cell becomes part of `info`: numbers, text, and lists of them."""
    if isinstance(value, list):
        return all(isinstance(one, (str, int, float)) for one in value)
    return isinstance(value, (str, int, float))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
