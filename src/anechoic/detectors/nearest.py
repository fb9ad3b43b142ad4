"""Finds the nearest training clip by the cosine of embeddings, of whole clips or of stretches.

`locate` searches a sound for the rows of an index. The detectors `TopCosine`, `NearestRatio`,
`NearestStretch` and `Segments` score the result. All embed, compare and refine stretches in the
same way.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from anechoic import audio
from anechoic.audio import is_silent
from anechoic.detectors.protocol import NOTHING
from anechoic.detectors.sound import best_of_voices
from anechoic.errors import BadSetting
from anechoic.types import Embedder, Match, require_whole

if TYPE_CHECKING:
    from anechoic.index import TrainingIndex

BATCH = 64  # stretches embedded at once
GRID = 8  # starts of stretches per length, for an index of whole clips
LENGTHS = 8  # at most, lengths of stretches for an index of clips of many lengths
WHOLE = 0.9  # the least share of a row's length that a stretch after a silence has
BEAM = 8  # stretches, or pairs of windows, whose start is refined
HALVINGS = 4  # `locate` finds a start to 1/64 of a window: a quarter of it, halved four times
SEGMENT_HALVINGS = 5  # `Segments` aligns to 1/32 of its step, which is half a hop
AUDIBLE = 1e-4  # windows 40 dB below the loudest of their clip are not searched
EXTENDS = 0.9  # a match continues while cosines are at least this share of its best pair's


class _Span(NamedTuple):
    """A stretch of a sound, in samples."""

    start: int
    length: int


class _Pair(NamedTuple):
    """A stretch of a sound paired with a row of the index."""

    score: float
    span: _Span
    row: int


# ------------------------------------------------------------------------------ the search


def _embed(wavs: Tensor, sample_rate: int, index: TrainingIndex, embedder: Embedder) -> Tensor:
    with torch.no_grad():
        return index.project(embedder(wavs, sample_rate))


def _pairs(
    wav: Tensor,
    sample_rate: int,
    spans: Sequence[_Span],
    index: TrainingIndex,
    embedder: Embedder,
    k: int,
) -> list[_Pair]:
    """The k nearest rows of each span of a sound [c, t], in order; all spans have one length."""
    found = []
    for batch in (spans[i : i + BATCH] for i in range(0, len(spans), BATCH)):
        pieces = torch.stack([wav[:, start : start + length] for start, length in batch])
        near = index.search(_embed(pieces, sample_rate, index, embedder), k)
        for span, scores, rows in zip(batch, near.scores.tolist(), near.rows.tolist(), strict=True):
            pairs = zip(scores, rows, strict=True)
            found += [_Pair(min(score, 1.0), span, row) for score, row in pairs]
    return found


def _refine(
    pairs: list[_Pair],
    first: Callable[[int], int],
    halvings: int,
    end: int,
    best: Callable[[list[_Pair]], Iterable[_Span]],
    search: Callable[[list[_Span]], list[_Pair]],
) -> list[_Pair]:
    """Move the best stretches earlier and later by ever smaller shifts, and search these as well.

    Args:
        pairs: pairs of the first stretches.
        first: the first shift for the length of a stretch, in samples; it is halved each time.
        halvings: number of shifts.
        end: end of the sound, in samples.
        best: the stretches to move.
        search: the pairs of further stretches.
    """
    for halving in range(halvings):
        moved = {
            _Span(moved, length)
            for start, length in best(pairs)
            for shift in [first(length) >> halving]
            for moved in (start - shift, start + shift)
            if 0 <= moved <= end - length
        }
        pairs = pairs + search(sorted(moved - {pair.span for pair in pairs}))
    return pairs


def locate(
    wav: Tensor, sample_rate: int, index: TrainingIndex, embedder: Embedder, k: int = 1
) -> list[Match]:
    """Find the training clips that any stretch of a recording comes nearest to.

    The recording is cut into stretches as long as the index's rows, so that a training clip is
    found in a longer recording; then the starts of the most similar stretches are refined by shifts
    that are halved from an eighth of a stretch down. Stretches that begin after silence are
    searched too, up to the end of the recording. A row is compared as a whole: to find a fragment
    of a long clip, index windows of the clips.

    Args:
        wav: sound [c, t]; its mix is compared, as the index's clips are, and each channel that
            differs from it.
        sample_rate: in Hz.
        index: the index to search. If it holds whole clips of many lengths, stretches of eight of
            these lengths are searched.
        embedder: the one that built the index.
        k: number of rows to find.

    Returns:
        min(k, n) matches of different rows of the index, nearest first, with all fields of `Match`.

    Raises:
        IndexMismatch: another embedder built the index.
        BadAudio: not usable sound.
        BadSetting: k below 1, or the index does not know the lengths of its clips.
    """
    index.check_embedder(embedder)
    audio.require_sound(wav, "the recording")
    (voices,) = audio.voices(wav[None], sample_rate, "the recording")
    audio.require_sound(voices[0][None], "the recording without its constant offset")
    found: dict[int | None, Match] = {}
    for voice in voices:
        for match in _locate(voice[None], sample_rate, index, embedder, k):
            if match.row not in found or match.score > found[match.row].score:
                found[match.row] = match
    return sorted(found.values(), key=lambda match: -match.score)[:k]


def _locate(
    wav: Tensor, sample_rate: int, index: TrainingIndex, embedder: Embedder, k: int
) -> list[Match]:
    """What `locate` finds in one channel [1, t]."""

    def search(spans: Iterable[_Span]) -> list[_Pair]:
        sounding = (s for s in spans if not audio.is_silent(wav[:, s.start : s.start + s.length]))
        alike = groupby(sorted(sounding, key=lambda s: s[::-1]), lambda s: s.length)
        return [
            pair
            for _, group in alike
            for pair in _pairs(wav, sample_rate, list(group), index, embedder, k)
        ]

    def best(pairs: list[_Pair]) -> list[_Span]:
        ranked = sorted(pairs, key=lambda pair: -pair.score)
        return list(dict.fromkeys(pair.span for pair in ranked))[:BEAM]

    spans, end = set(_first_spans(wav[0], sample_rate, index, embedder)), wav.shape[-1]
    pairs = _refine(search(spans), lambda length: length // 8, HALVINGS, end, best, search)
    rows: dict[int, _Pair] = {}
    for pair in sorted(pairs, key=lambda pair: (-pair.score, pair.span.start)):
        rows.setdefault(pair.row, pair)
    matches = []
    for row, (score, (start, length), _) in list(rows.items())[:k]:
        start_s, length_s = start / sample_rate, length / sample_rate
        resolution_s = length_s / 4 / 2**HALVINGS
        match_start_s = index.clips[row].start_s
        matches.append(Match(score, row, start_s, match_start_s, length_s, resolution_s))
    return matches


def _first_spans(
    wav: Tensor, sample_rate: int, index: TrainingIndex, embedder: Embedder
) -> Iterator[_Span]:
    """The stretches of a recording [t] that are searched first.

    For windows, stretches are a quarter of a window apart: windows overlap, so one of them lies
    within an eighth of a window of some stretch. Whole clips can be anywhere, so their stretches
    are closer; they also begin where sound begins after silence, and end where it ends.
    """
    end = len(wav)
    if index.window_s is not None:
        length = round(index.window_s * sample_rate)
        for start in audio.window_starts(end, length, max(length // 4, 1)):
            yield _Span(start, min(length, end - start))
        return
    lengths = [round(seconds * sample_rate) for seconds in _row_lengths(index, embedder)]
    onsets, offset = audio.onsets(wav, sample_rate)
    for length in lengths:
        for start in audio.window_starts(end, length, max(length // GRID, 1)):
            yield _Span(start, min(length, end - start))
    for onset in onsets:
        for length in (*lengths, min(max(lengths), offset - onset)):
            if end - onset >= WHOLE * length and length >= WHOLE * min(lengths):
                yield _Span(onset, min(length, end - onset))


def _row_lengths(index: TrainingIndex, embedder: Embedder) -> list[float]:
    """The lengths of an index's whole clips in seconds; quantiles if there are many."""
    rows = torch.tensor([clip.seconds for clip in index.clips], dtype=torch.float64)
    if rows.min() <= 0:
        raise BadSetting(
            f"index '{index.name}' does not know how long its clips are; build it from sound"
        )
    if embedder.seconds is not None:
        rows = rows.clamp(max=embedder.seconds)
    distinct = rows.unique()
    if len(distinct) > LENGTHS:
        distinct = rows.sort().values[torch.linspace(0, len(rows) - 1, LENGTHS).long()].unique()
    return [float(seconds) for seconds in distinct]


# --------------------------------------------------------------------------- whole clips


@dataclass(frozen=True, eq=False)
class _WholeClipDetector(ABC):
    """Scores each clip, unless it is silent, by the nearest rows of an index of whole clips."""

    index: TrainingIndex  # whole clips, not windows
    embedder: Embedder

    def __post_init__(self) -> None:
        self.index.check_embedder(self.embedder)
        if self.index.window_s is not None:
            raise BadSetting(
                f"expected an index of whole clips, got one of windows of {self.index.window_s:g} "
                "s; search by segments, or build an index without '--window'"
            )

    def __call__(self, wav: Tensor, sample_rate: int) -> list[Match]:
        """One match for each clip [b, c, t]; the row is that of the index.

        Raises:
            BadAudio: not usable sound.
            BadSetting: clips longer than the embedder allows.
        """
        return best_of_voices(
            wav, sample_rate, lambda clips: (self._find(clip, sample_rate) for clip in clips)
        )

    def _find(self, clip: Tensor, sample_rate: int) -> Match:
        fix = "search by segments, over an index of windows"
        require_whole(self.embedder, len(clip) / sample_rate, "the sound", "compared", fix)
        if is_silent(clip):
            return NOTHING
        whole = [_Span(0, len(clip))]
        near = _pairs(clip[None], sample_rate, whole, self.index, self.embedder, self._neighbours)
        return Match(self._score(near), near[0].row) if near else NOTHING

    @property
    def _neighbours(self) -> int:
        """How many of the nearest rows the score needs."""
        return 1

    @abstractmethod
    def _score(self, near: Sequence[_Pair]) -> float:
        """The score of a clip from its nearest rows, nearest first."""


@dataclass(frozen=True, eq=False)
class TopCosine(_WholeClipDetector):
    """Cosine similarity of a clip to its nearest training clip.

        s = max_j <E(clip), e_j>

    Silent clips are not compared.

    Raises:
        IndexMismatch: another embedder built the index.
        BadSetting: an index of windows.

    Source: Somepalli et al., 2023 (arXiv:2212.03860).
    """

    @property
    def name(self) -> str:
        return f"cosine ({self.embedder.name})"

    def _score(self, near: Sequence[_Pair]) -> float:
        return near[0].score


@dataclass(frozen=True, eq=False)
class NearestRatio(_WholeClipDetector):
    """Distance to the nearest training clip, relative to the clips around it.

        s = 1 - d_1 / (alpha * mean(d_1 ... d_k)),    d_j = ||E(clip) - e_j||

    A clip in a dense region of the training set is near to many; a copy is much nearer to one.
    The paper calls a clip extracted if it scores above 0.

    Raises:
        IndexMismatch: another embedder built the index.
        BadSetting: k below 2, an alpha that is not positive, or an index of windows or with fewer
            rows than k.

    Source: Carlini et al., 2023 (arXiv:2301.13188), alpha = 0.5 and k = 50.
    """

    k: int = 50
    alpha: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.k <= len(self.index) or not self.alpha > 0:
            raise BadSetting(
                f"expected k from 2 to the {len(self.index)} rows of the index and alpha above 0, "
                f"got k = {self.k} and alpha = {self.alpha:g}; change them"
            )

    @property
    def name(self) -> str:
        return f"nearest ratio ({self.embedder.name}, k={self.k}, alpha={self.alpha:g})"

    @property
    def _neighbours(self) -> int:
        return self.k

    def _score(self, near: Sequence[_Pair]) -> float:
        scores = torch.tensor([pair.score for pair in near], dtype=torch.float64)
        distances = (2 - 2 * scores).clamp_min(0.0).sqrt()
        around = self.alpha * distances.mean()
        # all k are the clip itself, up to rounding: a copy of a clip with that many duplicates
        return 1.0 - (distances[0] / around).item() if around > 1e-6 else 1.0


# ----------------------------------------------------------------------------- stretches


@dataclass(frozen=True, eq=False)
class _StretchDetector(ABC):
    """Searches stretches of each clip; its rows are numbers of training clips, not index rows."""

    index: TrainingIndex
    embedder: Embedder

    def __post_init__(self) -> None:
        self.index.check_embedder(self.embedder)

    @cached_property
    def _numbers(self) -> list[int]:
        return clip_numbers(self.index)

    def __call__(self, wav: Tensor, sample_rate: int) -> list[Match]:
        """One match for each clip [b, c, t]; its row is the number of the training clip.

        Raises:
            BadAudio: not usable sound.
        """
        return best_of_voices(
            wav, sample_rate, lambda clips: (self._find(clip, sample_rate) for clip in clips)
        )

    @abstractmethod
    def _find(self, clip: Tensor, sample_rate: int) -> Match:
        """The match of one clip [t]."""


@dataclass(frozen=True, eq=False)
class NearestStretch(_StretchDetector):
    """Cosine of the stretch of a sound that comes nearest to a training clip (`locate`).

        s = max_{start, j} <E(clip[start : start + length]), e_j>

    The length is that of the index's rows, so a training clip is found inside longer sound. The
    maximum grows by chance with the number of stretches, so calibrate on sound of the same length.

    Raises:
        IndexMismatch: another embedder built the index.

    Source: Somepalli et al., 2023 (arXiv:2212.03860).
    """

    @property
    def name(self) -> str:
        window = self.index.window_s
        rows = "whole clips" if window is None else f"windows of {window:g} s"
        return f"nearest stretch ({self.embedder.name}, {rows})"

    def _find(self, clip: Tensor, sample_rate: int) -> Match:
        if is_silent(clip):
            return NOTHING
        (match,) = locate(clip[None], sample_rate, self.index, self.embedder)
        return replace(match, row=match.clip_in(self._numbers))


@dataclass(frozen=True, eq=False)
class Segments(_StretchDetector):
    """Cosine of the best pair of windows, one of the clip and one of a training clip, aligned.

        s = max_{start, j} <E(clip[start : start + window]), e_j>

    This finds fragments inside a longer clip, and loops that start elsewhere. The clip is cut
    into windows half a hop of the index apart. The starts of the best pairs are then refined by
    shifts that are halved down to 1/64 of a hop, so that the two starts of a match correspond. The
    match is the run of windows at the same alignment whose cosines are at least 0.9 of the best
    pair's; either end is accurate to a hop.

    A clip shorter than a window is not compared. Windows 40 dB below the clip's loudest are left
    out: their embeddings are those of noise.

    Raises:
        IndexMismatch: another embedder built the index.
        BadSetting: an index of whole clips.

    Source: parts of one compared with parts of the other, Somepalli et al., 2023
    (arXiv:2212.03860), split-product; the alignment is our own.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.index.window_s is None or self.index.hop_s is None:
            raise BadSetting(
                "expected an index of windows for segments, got one of whole clips; build it with "
                "'--window' and '--hop'"
            )

    @property
    def name(self) -> str:
        window, hop = self.index.window_s, self.index.hop_s
        return f"segments ({self.embedder.name}, window {window:g} s, hop {hop:g} s)"

    def _find(self, clip: Tensor, sample_rate: int) -> Match:
        window_s, hop_s = self.index.window_s or 0.0, self.index.hop_s or 0.0  # neither is None
        length = round(window_s * sample_rate)
        if len(clip) < length or is_silent(clip):
            return NOTHING
        step = max(round(hop_s * sample_rate / 2), 1)
        starts = audio.window_starts(len(clip), length, step)
        loudest = clip.square().unfold(0, length, max(length // 4, 1)).sum(1).max()

        def search(spans: list[_Span]) -> list[_Pair]:
            energy = clip.unfold(0, length, 1)[[span.start for span in spans]].square().sum(1)
            audible = [s for s, e in zip(spans, energy, strict=True) if e > AUDIBLE * loudest]
            return _pairs(clip[None], sample_rate, audible, self.index, self.embedder, BEAM)

        def best(pairs: list[_Pair]) -> list[_Span]:
            return [pair.span for pair in _ranked(pairs)[:BEAM]]

        spans = [_Span(start, length) for start in starts]
        first, end = step // 2, len(clip)
        pairs = _refine(search(spans), lambda _: first, SEGMENT_HALVINGS, end, best, search)
        return self._extend(clip, sample_rate, _ranked(pairs)[0])

    def _extend(self, clip: Tensor, sample_rate: int, best: _Pair) -> Match:
        """Extend the best pair, at its alignment, over the neighbouring windows that also match."""
        number, rows, length = self._numbers[best.row], self.index.clips, best.span.length
        lag = best.span.start - round(rows[best.row].start_s * sample_rate)
        run = [best.row]
        for step in (-1, 1):
            row = best.row + step
            while 0 <= row < len(rows) and self._numbers[row] == number:
                start = round(rows[row].start_s * sample_rate) + lag
                if not 0 <= start <= len(clip) - length:
                    break
                window = clip[None, None, start : start + length]
                emb = _embed(window, sample_rate, self.index, self.embedder)
                if (emb @ self.index.vectors(torch.tensor([row])).T).item() < EXTENDS * best.score:
                    break
                run.append(row)
                row += step
        first, final = rows[min(run)], rows[max(run)]
        return Match(
            score=best.score,
            row=number,
            start_s=first.start_s + lag / sample_rate,
            match_start_s=first.start_s,
            length_s=final.start_s + final.seconds - first.start_s,
        )


def _ranked(pairs: Iterable[_Pair]) -> list[_Pair]:
    """The best first; among equals, the earlier start, then the earlier row."""
    return sorted(pairs, key=lambda pair: (-pair.score, pair.span, pair.row))


def clip_numbers(index: TrainingIndex) -> list[int]:
    """The number of each row's clip in the order of the training set; windows of one clip share
    it."""
    seen: dict[str, int] = {}
    return [seen.setdefault(row.id, len(seen)) for row in index.clips]
