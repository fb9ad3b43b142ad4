"""Sounds to embeddings, in batches of equal shape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from itertools import groupby, islice

import torch
from torch import Tensor

from anechoic import audio
from anechoic.errors import BadSetting, IndexMismatch
from anechoic.index.clips import Clip, Sound
from anechoic.types import Embedder

BATCH = 32  # windows embedded at once
TOLERANCE = 1.02  # coders pad: a clip may be so much longer than an embedder hears

Progress = Callable[[int, int | None], None]  # clips read, clips in all if that is known


def embed(
    sounds: Iterable[Sound],
    embedder: Embedder,
    window_s: float | None,
    hop_s: float | None,
    progress: Progress | None,
) -> tuple[Tensor, list[Clip]]:
    """Embed whole clips, or windows of them.

    A silent window of a clip that sounds gets no row: silence is nobody's recording, and it
    has no embedding. A clip that is silent throughout is refused.

    Returns:
        Embeddings [n, d] as the embedder gives them, float32, and what each row stands for.

    Raises:
        BadAudio: a clip that is not usable sound.
        BadSetting: two clips of one id, a window and hop that do not fit, or sound that is
            longer than the embedder hears.
        IndexMismatch: no clips at all, or an embedder that does not give [b, dim].
    """
    if window_s is None and hop_s is not None:
        raise BadSetting(f"a hop of {hop_s:g} s needs a window; give both, or none: whole clips")
    clips: list[Clip] = []
    parts: list[Tensor] = []
    sounds = _heard(_counted(sounds, progress), embedder, window_s)
    pieces = _pieces(sounds, window_s, hop_s)
    for (_, sample_rate), alike in groupby(pieces, lambda piece: (piece[1].shape, piece[2])):
        while batch := list(islice(alike, BATCH)):
            clips += [clip for clip, _, _ in batch]
            parts.append(_embed(torch.stack([wav for _, wav, _ in batch]), sample_rate, embedder))
    if not parts:
        raise IndexMismatch("an index needs at least one clip, and there are none; add clips")
    return torch.cat(parts), clips


def _counted(sounds: Iterable[Sound], progress: Progress | None) -> Iterator[Sound]:
    total = len(sounds) if isinstance(sounds, Sized) else None
    for done, sound in enumerate(sounds, 1):
        yield sound
        if progress:
            progress(done, total)


def _heard(sounds: Iterable[Sound], embedder: Embedder, window_s: float | None) -> Iterator[Sound]:
    """Refuse to index sound that an embedder of a fixed length (`seconds`) would cut off."""
    heard = getattr(embedder, "seconds", None)
    for sound in sounds:
        seconds = sound.wav.shape[-1] / sound.sample_rate
        if heard is not None and min(seconds, window_s or seconds) > heard * TOLERANCE:
            raise BadSetting(
                f"'{sound.path or sound.id}' lasts {seconds:.2f} s, and '{embedder.name}' hears "
                f"{heard:g} s at a time; index windows ('--window {heard:g} --hop {heard / 2:g}')"
            )
        yield sound


def _pieces(
    sounds: Iterable[Sound], window_s: float | None, hop_s: float | None
) -> Iterator[tuple[Clip, Tensor, int]]:
    """Rows to be: what each stands for, its sound [c, t] and sample rate."""
    seen: set[str] = set()
    for sound in sounds:
        audio.require_sound(sound.wav, f"'{sound.path or sound.id}'")
        if sound.id in seen:
            raise BadSetting(f"two clips have the id '{sound.id}'; give each its own")
        seen.add(sound.id)
        windows = [audio.Window(0.0, sound.wav)]
        if window_s is not None:
            windows = audio.windows(sound.wav, sound.sample_rate, window_s, hop_s or window_s)
        for start_s, wav in windows:
            if not audio.is_silent(wav):
                seconds = wav.shape[-1] / sound.sample_rate
                about = (sound.id, sound.caption, sound.path, start_s, seconds, sound.info)
                yield Clip(*about), wav, sound.sample_rate


@torch.no_grad()
def _embed(wav: Tensor, sample_rate: int, embedder: Embedder) -> Tensor:
    emb = embedder(wav, sample_rate)
    if emb.shape != (len(wav), embedder.dim):
        raise IndexMismatch(
            f"embedder '{embedder.name}' gave {list(emb.shape)} for {len(wav)} sounds; expected "
            f"[{len(wav)}, {embedder.dim}]"
        )
    return emb.float().cpu()
