"""One sound beside the training set: findings, and the excerpts and pictures that show them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from anechoic.audit.matrix import similarity_matrix
from anechoic.audit.training import TrainingSet
from anechoic.detect import NOTHING, Correlation, Detector, Finding, Landmarks, TrainingSound
from anechoic.errors import AnechoicError
from anechoic.index import Sound
from anechoic.report.media import FLOOR_DB, flac, shaded_png, spectrogram_db

Keep = Callable[[bytes, str], str]  # content, suffix -> the key to find it by
CONTEXT_S = 5.0  # shown before and after a match in long sound
LONGEST_S = 30.0  # of an excerpt
CONVINCING = 0.5  # a waveform that correlates so much tells the lag better than an embedding
OWN = 16  # clips of the prompt's own caption whose waveform is compared
HIGHEST_HZ = 16_000.0  # shown; above it there is little, and many codecs leave nothing


class Fitted(Protocol):
    """A kind of detector that is fitted to sounds."""

    def fit(self, sounds: Sequence[TrainingSound]) -> Detector: ...


@dataclass(frozen=True)
class Witness:
    """A kind of detector that compares with few clips alone: the matched one, which the deciding
    detector named, and those of the prompt's own caption.

    A guard can lead the descriptor it follows to another clip while the sound stays the copy of its
    prompt's own. The waveform follows nobody.
    """

    starts: str  # how the names of its findings start
    kind: Fitted


WITNESSES = (Witness("correlation", Correlation), Witness("landmarks", Landmarks))
MATCHED, PROMPTED = "the matched clip", "the prompt's own clips"


class _Told(NamedTuple):
    name: str
    finding: Finding
    detector: Detector


@dataclass(frozen=True)
class Picture:
    """An excerpt of a sound, as the report shows it."""

    sound: str  # key of the FLAC
    spectrogram: str  # key of the PNG
    start_s: float  # of the excerpt, in the sound
    seconds: float  # of the excerpt


@dataclass(frozen=True)
class Examination:
    """What was found of one sound, before anything is decided."""

    seconds: float
    sample_rate: int
    channels: int
    findings: Mapping[str, Finding]  # by the name of the detector, the deciding one first
    clip: int | None  # number of the training clip that is shown beside it
    match: Finding  # where the two are alike
    aligned_by: str  # the detector that told where; empty: nobody did
    made: Picture
    training: Picture | None
    matrix: str | None  # key of the PNG
    missing: str = ""  # why the training clip's sound is not shown

    @property
    def keys(self) -> list[str]:
        """Of all that the report shows."""
        pictures = [self.made, *([self.training] if self.training else [])]
        keys = [key for picture in pictures for key in (picture.sound, picture.spectrogram)]
        return [*keys, *([self.matrix] if self.matrix else [])]


@dataclass(frozen=True, eq=False)
class Examiner:
    """Detectors that search the whole training set, of which the first decides, and witnesses."""

    training: TrainingSet
    detectors: Sequence[Detector]
    witnesses: Sequence[Witness]
    keep: Keep

    def __call__(self, wav: Tensor, sample_rate: int, prompt: str = "") -> Examination:
        """Examine a sound [c, t].

        Raises:
            AnechoicError: it is not usable sound, or too long or short for a detector.
        """
        told = [_Told(d.name, d(wav[None], sample_rate)[0], d) for d in self.detectors]
        clip = next((one.finding.row for one in told if one.finding.row is not None), None)
        if clip is not None:
            told += self._testimony(wav, sample_rate, [clip], MATCHED)
        own = self.training.of_caption.get(prompt, [])[:OWN] if prompt else []
        if set(own) - {clip}:
            told += self._testimony(wav, sample_rate, own, PROMPTED)
        findings = {one.name: one.finding for one in told}
        aligned_by, match = _alignment(told, clip)
        sound = "no training clip was named" if clip is None else self.training.sound(clip)
        return self._shown(wav, sample_rate, findings, clip, aligned_by, match, sound)

    def _testimony(
        self, wav: Tensor, sample_rate: int, numbers: Sequence[int], whose: str
    ) -> Iterator[_Told]:
        """What the witnesses find among some clips; nothing where their sound is not here."""
        heard = [(n, got) for n in numbers if isinstance(got := self.training.sound(n), Sound)]
        for witness in self.witnesses:
            fitted, rows = _fitted(witness.kind, heard)
            if fitted is None:
                continue
            (finding,) = fitted(wav[None], sample_rate)
            row = None if finding.row is None else rows[finding.row]
            yield _Told(f"{fitted.name}, {whose}", replace(finding, row=row), fitted)

    def _shown(
        self,
        wav: Tensor,
        sample_rate: int,
        findings: Mapping[str, Finding],
        clip: int | None,
        aligned_by: str,
        match: Finding,
        sound: Sound | str,
    ) -> Examination:
        seconds = wav.shape[-1] / sample_rate
        other = sound.wav.shape[-1] / sound.sample_rate if isinstance(sound, Sound) else 0.0
        lag = (match.start_s or 0.0) - (match.match_start_s or 0.0)
        first, last = window(match, seconds, other)
        rates = [sample_rate, *([sound.sample_rate] if isinstance(sound, Sound) else [])]
        highest = min(HIGHEST_HZ, *(rate / 2 for rate in rates))
        made, made_db = self._picture(wav, sample_rate, first, last, highest)
        training, matrix = None, None
        if isinstance(sound, Sound):
            training, other_db = self._picture(
                sound.wav, sound.sample_rate, first - lag, last - lag, highest
            )
            shaded = shaded_png(
                similarity_matrix(made_db, other_db, (made.seconds, training.seconds))
            )
            matrix = self.keep(shaded, ".png")
        return Examination(
            seconds=seconds,
            sample_rate=sample_rate,
            channels=len(wav),
            findings=findings,
            clip=clip,
            match=match,
            aligned_by=aligned_by,
            made=made,
            training=training,
            matrix=matrix,
            missing=sound if isinstance(sound, str) else "",
        )

    def _picture(
        self, wav: Tensor, sample_rate: int, first_s: float, last_s: float, highest_hz: float
    ) -> tuple[Picture, np.ndarray]:
        """The excerpt between two times, and its spectrogram in dB."""
        start = min(max(round(first_s * sample_rate), 0), wav.shape[-1] - 1)
        stop = max(min(round(last_s * sample_rate), wav.shape[-1]), start + 1)
        excerpt = wav[:, start:stop].detach().float().cpu()
        middle = excerpt.mean(0).numpy()
        heard = excerpt if len(excerpt) <= 2 else excerpt.mean(0, keepdim=True)
        db = spectrogram_db(middle, sample_rate, highest_hz)
        picture = Picture(
            self.keep(flac(heard.T.numpy(), sample_rate), ".flac"),
            self.keep(shaded_png(1 + db / FLOOR_DB), ".png"),
            start / sample_rate,
            (stop - start) / sample_rate,
        )
        return picture, db


def window(match: Finding, seconds: float, other: float) -> tuple[float, float]:
    """What is shown of two sounds that are laid over each other: from when to when, in the first's
    time. All of both where that is short, or what is around the match.

    >>> window(Finding(1.0, 0, 4.0, 1.0, 2.0), seconds=10.0, other=5.0)
    (0.0, 10.0)
    >>> window(Finding(1.0, 0, 400.0, 1.0, 2.0), seconds=1000.0, other=5.0)
    (395.0, 407.0)
    """
    start, length = match.start_s or 0.0, match.length_s or 0.0
    lag = start - (match.match_start_s or 0.0)
    first, last = min(0.0, lag), max(seconds, lag + other)
    if last - first <= LONGEST_S:
        return first, last
    near = max(first, start - CONTEXT_S)
    return near, min(last, start + length + CONTEXT_S, near + LONGEST_S)


def _alignment(told: Sequence[_Told], clip: int | None) -> tuple[str, Finding]:
    """Where a sound and a clip are alike, and who says so: a waveform that correlates
    convincingly, which is exact, or else the first that tells it."""
    telling = [
        one
        for one in told
        if one.finding.row == clip
        and one.finding.start_s is not None
        and one.finding.match_start_s is not None
    ]
    exact = [
        one
        for one in telling
        if isinstance(one.detector, Correlation) and one.finding.score >= CONVINCING
    ]
    for one in [*exact, *telling]:
        return one.name, one.finding
    return "", NOTHING


def _fitted(
    kind: Fitted, heard: Sequence[tuple[int, Sound]]
) -> tuple[Detector | None, Sequence[int]]:
    """A detector of those clips that are usable, which sound and are long enough for it."""
    try:
        return kind.fit([sound for _, sound in heard]), [number for number, _ in heard]
    except AnechoicError:
        usable = [one for one in heard if len(heard) > 1 and _fitted(kind, [one])[0]]
        return _fitted(kind, usable) if usable else (None, [])


def torch_sound(wav: object) -> Tensor:
    """What a generator returned as a tensor [c, t]; one channel may come as [t].

    >>> torch_sound(np.zeros(3)).shape
    torch.Size([1, 3])
    """
    sound = torch.as_tensor(wav).detach().float().cpu()
    return sound[None] if sound.dim() == 1 else sound
