"""A training set as it should be trained on: one of each cluster of duplicates, and more captions.

Nothing is deleted or moved. What is written is a folder of small files that trainers read beside
the clips, and a table to look through and to edit first.
"""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from anechoic.errors import BadSetting, OutputExists
from anechoic.index import TrainingIndex
from anechoic.index.duplicates import Cluster, RankedClip, ranked
from anechoic.parsing import read_rows
from anechoic.storage import whole_folder

TABLE, AUDIOFOLDER = "clips.csv", "metadata.csv"
MODULE, CONFIG = "anechoic_metadata.py", "dataset_config.json"
YES, NO = "yes", "no"
GLUE = '''\
"""What stable-audio-tools and webdataset call; the table "clips.csv" beside it decides."""

from pathlib import Path

from anechoic.training import CleanedSet

cleaned = CleanedSet.read(Path(__file__).parent)
get_custom_metadata = cleaned.metadata  # stable-audio-tools: "custom_metadata_module"
keep = cleaned.keep  # webdataset: dataset.select(keep)
'''


@dataclass(frozen=True)
class CleanedClip:
    """A line of the table."""

    id: str
    file_name: str  # relative to the folder of clips; empty: in a tar
    keep: str  # "yes", or "no": another clip of its cluster stands for it
    duplicate_of: str  # the id of that one
    copies: int  # in its cluster
    weight: float  # of its loss, for a training on all copies
    captions: str  # JSON: each that its cluster has; a trainer draws one each time
    suggestion: str


@dataclass(frozen=True)
class CleanedSet:
    """The lines of the table, and what trainers ask of it."""

    clips: tuple[CleanedClip, ...]
    folder: str | None = None  # of the clips

    @classmethod
    def of(cls, index: TrainingIndex, clusters: Sequence[Cluster]) -> CleanedSet:
        """The longest clip of each cluster, and all that have no duplicate.

        Args:
            index: the training set.
            clusters: those of `anechoic.index.duplicates.duplicates`.

        Source: a clip is trained under several captions as Somepalli et al., 2023
        (arXiv:2305.20086), propose; what makes more of them is up to the user.
        """
        rank = {one.clip.id: one for one in ranked(index, clusters)}
        cluster_of = {clip.id: one for one in clusters for clip in one.clips}
        lines = []
        for clip in dict.fromkeys(row.id for row in index.clips):
            one, cluster = rank[clip], cluster_of.get(clip)
            same = (one.clip,) if cluster is None else cluster.clips
            kept = max(same, key=lambda other: rank[other.id].seconds).id
            captions = list(dict.fromkeys(other.caption for other in same))
            lines.append(
                CleanedClip(
                    clip,
                    "" if one.clip.path is None else PurePosixPath(one.clip.path).as_posix(),
                    YES if kept == clip else NO,
                    "" if kept == clip else kept,
                    one.copies,
                    1 / one.copies,
                    json.dumps(captions, ensure_ascii=False),
                    _suggestion(one, kept, captions),
                )
            )
        return cls(tuple(lines), index.about.clips_folder)

    def write(self, folder: Path, *, overwrite: bool = False) -> list[str]:
        """Write the table, and what trainers read: an audiofolder's metadata of the clips to keep,
        a dataset config and a module of custom metadata for stable-audio-tools, and in that module
        a filter for WebDataset. An audiofolder's and a dataset config are of sound files, so there
        are none of tars.

        Returns:
            The names of the files.

        Raises:
            OutputExists: the folder exists, and `overwrite` is off.
        """
        if folder.exists() and not overwrite:
            raise OutputExists.at(folder)
        files = {TABLE: _csv([asdict(clip) for clip in self.clips]), MODULE: GLUE}
        if all(clip.file_name for clip in self.clips) and self.folder is not None:
            files[AUDIOFOLDER] = _csv(
                [
                    {"file_name": clip.file_name, "caption": json.loads(clip.captions)[0]}
                    for clip in self.clips
                    if clip.keep == YES
                ]
            )
            source = {
                "id": "cleaned",
                "path": str(Path(self.folder).resolve()),
                "custom_metadata_module": str((folder / MODULE).resolve()),
            }
            config = {"dataset_type": "audio_dir", "datasets": [source], "random_crop": True}
            files[CONFIG] = json.dumps(config, indent=2) + "\n"
        with whole_folder(folder) as part:
            for name, text in files.items():
                (part / name).write_text(text, "utf-8", newline="")
        return list(files)

    @classmethod
    def read(cls, folder: Path) -> CleanedSet:
        """The table of a folder, as `write` made it and a user may have edited it.

        Raises:
            BadSetting: no table, or a line that cannot be read.
        """
        return cls(tuple(_lines(folder / TABLE)))

    def metadata(self, info: Mapping[str, Any], audio: Any = None) -> dict[str, Any]:
        """What stable-audio-tools adds to a clip: one of its captions as the prompt, or that it is
        not trained on.

        Raises:
            BadSetting: the table has no such clip.
        """
        name = Path(info["relpath"]).as_posix()
        if (clip := self._by_file.get(name)) is None:
            raise _unknown(name)
        if clip.keep != YES:
            return {"__reject__": True}
        # by the generator of the trainer's worker, as the library's own crops are
        return {"prompt": random.choice(json.loads(clip.captions))}

    def keep(self, sample: Mapping[str, Any]) -> bool:
        """Whether a sample of WebDataset is trained on.

        Raises:
            BadSetting: the table has no such sample.
        """
        place = PurePosixPath(str(sample["__url__"]).removesuffix(".tar"), sample["__key__"]).parts
        for start in range(len(place)):  # an id has as much of the tar's path as tells tars apart
            if (clip := self._by_id.get("/".join(place[start:]))) is not None:
                return clip.keep == YES
        raise _unknown("/".join(place))

    @cached_property
    def _by_file(self) -> dict[str, CleanedClip]:
        return {clip.file_name: clip for clip in self.clips}

    @cached_property
    def _by_id(self) -> dict[str, CleanedClip]:
        return {clip.id: clip for clip in self.clips}


def _unknown(name: str) -> BadSetting:
    return BadSetting(
        f"expected a clip of the table '{TABLE}', got '{name}'; build the index of all clips, and "
        "write the table again"
    )


def _suggestion(one: RankedClip, kept: str, captions: Sequence[str]) -> str:
    if kept != one.clip.id:
        return f"leave it out: {kept} stands for it"
    if len(captions) > 1:
        return "train it under each of its captions in turn"
    if one.alone:
        return "its caption stands over no other clip: say it in words that others share"
    return ""


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _lines(table: Path) -> Iterator[CleanedClip]:
    names = [field.name for field in fields(CleanedClip)]
    for number, row in enumerate(read_rows(table, "cleaned clips", BadSetting), 1):
        try:
            line: dict[str, Any] = {name: row[name] or "" for name in names}
            line |= {"copies": int(line["copies"]), "weight": float(line["weight"])}
            clip = CleanedClip(**line)
            captions = json.loads(clip.captions)
        except (KeyError, TypeError, ValueError) as error:
            raise BadSetting(
                f"'{table}', line {number} of the data: cannot be read ({error}); write the table "
                "again with 'anechoic index duplicates --manifest'"
            ) from error
        if clip.keep not in (YES, NO) or not captions or not isinstance(captions, list):
            raise BadSetting(
                f"'{table}', line {number} of the data: expected yes or no under 'keep' and a list "
                f"of captions, got {clip.keep!r} and {clip.captions}; correct it"
            )
        yield clip
