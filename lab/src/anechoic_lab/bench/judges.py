"""The verdict on a generation, and measures no guard follows: other descriptors, the waveform."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from julius.resample import resample_frac
from torch import Tensor

from anechoic import audio
from anechoic.detectors.correlation import correlation_peak
from anechoic.errors import BadSetting, IndexMismatch
from anechoic.verdict import Rule, Verdict, Verifier

OWN = 16  # compare the waveforms of at most this many clips with the prompt's own caption
WAVEFORM = "waveform"


def describe(verifier: Verifier) -> str:
    """Embedder, revision, number of rows and window length of a verifier's index."""
    index = verifier.index
    revision = f" at {index.revision}" if index.revision else ""
    rows = "whole clips" if index.window_s is None else f"windows of {index.window_s:g} s"
    centred = ", centred" if index.centred else ""
    return f"{index.embedder_name}{revision}, {len(index)} {rows}{centred}"


@dataclass(frozen=True, eq=False)
class Judges:
    """All measures of how near a generation is to the training set.

    A guard can move its own descriptor to another clip while the sound stays a copy. So each
    judge searches for the nearest clip itself, and the waveform is compared with every clip that
    any of them finds, and with clips of the prompt's own caption.

    Args:
        guide: gives the verdict, by the descriptor that the methods follow.
        others: descriptors that no method follows, by name, over the same clips.

    Raises:
        BadSetting: the index has no calibration, or a judge uses the guide's embedder.
        IndexMismatch: a judge has other clips.
    """

    guide: Verifier
    others: Mapping[str, Verifier]

    @classmethod
    def load(
        cls, index: str | Path, others: tuple[str, ...] = (), threshold: float | None = None
    ) -> Judges:
        """Load the judges from index folders."""
        guide = Verifier.load(index, threshold=threshold)
        if guide.rule is None:
            raise BadSetting(
                f"index '{guide.index.name}' has no calibration for copies; calibrate it with "
                "'anechoic calibrate', or give '--threshold', chosen from scores of sound that is "
                "known not to be in the training set"
            )
        found: dict[str, Verifier] = {}
        for folder in others:
            judge = Verifier.load(folder, threshold=1.0)  # only its scores are used
            name = judge.embedder.name.partition(":")[0]
            if judge.embedder.name == guide.embedder.name or name in found:
                raise BadSetting(
                    f"judge '{folder}' uses '{judge.embedder.name}', which is in use already; "
                    "give an index of the same clips by another embedder"
                )
            if {clip.id for clip in judge.index.clips} != {clip.id for clip in guide.index.clips}:
                raise IndexMismatch(
                    f"judge '{folder}' has other clips than '{index}'; build it from the same "
                    f"folder ('anechoic index build --embedder {name}')"
                )
            found[name] = judge
        return cls(guide, found)

    @property
    def rule(self) -> Rule:
        """The rule by which a generation is a copy."""
        assert self.guide.rule is not None  # checked by `load`
        return self.guide.rule

    @property
    def can_read_waveforms(self) -> bool:
        """Whether the sound of every training clip can be read."""
        rows = range(len(self.guide.index))
        return all((file := self.guide.index.file(row)) and file.is_file() for row in rows)

    def __call__(
        self, wav: Tensor, sample_rate: int, caption: str, waveforms: bool
    ) -> tuple[Verdict, dict[str, float]]:
        """The guide's verdict on a sound [c, t], and the scores of the other measures."""
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

    def beside(self, wav: Tensor, sample_rate: int) -> tuple[Tensor, Tensor, str]:
        """The stretch of a sound [c, t] that is most like a training clip, that of the clip, and
        its id.

        Raises:
            BadSetting: the clip's file is not there.
        """
        verdict = self.guide(wav, sample_rate)
        match, row = verdict.match, verdict.match.clip_in(range(len(self.guide.index)))
        clip, file = self.guide.index.clips[row], self.guide.index.file(row)
        if file is None or not file.is_file():
            raise BadSetting(f"the sound file of training clip '{clip.id}' is not there: {file}")
        own = _read(file, sample_rate)
        starts = [round((at or 0.0) * sample_rate) for at in (match.start_s, match.match_start_s)]
        length = min(wav.shape[-1] - starts[0], own.shape[-1] - starts[1])
        if match.length_s is not None:
            length = min(length, round(match.length_s * sample_rate))
        parts = [x[..., at : at + length] for x, at in zip((wav, own), starts, strict=True)]
        return parts[0], parts[1], clip.id

    def _sound(self, row: int, sample_rate: int) -> Tensor:
        """The sound of a row, [c, t]."""
        clip, file = self.guide.index.clips[row], self.guide.index.file(row)
        assert file is not None  # waveforms are compared only if all files can be read
        wav = _read(file, sample_rate)
        start, length = (round(seconds * sample_rate) for seconds in (clip.start_s, clip.seconds))
        return wav[:, start : start + length]


@lru_cache(maxsize=64)
def _read(file: Path, sample_rate: int) -> Tensor:
    wav, own_rate = audio.read(file)
    return wav if own_rate == sample_rate else resample_frac(wav, own_rate, sample_rate)
