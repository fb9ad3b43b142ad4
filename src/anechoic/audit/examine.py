"""Examines one sound: what each detector finds in the training set, and where they match."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor

from anechoic.audit.excerpts import Keep, Shown, show
from anechoic.audit.training import TrainingSet
from anechoic.detectors import NOTHING, Correlation, Detector, Landmarks, Match, Notes
from anechoic.detectors.sound import Fitted, fit, underlying
from anechoic.errors import AnechoicError
from anechoic.index import Sound

# the correlation of a copy mixed with equally loud sound; its lag is better than an embedding's
CONVINCING = 0.7
OWN = 16  # clips of the prompt's own caption that scorers compare with
MATCHED, PROMPTED = "the matched clip", "the prompt's own clips"


@dataclass(frozen=True)
class Scorer:
    """A kind of detector that compares with few clips only: the match of the deciding detector,
    and the clips with the prompt's own caption.

    A guard can move its own descriptor to another clip while the sound stays a copy of the prompt's
    own. No guard changes the verdict of the waveform.
    """

    starts: str  # prefix of its detectors' names
    kind: Fitted


SCORERS = (Scorer("correlation", Correlation), Scorer("landmarks", Landmarks))


@dataclass(frozen=True)
class SampleResult:
    """The findings of all detectors on one sound, before anything is decided."""

    seconds: float
    sample_rate: int
    channels: int
    matches: Mapping[str, Match]  # by the name of the detector, the deciding one first
    clip: int | None  # number of the training clip that is shown next to it
    match: Match  # where the two match
    aligned_by: str  # the detector that located the match; empty: none
    notes: Sequence[str]  # detectors that could not compare it, and why
    own: int | None  # number of the prompt's own clip, if `clip` is another one
    shown: Shown | None  # None for held-out sound, which the report does not show


class Scored(NamedTuple):
    """What a detector found."""

    name: str
    match: Match
    detector: Detector


@dataclass(frozen=True, eq=False)
class Examiner:
    """Detectors that search the whole training set (the first decides), and scorers."""

    training: TrainingSet
    detectors: Sequence[Detector]
    scorers: Sequence[Scorer]
    keep: Keep

    def __call__(
        self, wav: Tensor, sample_rate: int, prompt: str = "", pictures: bool = True
    ) -> SampleResult:
        """Examine a sound [c, t].

        Raises:
            AnechoicError: it is not usable sound, or too long or short for the deciding detector.
        """
        notes: list[str] = []
        scored = list(self._search(wav, sample_rate, notes))
        clip = next((one.match.row for one in scored if one.match.row is not None), None)
        if clip is not None:
            scored += self._score(wav, sample_rate, [clip], MATCHED)
        own = self.training.of_caption.get(prompt, [])[:OWN] if prompt else []
        if set(own) - {clip}:
            scored += self._score(wav, sample_rate, own, PROMPTED)
        mine = None if clip in own else _nearest_own(scored, own)
        aligned_by, match = _alignment(scored, clip)
        sound = "no training clip was named" if clip is None else self.training.sound(clip)
        other = "" if mine is None else self.training.sound(mine)
        return SampleResult(
            seconds=wav.shape[-1] / sample_rate,
            sample_rate=sample_rate,
            channels=len(wav),
            matches={one.name: one.match for one in scored},
            clip=clip,
            match=match,
            aligned_by=aligned_by,
            notes=notes,
            own=mine,
            shown=show(wav, sample_rate, match, sound, self.keep, other, _by_notes(scored, clip))
            if pictures
            else None,
        )

    def _score(
        self, wav: Tensor, sample_rate: int, numbers: Sequence[int], whose: str
    ) -> Iterator[Scored]:
        return score_clips(self.training, self.scorers, wav, sample_rate, numbers, whose)

    def _search(self, wav: Tensor, sample_rate: int, notes: list[str]) -> Iterator[Scored]:
        """Each detector's match in the whole training set. A detector that cannot compare this
        sound gets a note; the deciding one raises."""
        for number, detector in enumerate(self.detectors):
            try:
                (match,) = detector(wav[None], sample_rate)
            except AnechoicError as error:
                if number == 0:
                    raise
                notes.append(f"'{detector.name}' could not compare it: {error}")
                match = NOTHING
            yield Scored(detector.name, match, detector)


def score_clips(
    training: TrainingSet,
    scorers: Sequence[Scorer],
    wav: Tensor,
    sample_rate: int,
    numbers: Sequence[int],
    whose: str,
) -> Iterator[Scored]:
    """The scorers' matches among some clips; none if their sound is not available."""
    sounds = [(n, got) for n in numbers if isinstance(got := training.sound(n), Sound)]
    for scorer in scorers:
        try:
            fitted = fit(scorer.kind, [sound for _, sound in sounds])
        except AnechoicError:  # all are too short, or their files are missing
            continue
        (match,) = fitted(wav[None], sample_rate)
        row = None if match.row is None else sounds[match.row][0]
        yield Scored(f"{fitted.name}, {whose}", replace(match, row=row), fitted)


def _nearest_own(scored: Sequence[Scored], own: Sequence[int]) -> int | None:
    """The prompt's own clip that a scorer found nearest; the first one if none did."""
    found = [one.match for one in scored if one.name.endswith(PROMPTED)]
    named = [row for one in found if (row := one.row) is not None]
    return next(iter([*named, *own]), None)


def _by_notes(scored: Sequence[Scored], clip: int | None) -> Match | None:
    """The match of the deciding detector, if it compares notes and has one."""
    first = scored[0]
    found = isinstance(underlying(first.detector), Notes) and first.match.row is not None
    return first.match if found and first.match.row == clip else None


def _alignment(scored: Sequence[Scored], clip: int | None) -> tuple[str, Match]:
    """Where a sound and a clip match, and the detector that located it: a convincing correlation
    of the waveforms, which is exact, or else the first detector with a location."""
    located = [
        one
        for one in scored
        if one.match.row == clip
        and one.match.start_s is not None
        and one.match.match_start_s is not None
    ]
    exact = [
        one
        for one in located
        if isinstance(underlying(one.detector), Correlation) and one.match.score >= CONVINCING
    ]
    for one in [*exact, *located]:
        return one.name, one.match
    return "", NOTHING
