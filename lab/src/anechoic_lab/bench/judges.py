"""The verdict on a generation, and measures that guide nothing: other descriptors, the waveform."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import julius
from torch import Tensor

from anechoic import audio
from anechoic.detectors.correlation import correlation_peak
from anechoic.errors import BadSetting, IndexMismatch
from anechoic.verdict import Rule, Verdict, Verifier

OWN = 16  # clips of the prompt's own caption whose waveform is compared
WAVEFORM = "waveform"


def describe(verifier: Verifier) -> str:
    """Embedder, revision, number of rows, and windows of a verifier's index."""
    index = verifier.index
    revision = f" at {index.revision}" if index.revision else ""
    rows = "whole clips" if index.window_s is None else f"windows of {index.window_s:g} s"
    centred = ", centred" if index.centred else ""
    return f"{index.embedder_name}{revision}, {len(index)} {rows}{centred}"


@dataclass(frozen=True, eq=False)
class Judges:
    """All that measure how near a generation is to the training set.

    A guard can lead its own descriptor to another clip while the sound stays the copy. So each
    judge looks for the nearest clip by itself, and the waveform is compared with every clip that
    one of them names, and with those of the prompt's own caption.

    Args:
        guide: gives the verdict, by the descriptor that methods follow.
        others: descriptors that guide nothing, by name, over the same clips.

    Raises:
        BadSetting: nothing to judge by, or a judge that is the guide once more.
        IndexMismatch: a judge of other clips.
    """

    guide: Verifier
    others: Mapping[str, Verifier]

    @classmethod
    def load(
        cls, index: str | Path, others: tuple[str, ...] = (), threshold: float | None = None
    ) -> Judges:
        """The judges of index folders."""
        guide = Verifier.load(index, threshold=threshold)
        if guide.rule is None:
            raise BadSetting(
                f"index '{guide.index.name}' has no calibration for copies; calibrate it with "
                "'anechoic calibrate', or give a threshold with '--threshold', from scores of "
                "sound that is known not to be in the training set"
            )
        found: dict[str, Verifier] = {}
        for folder in others:
            judge = Verifier.load(folder, threshold=1.0)  # only its scores are used
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
        return cls(guide, found)

    @property
    def rule(self) -> Rule:
        """By which a generation is called a copy."""
        assert self.guide.rule is not None  # `load` saw to it
        return self.guide.rule

    @property
    def hears_waveforms(self) -> bool:
        """Whether the sound of every training clip can be read."""
        rows = range(len(self.guide.index))
        return all((file := self.guide.index.file(row)) and file.is_file() for row in rows)

    def __call__(
        self, wav: Tensor, sample_rate: int, caption: str, waveforms: bool
    ) -> tuple[Verdict, dict[str, float]]:
        """The verdict by the guide, and the scores of the others, of a sound [c, t]."""
        verdict = self.guide(wav, sample_rate)
        found = {name: judge(wav, sample_rate) for name, judge in self.others.items()}
        scores = {name: other.score for name, other in found.items()}
        if waveforms:
            index = self.guide.index
            named = {other.clip.id for other in found.values() if other.clip is not None}
            rows = {verdict.match.clip_in(range(len(index)))} | {
                row for row, clip in enumerate(index.clips) if clip.id in named
            }
            own = [row for row, clip in enumerate(index.clips) if clip.caption == caption]
            scores[WAVEFORM] = max(
                correlation_peak(wav, self._sound(row, sample_rate))
                for row in sorted(rows.union(own[:OWN]))
            )
        return verdict, scores

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
