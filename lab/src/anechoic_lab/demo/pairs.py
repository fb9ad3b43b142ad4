"""Pairs of copies and originals from the demo's corpus, on which detectors are measured.

All of it is real sound that ships with the package. It is split by *source*: the Freesound
contributor of a recording (or its kind, if no address is known) and the instrument of a note. So no
caption and no source is on both sides:

- the *catalogue*: clips of one half of the sources, without the last rendering of each note. The
  detectors are fitted to them;
- *copies*: altered clips of the catalogue;
- *unrelated*: clips of the other half;
- *siblings*: the left-out renderings of the catalogue's own notes. They have the same caption, and
  are as similar as sounds get without being copies.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from anechoic_lab.demo.alterations import ALTERATIONS, mix
from anechoic_lab.demo.corpus import SAMPLE_RATE, Clip

FRAGMENT = 12_000  # samples: 0.75 s
BED_CLIPS = 5  # unrelated clips end to end: 5.12 s
ENDS = 160  # samples of a fragment's fade-in and fade-out: 10 ms


@dataclass(frozen=True)
class Split:
    """Rows of the corpus."""

    catalogue: list[int]
    copies: list[int]  # rows of the catalogue
    unrelated: list[int]
    siblings: list[int]


@dataclass(frozen=True, eq=False)
class Known:
    """Clips of one length whose origin is known."""

    wav: Tensor  # [n, t]
    rows: list[int]  # position in the catalogue of the clip that each one copies
    lags: list[float | None]  # start in the copy minus start in the clip, in s; None: not constant


def source(clip: Clip) -> str:
    """The source of a clip: contributor or instrument."""
    if clip.kind == "note":
        return clip.instrument
    contributor = re.search(r"/people/([^/]+)/", clip.url)
    name = clip.id.split("/")[1]
    return contributor[1] if contributor else name.split("_")[0]


def split(clips: Sequence[Clip], seed: int, copies: int, unrelated: int, siblings: int) -> Split:
    """Put half of the sources of each kind into the catalogue, and draw the other sets.

    Sources are shuffled and go to whichever half has fewer clips so far.
    """
    rng = np.random.default_rng(seed)
    ours: set[str] = set()
    for kind in ("note", "recording"):
        sizes: dict[str, int] = {}
        for clip in clips:
            if clip.kind == kind:
                sizes[source(clip)] = sizes.get(source(clip), 0) + 1
        balance = 0
        for name in rng.permutation(sorted(sizes)).tolist():
            if balance <= 0:
                ours.add(name)
            balance += sizes[name] if name in ours else -sizes[name]
    inside = [i for i, clip in enumerate(clips) if source(clip) in ours]
    last = {clips[i].caption: i for i in inside if clips[i].kind == "note"}
    left_out = sorted(last.values())
    catalogue = sorted(set(inside) - set(left_out))
    known = {clips[i].caption for i in catalogue}
    outside = sorted(set(range(len(clips))) - set(inside))

    def draw(rows: list[int], count: int) -> list[int]:
        """Draw as many recordings as notes, as far as possible."""
        shuffled = [rows[i] for i in rng.permutation(len(rows)).tolist()]
        recorded = [i for i in shuffled if clips[i].kind == "recording"][: count // 2]
        notes = [i for i in shuffled if clips[i].kind == "note"][: count - len(recorded)]
        return [int(i) for i in rng.permutation(recorded + notes)]

    return Split(
        catalogue=catalogue,
        copies=draw(catalogue, copies),
        unrelated=draw(outside, unrelated),
        siblings=draw([i for i in left_out if clips[i].caption in known], siblings),
    )


def altered(sound: Tensor, parts: Split, seed: int) -> Mapping[str, Known]:
    """The copies under each alteration, at their length; only unrelated sound is mixed in."""
    rng = np.random.default_rng(seed)
    places = {row: place for place, row in enumerate(parts.catalogue)}
    found = {}
    for name, alteration in ALTERATIONS.items():
        waves = [
            alteration(
                sound[row].numpy(),
                SAMPLE_RATE,
                rng,
                sound[parts.unrelated[i % len(parts.unrelated)]].numpy(),
            )
            for i, row in enumerate(parts.copies)
        ]
        found[name] = Known(
            wav=torch.from_numpy(np.stack([_fit(wave, sound.shape[1]) for wave in waves])),
            rows=[places[row] for row in parts.copies],
            lags=[0.0 if alteration.keeps_time else None] * len(waves),
        )
    return found


def _fit(wave: np.ndarray, length: int) -> np.ndarray:
    """Cut, or pad with silence: a model's sound always has the same length."""
    return np.pad(wave[:length], (0, max(length - len(wave), 0)))


def beds(sound: Tensor, parts: Split, count: int, seed: int) -> Tensor:
    """Random sequences of unrelated clips, [count, t]."""
    rng = np.random.default_rng(seed)
    chosen = [rng.choice(parts.unrelated, BED_CLIPS, replace=False) for _ in range(count)]
    return torch.stack([sound[rows].flatten() for rows in chosen])


def fragments(sound: Tensor, parts: Split, bed: Tensor, seed: int) -> Mapping[str, Known]:
    """Insert 0.75 s of each copy into a longer bed, replacing it or mixed with it at equal level.

    The fragment is the loudest part of its clip, scaled to the bed's level.
    """
    rng = np.random.default_rng(seed)
    places = {row: place for place, row in enumerate(parts.catalogue)}
    fade = np.ones(FRAGMENT, np.float32)
    fade[:ENDS] = np.linspace(0, 1, ENDS)
    fade[-ENDS:] = fade[:ENDS][::-1]
    placed, mixed, lags = [], [], []
    for row, wave in zip(parts.copies, bed.numpy(), strict=True):
        clip = sound[row].numpy()
        energy = np.convolve(np.square(clip, dtype=np.float64), np.ones(FRAGMENT), "valid")
        begin, at = int(energy.argmax()), int(rng.integers(len(wave) - FRAGMENT))
        piece = clip[begin : begin + FRAGMENT] * fade
        level = np.sqrt(np.mean(wave**2) / np.mean(piece**2))
        here = slice(at, at + FRAGMENT)
        one, other = wave.copy(), wave.copy()
        one[here] = one[here] * (1 - fade) + level * piece
        under = wave[here] if np.abs(wave[here]).max() > 1e-4 else rng.standard_normal(FRAGMENT)
        other[here] = mix(piece * level, under.astype(np.float32), 0.0)
        placed.append(one)
        mixed.append(other)
        lags.append((at - begin) / SAMPLE_RATE)
    rows = [places[row] for row in parts.copies]
    return {
        "fragment in 5 s": Known(torch.from_numpy(np.stack(placed)), rows, list(lags)),
        "fragment mixed into 5 s": Known(torch.from_numpy(np.stack(mixed)), rows, list(lags)),
    }
