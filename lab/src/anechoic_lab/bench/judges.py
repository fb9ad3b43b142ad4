"""Is a generation a copy? The guide's own descriptor, others that guide nothing, the waveform."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import julius
from torch import Tensor

from anechoic import audio
from anechoic.detectors import locate
from anechoic.detectors.correlation import correlation_peak
from anechoic.embedders import embedder
from anechoic.errors import BadSetting, IndexMismatch
from anechoic.index import TrainingIndex
from anechoic.types import Embedder, Match

COPY = "copy"  # the threshold of an index above which a score is called a copy
OWN = 16  # clips of the prompt's own caption whose waveform is compared
WAVEFORM = "waveform"


@dataclass(frozen=True, eq=False)
class Descriptor:
    """A training set as one embedder hears it."""

    index: TrainingIndex
    embedder: Embedder

    @classmethod
    def load(cls, folder: str | Path) -> Descriptor:
        """The index of a folder, and the embedder that it names."""
        index = TrainingIndex.load(folder)
        made = embedder(index.embedder_name)
        index.check_embedder(made)
        return cls(index, made)

    def nearest(self, wav: Tensor, sample_rate: int) -> Match:
        """The training clip that any stretch of a sound [c, t] comes nearest to."""
        return locate(wav, sample_rate, self.index, self.embedder)[0]

    @property
    def about(self) -> str:
        """Embedder, revision, number of rows, windows."""
        index = self.index
        revision = f" at {index.revision}" if index.revision else ""
        rows = "whole clips" if index.window_s is None else f"windows of {index.window_s:g} s"
        return f"{index.embedder_name}{revision}, {len(index)} {rows}" + (
            ", centred" if index.centred else ""
        )


@dataclass(frozen=True, eq=False)
class Judges:
    """All that tell how near a generation is to the training set.

    A guard can lead its own descriptor to another clip while the sound stays the copy. So each
    judge looks for the nearest clip by itself, and the waveform is compared with every clip that
    one of them names, and with those of the prompt's own caption.

    Args:
        guide: the descriptor that methods follow.
        others: descriptors that guide nothing, by name, over the same clips.
        threshold: of the guide, from which on a generation is a copy; by default the calibrated
            one of its index.

    Raises:
        BadSetting: no threshold, or a judge that is the guide once more.
        IndexMismatch: a judge of other clips.
    """

    guide: Descriptor
    others: Mapping[str, Descriptor]
    threshold: float

    @classmethod
    def load(
        cls, index: str | Path, others: tuple[str, ...] = (), threshold: float | None = None
    ) -> Judges:
        """The judges of index folders."""
        guide = Descriptor.load(index)
        limit = guide.index.thresholds.get(COPY) if threshold is None else threshold
        if limit is None:
            raise BadSetting(
                f"index '{guide.index.name}' has no calibrated threshold for copies; give one with "
                "'--threshold', from scores of audio that is known not to be in the training set"
            )
        if not -1 <= limit <= 1:
            raise BadSetting(f"threshold {limit:g} is no cosine similarity; give one in -1 to 1")
        found: dict[str, Descriptor] = {}
        for folder in others:
            judge = Descriptor.load(folder)
            name = judge.embedder.name.partition(":")[0]
            if judge.embedder.name == guide.embedder.name or name in found:
                raise BadSetting(
                    f"judge '{folder}' is by '{judge.embedder.name}', which guides or judges "
                    "already; give an index of the same clips by another embedder"
                )
            if {clip.id for clip in judge.index.clips} != {clip.id for clip in guide.index.clips}:
                raise IndexMismatch(
                    f"judge '{folder}' holds other clips than '{index}'; build it from the same "
                    f"folder ('anechoic index build --embedder {name}')"
                )
            found[name] = judge
        return cls(guide, found, limit)

    @property
    def hears_waveforms(self) -> bool:
        """Whether the sound of every training clip can be read."""
        rows = range(len(self.guide.index))
        return all((file := self.guide.index.file(row)) and file.is_file() for row in rows)

    def __call__(
        self, wav: Tensor, sample_rate: int, caption: str, waveforms: bool
    ) -> tuple[float, dict[str, float]]:
        """Similarity by the guide, and the scores of the others, of a sound [c, t]."""
        match = self.guide.nearest(wav, sample_rate)
        found = {name: judge.nearest(wav, sample_rate) for name, judge in self.others.items()}
        scores = {name: near.score for name, near in found.items()}
        if waveforms:
            index = self.guide.index
            named = {near.clip_in(self.others[name].index.clips).id for name, near in found.items()}
            rows = {match.clip_in(range(len(index)))} | {
                row for row, clip in enumerate(index.clips) if clip.id in named
            }
            own = [row for row, clip in enumerate(index.clips) if clip.caption == caption]
            scores[WAVEFORM] = max(
                correlation_peak(wav, self._sound(row, sample_rate))
                for row in sorted(rows.union(own[:OWN]))
            )
        return match.score, scores

    def _sound(self, row: int, sample_rate: int) -> Tensor:
        """The stretch of sound that a row stands for, [c, t]."""
        clip, file = self.guide.index.clips[row], self.guide.index.file(row)
        assert file is not None  # waveforms are asked for only where there are files
        wav = _read(file, sample_rate)
        start, length = (round(seconds * sample_rate) for seconds in (clip.start_s, clip.seconds))
        return wav[:, start : start + length]


@lru_cache(maxsize=64)
def _read(file: Path, sample_rate: int) -> Tensor:
    wav, own_rate = audio.read(file)
    return wav if own_rate == sample_rate else julius.resample_frac(wav, own_rate, sample_rate)
