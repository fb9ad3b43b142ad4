"""The training set of an audit: clips instead of rows, with their sound if it is available."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from inspect import signature
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from anechoic import audio
from anechoic.detectors import registry, stored
from anechoic.detectors.nearest import clip_numbers
from anechoic.detectors.protocol import Detector
from anechoic.detectors.sound import Fitted, fit
from anechoic.errors import AnechoicError, BadSetting
from anechoic.index import Clip, Sound, TrainingIndex
from anechoic.types import Embedder

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


def fitted(name: str, training: TrainingSet, embedder: Embedder) -> Detector:
    """A detector by name, fitted to the training set, or as it was fitted when it was calibrated.

    Raises:
        BadSetting: no such detector, or the sound of a training clip that it needs is not here.
        IndexMismatch: a detector that is kept beside the index is damaged, or of another recipe.
    """
    found = kept(name, training)
    return fit_anew(name, training, embedder) if found is None else found


def kept(name: str, training: TrainingSet) -> Detector | None:
    """A detector by name as it was fitted when it was calibrated; None: to be fitted.

    Raises:
        BadSetting: no such detector.
        IndexMismatch: a detector that is kept beside the index is damaged, or of another recipe.
    """
    kind, folder = _kind(name), training.index.folder
    if not folder or not hasattr(kind, "fit"):
        return None
    return stored.read(folder, name, kind, training.index.content)


def fit_anew(name: str, training: TrainingSet, embedder: Embedder) -> Detector:
    """A detector by name, fitted to the training set, whatever is kept beside the index.

    Raises:
        BadSetting: no such detector, or the sound of a training clip that it needs is not here.
    """
    kind = _kind(name)
    if not hasattr(kind, "fit"):
        detector: Detector = kind(training.index, embedder)
        return detector
    sounds = [training.sound(number) for number in range(len(training.clips))]
    known = [one for one in sounds if not isinstance(one, str)]
    if missing := [one for one in sounds if isinstance(one, str)]:
        raise BadSetting(
            f"detector '{name}' needs the training clips, and {len(missing)} of {len(sounds)} "
            f"cannot be read ({missing[0]}); choose another, or bring the sound back"
        )
    return fit(cast(Fitted, kind), known)


def _kind(name: str) -> type[Any]:
    kind = registry.detector(name)
    if not judges_sound(kind):
        raise BadSetting(
            f"detector '{name}' judges runs, and an audit is of sounds; 'anechoic screen' judges "
            "prompts by it"
        )
    return kind


def judges_sound(kind: type[Any]) -> bool:
    """Whether a kind of detector judges sound, not runs."""
    return "sample_rate" in signature(kind.__call__).parameters
