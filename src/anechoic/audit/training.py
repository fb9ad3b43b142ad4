"""The training set of an audit: clips instead of rows, with their sound if it is available."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anechoic import audio
from anechoic.detectors.nearest import clip_numbers
from anechoic.errors import AnechoicError
from anechoic.index import Clip, Sound, TrainingIndex

SoundOf = Callable[[Clip], tuple[Tensor, int] | None]  # [c, t] and its rate; None: not available
MOST = 2_000  # rows drawn at most to compare training clips with each other


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """The clips of an index; all windows of a clip count as one.

    Args:
        index: the index of the training set.
        given: returns the sound of a clip, if the index has no files; by default files are read.
    """

    index: TrainingIndex
    given: SoundOf | None = None

    @cached_property
    def clips(self) -> list[Clip]:
        """The distinct clips in the order of the index, each by its first row."""
        seen: dict[str, Clip] = {}
        for row in self.index.clips:
            seen.setdefault(row.id, row)
        return list(seen.values())

    @cached_property
    def numbers(self) -> list[int]:
        """The number of each row's clip."""
        return clip_numbers(self.index)

    @cached_property
    def of_caption(self) -> dict[str, list[int]]:
        """The numbers of the clips of each caption."""
        found: dict[str, list[int]] = {}
        for number, clip in enumerate(self.clips):
            found.setdefault(clip.caption, []).append(number)
        return found

    @cached_property
    def _firsts(self) -> list[int]:
        """The first row of each clip."""
        rows: dict[int, int] = {}
        for row, number in enumerate(self.numbers):
            rows.setdefault(number, row)
        return list(rows.values())

    def file(self, number: int) -> Path | None:
        """The sound file of a clip, if the index names one."""
        return self.index.file(self._firsts[number])

    def sound(self, number: int) -> Sound | str:
        """The whole sound of a clip, or why it is not available."""
        return self._read(number)

    @cached_property
    def _read(self) -> Callable[[int], Sound | str]:
        return lru_cache(maxsize=64)(self._read_now)  # recent clips are not read again

    def _read_now(self, number: int) -> Sound | str:
        clip = self.clips[number]
        try:
            if self.given is not None:
                got = self.given(clip)
            else:
                file = self.file(number)
                got = None if file is None else audio.read(file)
        except (AnechoicError, OSError) as error:
            return str(error)
        if got is None:
            return "the index names no file for it"
        return Sound(clip.id, clip.caption, got[0], got[1], clip.path, clip.info)

    def __getstate__(self) -> dict[str, Any]:
        """Without the cached sound, which stays in this process."""
        return {name: value for name, value in vars(self).items() if name != "_read"}

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the embeddings and of the clips' metadata."""
        index = self.index
        about = [index.embedder_name, index.revision, index.centred, index.window_s, index.hop_s]
        digest = hashlib.sha256(json.dumps(about).encode())
        digest.update(index.content.encode())
        return digest.hexdigest()

    def among_themselves(self) -> list[float]:
        """The cosine of each training clip to the nearest other one, as a background without
        copying. Exact duplicates in the training set are not merged.

        If there are more than `MOST` rows, that many are drawn evenly.

        Source: Somepalli et al., 2023 (arXiv:2212.03860).
        """
        count = len(self.index)
        rows = torch.linspace(0, count - 1, min(count, MOST)).round().long()
        numbers = torch.tensor(self.numbers)
        of_clip = torch.bincount(numbers)
        found: list[float] = []
        for part in rows.split(64):
            k = int(of_clip[numbers[part]].max()) + 1  # includes a row of another clip
            near = self.index.search(self.index.vectors(part), k)
            other = numbers[near.rows] != numbers[part][:, None]
            nearest = near.scores.masked_fill(~other, -torch.inf).amax(1)
            found += nearest[other.any(1)].clamp(-1.0, 1.0).tolist()
        return found
