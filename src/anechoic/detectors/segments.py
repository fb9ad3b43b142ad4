"""Segments that sound alike, found wherever they stand in the clip and in the training clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from anechoic.detectors.protocol import NOTHING, Finding
from anechoic.detectors.sound import is_silent, mono
from anechoic.errors import BadSetting
from anechoic.types import Embedder, Neighbours

BATCH = 64  # windows embedded at once
CANDIDATES = 8  # pairs of windows whose alignment is refined
HALVINGS = 5  # ... in steps down to 1/32 of the hop
AUDIBLE = 1e-4  # a window 40 dB under the loudest of its clip is not searched for
KEPT = 0.9  # a match goes on while windows are so near, as a share of its best pair


class Window(Protocol):
    """What a row of an index of windows stands for: an `anechoic.index.Clip` tells it."""

    @property
    def id(self) -> str:
        """The clip's."""
        ...

    @property
    def start_s(self) -> float:
        """Of the window, in its clip."""
        ...

    @property
    def seconds(self) -> float:
        """Of the window."""
        ...


class WindowStore(Protocol):
    """Windows of training clips: what `anechoic index build --window --hop` makes."""

    @property
    def clips(self) -> Sequence[Window]:
        """What each row stands for; the rows of a clip stand together, from start to end."""
        ...

    @property
    def window_s(self) -> float | None:
        """None: the rows are whole clips."""
        ...

    @property
    def hop_s(self) -> float | None: ...

    def check_embedder(self, embedder: Embedder) -> None: ...

    def project(self, emb: Tensor) -> Tensor: ...

    def search(self, query: Tensor, k: int = 1) -> Neighbours: ...

    def vectors(self, rows: Tensor) -> Tensor: ...


class _Pair(NamedTuple):
    """A window of the clip beside a row of the index."""

    score: float
    start: int  # of the window in the clip, in samples
    row: int


@dataclass(frozen=True, eq=False)
class Segments:
    """Cosine of the best pair of windows, one of the clip and one of a training clip, aligned.

        s = max_{start, j} <E(clip[start : start + window]), e_j>

    So a fragment inside a longer clip is found, and a loop that starts elsewhere. The clip is cut
    into windows half a hop of the index apart; the starts of the best pairs are then refined by
    shifts that are halved down to 1/64 of a hop, so that the two starts of a finding fit together.
    Its length is that of the run of windows, at the same alignment, whose cosines are
    at least 0.9 of the best pair's: to a hop at either end.

    A clip shorter than a window is not compared. Windows 40 dB under the clip's loudest are left
    out: their embeddings are those of hiss.

    Raises:
        IndexMismatch: another embedder built the index.
        BadSetting: an index of whole clips.

    Source: parts of one compared with parts of the other, Somepalli et al., 2023
    (arXiv:2212.03860), split-product; the alignment is our own.
    """

    index: WindowStore
    embedder: Embedder

    def __post_init__(self) -> None:
        self.index.check_embedder(self.embedder)
        if self.index.window_s is None or self.index.hop_s is None:
            raise BadSetting(
                "segments are searched in an index of windows, and this one holds whole clips; "
                "build it with '--window' and '--hop'"
            )

    @property
    def name(self) -> str:
        window, hop = self.index.window_s, self.index.hop_s
        return f"segments ({self.embedder.name}, window {window:g} s, hop {hop:g} s)"

    @cached_property
    def _numbers(self) -> list[int]:
        """The number of each row's clip, in the order of the training set."""
        seen: dict[str, int] = {}
        return [seen.setdefault(window.id, len(seen)) for window in self.index.clips]

    def __call__(self, wav: Tensor, sample_rate: int) -> list[Finding]:
        """One finding a clip [b, c, t]; its row is the number of the training clip.

        Raises:
            BadAudio: not usable sound.
        """
        return [self._find(clip, sample_rate) for clip in mono(wav, sample_rate)]

    def _find(self, clip: Tensor, sample_rate: int) -> Finding:
        window_s, hop_s = self.index.window_s or 0.0, self.index.hop_s or 0.0  # none is None
        length = round(window_s * sample_rate)
        if len(clip) < length or is_silent(clip):
            return NOTHING
        step = max(round(hop_s * sample_rate / 2), 1)
        last = len(clip) - length
        found = self._nearest(clip, sample_rate, sorted({*range(0, last, step), last}), length)
        for halving in range(1, HALVINGS + 1):
            shift = step >> halving
            if shift == 0:
                break
            tried = {start for _, start, _ in found}
            beam = dict.fromkeys(start for _, start, _ in found[:CANDIDATES])
            starts = {s + d for s in beam for d in (-shift, shift) if 0 <= s + d <= last} - tried
            found = _ranked(found + self._nearest(clip, sample_rate, sorted(starts), length))
        return self._extend(clip, sample_rate, found[0], length)

    def _nearest(
        self, clip: Tensor, sample_rate: int, starts: Sequence[int], length: int
    ) -> list[_Pair]:
        """Windows of the clip beside the rows that are nearest to them, the best first."""
        windows = clip.unfold(0, length, 1)[list(starts)]
        energy = windows.square().sum(1)
        loudest = clip.square().unfold(0, length, max(length // 4, 1)).sum(1).max()
        audible = [i for i in range(len(starts)) if energy[i] > AUDIBLE * loudest]
        found = []
        for batch in (audible[i : i + BATCH] for i in range(0, len(audible), BATCH)):
            near = self.index.search(self._embed(windows[batch], sample_rate), CANDIDATES)
            for i, scores, rows in zip(
                batch, near.scores.tolist(), near.rows.tolist(), strict=True
            ):
                pairs = zip(scores, rows, strict=True)
                found += [_Pair(min(score, 1.0), starts[i], row) for score, row in pairs]
        return _ranked(found)

    def _embed(self, windows: Tensor, sample_rate: int) -> Tensor:
        with torch.no_grad():
            return self.index.project(self.embedder(windows[:, None], sample_rate))

    def _extend(self, clip: Tensor, sample_rate: int, best: _Pair, length: int) -> Finding:
        """The run of windows around the best pair, at its alignment, that are alike as well."""
        number, rows = self._numbers[best.row], self.index.clips
        lag = best.start - round(rows[best.row].start_s * sample_rate)
        run = [best.row]
        for step in (-1, 1):
            row = best.row + step
            while 0 <= row < len(rows) and self._numbers[row] == number:
                start = round(rows[row].start_s * sample_rate) + lag
                if not 0 <= start <= len(clip) - length:
                    break
                emb = self._embed(clip[None, start : start + length], sample_rate)
                if (emb @ self.index.vectors(torch.tensor([row])).T).item() < KEPT * best.score:
                    break
                run.append(row)
                row += step
        first, final = rows[min(run)], rows[max(run)]
        return Finding(
            score=best.score,
            row=number,
            start_s=first.start_s + lag / sample_rate,
            match_start_s=first.start_s,
            length_s=final.start_s + final.seconds - first.start_s,
        )


def _ranked(pairs: Sequence[_Pair]) -> list[_Pair]:
    return sorted(pairs, key=lambda pair: (-pair.score, pair.start, pair.row))
