"""Excerpts and pictures of a sound and its nearest training clip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from anechoic.audio import mono
from anechoic.audit.html.media import FLOOR_DB, flac, shaded_png, spectrogram_db
from anechoic.audit.roll import heard, piano_roll
from anechoic.detectors import Match
from anechoic.index import Sound

Keep = Callable[[bytes, str], str]  # content, suffix -> key
CONTEXT_S = 5.0  # shown before and after a match in long sound
LONGEST_S = 30.0  # longest excerpt
HIGHEST_HZ = 16_000.0  # highest frequency shown; above it there is little sound
SIDE = 72  # moments of the longer sound in the similarity matrix
COMPARED_DB = 45.0  # anything further below the loudest point is ignored: noise, silence
AROUND = 2  # moments before and after that are averaged with one


@dataclass(frozen=True)
class Picture:
    """An excerpt of a sound, as the report shows it."""

    sound: str  # key of the FLAC
    spectrogram: str  # key of the PNG
    start_s: float  # start of the excerpt in the sound
    seconds: float  # length of the excerpt


@dataclass(frozen=True)
class Shown:
    """The excerpts and pictures of one sound in the report."""

    made: Picture
    training: Picture | None
    own: Picture | None  # the prompt's own clip, if the training clip is another one
    matrix: str | None  # key of the similarity matrix's PNG
    missing: str  # why the training clip's sound is not shown
    melodies: str | None = None  # key of the PNG with the notes of both, if notes decide

    @property
    def keys(self) -> list[str]:
        """The keys of all sounds and pictures."""
        pictures = [one for one in (self.made, self.training, self.own) if one]
        keys = [key for picture in pictures for key in (picture.sound, picture.spectrogram)]
        return [*keys, *(key for key in (self.matrix, self.melodies) if key)]


def show(
    wav: Tensor,
    sample_rate: int,
    match: Match,
    clip: Sound | str,
    keep: Keep,
    own: Sound | str = "",
    by_notes: Match | None = None,
) -> Shown:
    """Excerpts and pictures of a sound and its training clip, over the same time.

    Args:
        wav: the sound [c, t].
        sample_rate: in Hz.
        match: where the two match.
        clip: the training clip, or why its sound is not available.
        keep: stores sounds and pictures.
        own: the prompt's own training clip, if `clip` is another one; it starts with the sound.
        by_notes: where the notes of the two match, if notes decide.
    """
    seconds = wav.shape[-1] / sample_rate
    if isinstance(clip, str):
        first, last = window(match, seconds, 0.0)
        made, _ = _picture(wav, sample_rate, first, last, sample_rate / 2, keep)
        return Shown(made, None, _own(own, first, last, keep), None, clip)
    first, last = window(match, seconds, clip.wav.shape[-1] / clip.sample_rate)
    lag = (match.start_s or 0.0) - (match.match_start_s or 0.0)
    highest = min(sample_rate, clip.sample_rate) / 2
    made, a = _picture(wav, sample_rate, first, last, highest, keep)
    other, b = _picture(clip.wav, clip.sample_rate, first - lag, last - lag, highest, keep)
    matrix = similarity_matrix(a, b, (made.seconds, other.seconds))
    mine = _own(own, first, last, keep)
    melodies = None
    if by_notes is not None:
        both = (heard(wav, sample_rate), heard(clip.wav, clip.sample_rate))
        roll = piano_roll(*both, by_notes, made.start_s, made.seconds)
        melodies = keep(shaded_png(roll), ".png")
    return Shown(made, other, mine, keep(shaded_png(matrix), ".png"), "", melodies)


def _own(clip: Sound | str, first_s: float, last_s: float, keep: Keep) -> Picture | None:
    if isinstance(clip, str):
        return None
    return _picture(clip.wav, clip.sample_rate, first_s, last_s, clip.sample_rate / 2, keep)[0]


def _picture(
    wav: Tensor, sample_rate: int, first_s: float, last_s: float, highest_hz: float, keep: Keep
) -> tuple[Picture, np.ndarray]:
    """The excerpt between two times, and its spectrogram in dB."""
    start = min(max(round(first_s * sample_rate), 0), wav.shape[-1] - 1)
    stop = max(min(round(last_s * sample_rate), wav.shape[-1]), start + 1)
    excerpt = wav[:, start:stop].detach().float().cpu()
    middle = mono(excerpt[None], sample_rate)
    played = excerpt if len(excerpt) <= 2 else middle
    db = spectrogram_db(middle[0].numpy(), sample_rate, min(highest_hz, HIGHEST_HZ))
    picture = Picture(
        keep(flac(played.T.numpy(), sample_rate), ".flac"),
        keep(shaded_png(1 + db / FLOOR_DB), ".png"),
        start / sample_rate,
        (stop - start) / sample_rate,
    )
    return picture, db


def window(match: Match, seconds: float, other: float) -> tuple[float, float]:
    """Start and end of the excerpt of two aligned sounds, in seconds of the first: all of both if
    that is short, else the surroundings of the match.

    >>> window(Match(1.0, 0, 4.0, 1.0, 2.0), seconds=10.0, other=5.0)
    (0.0, 10.0)
    >>> window(Match(1.0, 0, 400.0, 1.0, 2.0), seconds=1000.0, other=5.0)
    (395.0, 407.0)
    """
    start, length = match.start_s or 0.0, match.length_s or 0.0
    lag = start - (match.match_start_s or 0.0)
    first, last = min(0.0, lag), max(seconds, lag + other)
    if last - first <= LONGEST_S:
        return first, last
    near = max(first, start - CONTEXT_S)
    return near, min(last, start + length + CONTEXT_S, near + LONGEST_S)


# ------------------------------------------------------------------------------ similarity matrix


def similarity_matrix(
    a: np.ndarray, b: np.ndarray, seconds: tuple[float, float], side: int = SIDE
) -> np.ndarray:
    """Cosine of every moment of one sound with every moment of another, [moments, moments].

        S_ij = mean_{|d| <= 2} <a_{i + d}, b_{j + d}> / (|a_{i + d}| |b_{j + d}|)

    over log spectra minus the mean of both sounds, so that what they always have in common does not
    count. A copy is a bright diagonal, a loop gives several; silence matches nothing.

    Args:
        a, b: spectrograms in dB below the loudest point, [rows, columns].
        seconds: length of each.
        side: moments of the longer one; moments of both last equally long.

    Source: Foote, Visualizing music and audio using self-similarity, 1999; the mean along the
    diagonal is that of Mueller and Kurth, 2006.

    >>> ramp = np.array([[0.0, -60.0], [-60.0, 0.0]])
    >>> similarity_matrix(ramp, ramp, (1.0, 1.0), side=2).round(2).tolist()
    [[1.0, -1.0], [-1.0, 1.0]]
    """
    counts = [max(round(side * length / max(seconds)), 1) for length in seconds]
    x, y = (_moments(s, count) for s, count in zip((a, b), counts, strict=True))
    mean = np.concatenate([part[part.max(1) > 0] for part in (x, y)]).mean(0)
    x, y = (_unit(np.where(part.max(1, keepdims=True) > 0, part - mean, 0.0)) for part in (x, y))
    cosines = x @ y.T
    total, terms = np.zeros_like(cosines), np.zeros_like(cosines)
    for shift in range(-AROUND, AROUND + 1):
        here, there = _overlap(cosines.shape, shift), _overlap(cosines.shape, -shift)
        total[here] += cosines[there]
        terms[here] += 1
    return np.asarray(total / terms)


def _moments(spectrogram: np.ndarray, count: int) -> np.ndarray:
    """The mean levels above the floor in `count` segments of time, [count, rows]."""
    levels = np.clip(COMPARED_DB + spectrogram, 0.0, None).T
    count = min(count, len(levels))
    return np.stack([part.mean(0) for part in np.array_split(levels, count)])


def _unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9))


def _overlap(shape: tuple[int, ...], shift: int) -> tuple[slice, ...]:
    """The part of a matrix that overlaps its copy shifted along the diagonal."""
    return tuple(slice(max(shift, 0), size + min(shift, 0)) for size in shape)
