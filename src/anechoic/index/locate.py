"""Where in a recording, and in the training set, the nearest clips sound."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from anechoic import audio
from anechoic.errors import BadSetting
from anechoic.index.training import TrainingIndex
from anechoic.types import Embedder

BATCH = 64  # windows embedded at once
BEAM = 8  # windows whose start is refined
HALVINGS = 4  # a start is found to 1/64 of a window: a quarter of it, halved four times


@dataclass(frozen=True)
class Match:
    """A training clip, and the stretch of a recording that comes nearest to it."""

    row: int
    score: float  # cosine similarity, as the index compares
    start_s: float  # of that stretch, in the recording
    seconds: float  # of that stretch
    resolution_s: float  # the true start is looked for in steps of so much


class _Span(NamedTuple):
    """A stretch of a recording, in samples."""

    start: int
    length: int


def locate(
    wav: Tensor, sample_rate: int, index: TrainingIndex, embedder: Embedder, k: int = 1
) -> list[Match]:
    """Find the training clips that any stretch of a recording comes nearest to.

    The recording is cut into windows as long as the index's rows, a quarter of a window apart,
    so that a fragment of a longer recording is found too; then the starts of the most similar
    windows are refined by shifts that are halved from an eighth of a window down. A row is
    compared as a whole: to find a fragment of a long clip, index windows of the clips.

    Args:
        wav: sound [c, t].
        sample_rate: in Hz.
        index: what to search. Where it holds whole clips of different lengths, the windows
            have the median and the longest; so a copy of a whole clip is always compared whole.
        embedder: the one that built the index.
        k: how many rows to find.

    Returns:
        min(k, n) matches of different rows, nearest first.

    Raises:
        IndexMismatch: another embedder built the index.
        BadAudio: not usable sound.
        BadSetting: k below 1, or an index that does not know how long its clips are.
    """
    index.check_embedder(embedder)
    audio.require_sound(wav, "the recording")
    spans = {
        _Span(round(window.start_s * sample_rate), window.wav.shape[-1])
        for seconds in _window_lengths(index, embedder)
        for window in audio.windows(wav, sample_rate, seconds, seconds / 4)
    }
    found = _nearest(spans, wav, sample_rate, index, embedder, k)
    for halving in range(HALVINGS):
        ranked = sorted(found, key=lambda pair: -pair[0].score)
        beam = list(dict.fromkeys(span for _, span in ranked))[:BEAM]
        tried = {span for _, span in found}
        spans = set(_shifted(beam, eighths=2**halving, end=wav.shape[-1])) - tried
        found += _nearest(spans, wav, sample_rate, index, embedder, k)
    best: dict[int, Match] = {}
    for match, _ in sorted(found, key=lambda pair: (-pair[0].score, pair[0].start_s)):
        best.setdefault(match.row, match)
    return list(best.values())[:k]


def _window_lengths(index: TrainingIndex, embedder: Embedder) -> set[float]:
    """How long the windows of a recording are, in seconds."""
    if index.window_s is not None:
        return {index.window_s}
    rows = [clip.seconds for clip in index.clips]
    if min(rows) <= 0:
        raise BadSetting(
            f"index '{index.name}' does not know how long its clips are; build it from sound"
        )
    heard = getattr(embedder, "seconds", None) or max(rows)
    return {min(median(rows), heard), min(max(rows), heard)}


def _shifted(spans: Iterable[_Span], eighths: int, end: int) -> Iterator[_Span]:
    """Each span an eighth of its length (over `eighths`) earlier and later, where there is room."""
    for start, length in spans:
        shift = length // 8 // eighths
        for moved in (start - shift, start + shift):
            if 0 <= moved <= end - length:
                yield _Span(moved, length)


def _nearest(
    spans: Iterable[_Span],
    wav: Tensor,
    sample_rate: int,
    index: TrainingIndex,
    embedder: Embedder,
    k: int,
) -> list[tuple[Match, _Span]]:
    """The k nearest rows of each span that sounds."""
    found = []
    for length, alike in groupby(sorted(spans, key=lambda s: s[::-1]), lambda s: s.length):
        pieces = [(span, wav[:, span.start : span.start + length]) for span in alike]
        sounding = [(span, piece) for span, piece in pieces if not audio.is_silent(piece)]
        for batch in (sounding[i : i + BATCH] for i in range(0, len(sounding), BATCH)):
            with torch.no_grad():
                emb = embedder(torch.stack([piece for _, piece in batch]), sample_rate)
                near = index.search(index.project(emb), k)
            for i, (span, _) in enumerate(batch):
                start_s, seconds = span.start / sample_rate, length / sample_rate
                for row, score in zip(near.rows[i].tolist(), near.scores[i].tolist(), strict=True):
                    match = Match(row, min(score, 1.0), start_s, seconds, seconds / 4 / 2**HALVINGS)
                    found.append((match, span))
    return found
