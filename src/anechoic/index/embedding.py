"""Embeds sounds: they are read ahead in threads, and embedded in batches of equal shape."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from anechoic import audio
from anechoic.errors import BadAudio, BadSetting, IndexMismatch
from anechoic.index.clips import Clip
from anechoic.index.sources.protocol import Item, Source, Unit
from anechoic.processes import threads_each
from anechoic.types import PADDING, Embedder, require_embedder, require_whole

BATCH = 32  # rows embedded at once
WAITING = 4 * BATCH  # rows that wait for others of their shape
AHEAD = 4 * BATCH  # clips that are read ahead, at most
AHEAD_BYTES = 256 * 2**20  # bytes of their sound, at most
# default embedders by the seconds that they embed, shortest first
SUITABLE = {
    "magmel": 1.024,
    **{f"magmel:seconds={seconds}": seconds for seconds in (2.0, 5.0, 10.0)},
}
LOOKED_AT = 256  # the default embedder suits the lengths of this many clips


LONGEST_S = 86_400  # of a window: a day


@dataclass(frozen=True)
class Windows:
    """How clips become rows: whole, or cut into windows.

    Raises:
        BadSetting: a hop without a window, or a length out of range.
    """

    window_s: float | None = None  # None: whole clips
    hop_s: float | None = None  # None: as long as the window

    def __post_init__(self) -> None:
        for what, seconds in (("window", self.window_s), ("hop", self.hop_s)):
            if seconds is not None and not 1e-3 <= seconds <= LONGEST_S:
                raise BadSetting(
                    f"expected a {what} of 0.001 to {LONGEST_S} seconds, got {seconds:g}"
                )
        if self.window_s is None and self.hop_s is not None:
            raise BadSetting(
                f"a hop of {self.hop_s:g} s needs a window; give both, or neither for whole clips"
            )
        if self.window_s is not None and self.hop_s is None:
            object.__setattr__(self, "hop_s", self.window_s)


def suitable(source: Source, windows: Windows) -> tuple[str, Windows]:
    """The default embedder of an index, and its windows, by the lengths of the first 256 clips.

    Clips of up to 10 s are embedded whole; longer ones as windows of 10 s that overlap by half.
    """
    longest = windows.window_s or max((_seconds(item) for item in _first(source)), default=0.0)
    fitting = [name for name, seconds in SUITABLE.items() if longest <= seconds * PADDING]
    name = fitting[0] if fitting else list(SUITABLE)[-1]
    if not fitting and windows.window_s is None:
        windows = Windows(SUITABLE[name], SUITABLE[name] / 2)
    return name, windows


def _first(source: Source) -> Iterator[Item]:
    units = (unit for unit in source.units() if isinstance(unit, Unit))
    return islice((item for unit in units for item in unit.items()), LOOKED_AT)


def _seconds(item: Item) -> float:
    try:
        wav, sample_rate = item.read()
    except BadAudio:  # the build reports it
        return 0.0
    return wav.shape[-1] / sample_rate


class _Piece(NamedTuple):
    """A future row: its clip, its sound [c, t] and sample rate."""

    clip: Clip
    wav: Tensor
    sample_rate: int


def embed(
    items: Iterable[Item],
    embedder: Embedder,
    windows: Windows,
    report: Callable[[Item], None] = lambda item: None,
    device: str = "cpu",
) -> tuple[Tensor, list[Clip]]:
    """Embed clips, in order.

    A silent window of a clip gets no row: it has no embedding, and cannot be copied. A clip that
    is silent throughout is refused.

    The batches depend on the clips alone, so the same clips give the same bits.

    Args:
        items: the clips; they are read in threads while others are embedded.
        embedder: embeds them.
        windows: how clips become rows.
        report: called with each clip once it has been read.
        device: the device of the sound, which the embedder follows.

    Returns:
        Embeddings [n, d], float32, and the clip of each row.

    Raises:
        BadAudio: a clip that is not usable sound.
        BadSetting: two clips with one id, or sound that is longer than the embedder embeds.
        IndexMismatch: an embedder that does not give [b, dim].
    """
    require_embedder(embedder)
    clips: list[Clip] = []
    found: dict[int, Tensor] = {}
    waiting: dict[tuple[torch.Size, int], list[tuple[int, Tensor]]] = {}

    def flush(shape: tuple[torch.Size, int]) -> None:
        rows, wavs = zip(*waiting.pop(shape), strict=True)
        wav = torch.stack(wavs).to(device)
        found.update(zip(rows, _embed(wav, shape[1], embedder), strict=True))

    for pieces in _read_ahead(_unique(items), embedder, windows, report):
        for piece in pieces:
            shape = (piece.wav.shape, piece.sample_rate)
            waiting.setdefault(shape, []).append((len(clips), piece.wav))
            clips.append(piece.clip)
            if len(waiting[shape]) == BATCH:
                flush(shape)
        while sum(map(len, waiting.values())) > WAITING:
            flush(next(iter(waiting)))  # the one that has waited longest
    for shape in list(waiting):
        flush(shape)
    rows = [found[row] for row in range(len(clips))]
    return torch.stack(rows) if rows else torch.zeros(0, embedder.dim), clips


def _unique(items: Iterable[Item]) -> Iterator[Item]:
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise BadSetting(f"two clips have the id '{item.id}'; give each its own")
        seen.add(item.id)
        yield item


def _read_ahead(
    items: Iterator[Item], embedder: Embedder, windows: Windows, report: Callable[[Item], None]
) -> Iterator[list[_Piece]]:
    """The pieces of each clip, in order."""
    pending: deque[tuple[Item, Future[list[_Piece]]]] = deque()
    allowed = 2.0  # clips read ahead, until their size is known
    with ThreadPoolExecutor(threads_each()) as threads:
        try:
            while True:
                while len(pending) < allowed and (item := next(items, None)) is not None:
                    pending.append((item, threads.submit(_pieces, item, embedder, windows)))
                if not pending:
                    return
                item, future = pending.popleft()
                pieces = future.result()
                report(item)
                size = sum(4 * piece.wav.numel() for piece in pieces)
                allowed = max(2.0, min(AHEAD, AHEAD_BYTES / max(1, size)))
                yield pieces
        finally:
            threads.shutdown(wait=False, cancel_futures=True)


def _pieces(item: Item, embedder: Embedder, windows: Windows) -> list[_Piece]:
    wav, sample_rate = item.read()
    name = f"'{item.path or item.id}'"
    audio.require_sound(wav, name)
    mixed = audio.mono(wav[None], sample_rate, name)
    wav = wav if getattr(embedder, "stereo", False) else mixed
    audio.require_sound(mixed, f"{name} without its constant offset")
    seconds = wav.shape[-1] / sample_rate
    fix = "index windows of it ('--window {longest:g} --hop {half:g}')"
    if embedder.name.startswith("magmel"):
        fix += f", or embed it whole ('--embedder magmel:seconds={math.ceil(seconds)}')"
    require_whole(embedder, min(seconds, windows.window_s or seconds), name, "indexed", fix)
    cut = [audio.Window(0.0, wav)]
    if windows.window_s is not None:
        hop_s = windows.hop_s or windows.window_s
        cut = audio.windows(wav, sample_rate, windows.window_s, hop_s)
    info = dict(item.info)
    return [
        _Piece(
            Clip(item.id, item.caption, item.path, start_s, part.shape[-1] / sample_rate, info),
            part,
            sample_rate,
        )
        for start_s, part in cut
        if not audio.is_silent(part)
    ]


@torch.no_grad()
def _embed(wav: Tensor, sample_rate: int, embedder: Embedder) -> Tensor:
    emb = embedder(wav, sample_rate)
    if emb.shape != (len(wav), embedder.dim):
        raise IndexMismatch(
            f"expected embeddings [{len(wav)}, {embedder.dim}] from embedder '{embedder.name}', "
            f"got {list(emb.shape)}; fix the embedder"
        )
    return emb.float().cpu()
