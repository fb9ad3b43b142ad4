"""Hugging Face datasets that are streamed: from the Hub, or from Parquet or Arrow files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from anechoic.errors import BadSetting
from anechoic.index.filehash import contents
from anechoic.index.sources.protocol import Columns, Item, digest, unit_key
from anechoic.index.sources.rows import Chosen, explained, found, item
from anechoic.index.sources.vectors import open_parquet


@dataclass(frozen=True)
class Stream:
    """What `datasets` needs to stream a dataset."""

    path: str  # a name on the Hub, a folder, or a format: "parquet", "arrow"
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    files: tuple[str, ...] = ()  # the files of the format


@dataclass(frozen=True)
class StreamUnit:
    """One shard of a streamed dataset, usually one of its files."""

    key: str
    identity: str  # hash of the pinned revision, or of the names and contents of local files
    stream: Stream
    shard: int
    shards: int
    columns: Chosen

    def items(self, start: int = 0) -> Iterator[Item]:
        """The clips of the shard from `start` on; those before are fetched and passed over.

        Raises:
            BadCaptions: a row without a caption.
            BadAudio: a row without sound.
            BadSetting: the dataset cannot be reached, or is damaged.
        """
        name = name_of(self.stream)
        with explained(name):
            shard = opened(self.stream).shard(self.shards, self.shard)
            rows = iter(shard.skip(start) if start else shard)
        number = start
        while True:
            with explained(name):
                cells = next(rows, None)
            if cells is None:
                return
            yield item(name, f"{self.shard}-{number}", cells, self.columns)
            number += 1


class StreamSource:
    """A dataset that is streamed: from the Hub, or from local Parquet or Arrow files.

    A revision of the Hub is pinned when the source is opened, so that all units and restarts
    read the same.

    Args:
        stream: what to stream; without a split the dataset has to have one only.
        columns: which hold the sound, caption and id, as for `SavedSource`.

    Raises:
        BadSetting: no such dataset or split, a gated one, no network, or no rows.
        BadCaptions: no such columns.
    """

    embedder_name = None
    clips_folder = None

    def __init__(self, stream: Stream, columns: Columns | None = None):
        self.name = name_of(stream)
        with explained(self.name):
            stream, builder = _pinned(stream)
            dataset = opened(stream)
            first = next(iter(dataset), None)
        if first is None:
            raise BadSetting(f"dataset '{self.name}' has no rows; expected a clip in each")
        self.stream = stream
        self.columns = found(columns or Columns(), self.name, list(first))
        self.shards = dataset.num_shards
        about = (builder.info.splits or {}).get(stream.split)
        self.total = about.num_examples if about else None  # what its card says
        if stream.path == "parquet":
            self.total = sum(_rows_in(file) for file in stream.files)
        self._hash = builder.hash

    def units(self) -> Sequence[StreamUnit]:
        """A unit for each shard."""
        return [self._unit(shard) for shard in range(self.shards)]

    def _unit(self, shard: int) -> StreamUnit:
        stream = self.stream
        read = stream.files if len(stream.files) != self.shards else stream.files[shard : shard + 1]
        found = [*zip((Path(file).name for file in read), contents(read), strict=True)]
        about = (stream.path, stream.config, stream.split, stream.revision)
        content = found or [self._hash]
        identity = digest(["stream", *about, shard, self.shards, self.columns, *content])
        key = unit_key(shard, stream.split or "")
        return StreamUnit(key, identity, stream, shard, self.shards, self.columns)


def name_of(stream: Stream) -> str:
    """What errors call a stream."""
    if stream.files:
        return stream.files[0] if len(stream.files) == 1 else os.path.commonpath(stream.files)
    return ":".join(filter(None, (stream.path, stream.config, stream.split)))


@lru_cache(maxsize=8)
def opened(stream: Stream) -> Any:
    """A streamed dataset that neither decodes nor encodes.

    Raises:
        BadSetting: no split is named, and the dataset has several.
    """
    datasets = _builder(stream).as_streaming_dataset(stream.split)
    if stream.split is None:
        if len(datasets) > 1:
            raise BadSetting(
                f"dataset '{name_of(stream)}' has the splits {', '.join(datasets)}; name one "
                f"('hf:{stream.path}:{next(iter(datasets))}')"
            )
        datasets = next(iter(datasets.values()))
    # without features rows come as they are: with them, an audiofolder's are encoded first, and
    # all sound is decoded, both by torchcodec
    datasets.info.features = None
    return datasets


def _builder(stream: Stream) -> Any:
    from datasets import load_dataset_builder

    files = {"train": list(stream.files)} if stream.files else None
    builder = load_dataset_builder(
        stream.path, stream.config, revision=stream.revision, data_files=files
    )
    builder.config.decode_num_threads = 0  # threads that would decode ahead, by torchcodec
    return builder


def _pinned(stream: Stream) -> tuple[Stream, Any]:
    """The stream at the revision that the Hub has now and with its split, and its builder."""
    builder = _builder(stream)
    revision = re.search(r"@([0-9a-f]{40})", builder.base_path or "")
    if revision:
        stream = replace(stream, revision=revision[1])
    if stream.files:
        stream = replace(stream, split="train")
    return stream, builder


def _rows_in(file: str) -> int:
    with explained(file), open_parquet(file) as opened:
        return int(opened.metadata.num_rows)
