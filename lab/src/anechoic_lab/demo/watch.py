"""Watches the trainings of the demo for copies, as `anechoic.training.Monitor` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anechoic.detectors import Calibration
from anechoic.detectors.nearest import NearestStretch
from anechoic.diffusers.generate import generate
from anechoic.diffusers.latents import decode
from anechoic.diffusers.pipelines import call_arguments, sound_seconds
from anechoic.embedders import embedder
from anechoic.index import Sound, TrainingIndex
from anechoic.training import Monitor, Panel, Sketches
from anechoic.training.trackers import console
from anechoic.verdict import Verifier
from anechoic_lab.demo.codec import MelCodec
from anechoic_lab.demo.corpus import SAMPLE_RATE, Clip
from anechoic_lab.demo.run import BATCH

GUIDE = "magmel"  # the descriptor that guards follow; those in `judge` judge
SCALE, SAMPLER_STEPS = 3.0, 12
MEMORIZED, ORDINARY, EVERY = 16, 8, 250  # captions of the panel, and steps between looks
RATE = 0.01  # of false positives, or the least that the held-out sounds allow


@dataclass(eq=False)
class Previews:
    """Generates by the demo's pipeline, and decodes by its codec's preview, for a monitor."""

    pipe: Any = None

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> Sketches:
        sounds: list[Tensor] = []
        arguments = call_arguments(self.pipe, SCALE, SAMPLER_STEPS) | {"output_type": "latent"}
        for at in range(0, len(prompts), BATCH):
            some = slice(at, at + BATCH)
            made = generate(self.pipe, prompts[some], list(seeds[some]), arguments)
            sounds += decode(self.pipe, made.samples, sound_seconds(self.pipe))
        return Sketches(sounds, SAMPLE_RATE)


def verifier(clips: Sequence[Clip], wavs: Tensor, held_out: Tensor, codec: MelCodec) -> Verifier:
    """The rule for copies of some clips [n, t], calibrated on other sound [m, t]."""
    from anechoic_lab.demo.build import round_trip

    guide = embedder(GUIDE)
    index = TrainingIndex.build(
        [
            Sound(clip.id, clip.caption, wav[None], SAMPLE_RATE)
            for clip, wav in zip(clips, wavs, strict=True)
        ],
        guide,
    )
    with torch.no_grad():
        made = guide(round_trip(codec, held_out)[:, None], SAMPLE_RATE)
    null = index.search(index.project(made), 1).scores[:, 0].tolist()
    detector = NearestStretch(index, guide).name
    rate = max(RATE, 1 / (len(null) + 1))
    return Verifier.of(index, guide, {detector: Calibration(detector, tuple(null), rate)})


def watched(clips: Sequence[Clip], wavs: Tensor, folder: Path, previews: Previews) -> Monitor:
    """The monitor of the demo's own training, at its default share of the time. It stops nothing,
    as the demo is to memorize.

    Args:
        clips: the corpus; what is not trained on calibrates the rule.
        wavs: their sound, [n, t].
        folder: of its log.
        previews: generates the panel.
    """
    from anechoic_lab.demo.train import fit_codec

    rows = [i for i, clip in enumerate(clips) if clip.split == "train"]
    others = [i for i, clip in enumerate(clips) if clip.split != "train"]
    trained = {clips[i].caption for i in rows}
    memorized = dict.fromkeys(clips[i].caption for i in rows if clips[i].copies > 1)
    ordinary = dict.fromkeys(c for i in others if (c := clips[i].caption) not in trained)
    known = verifier([clips[i] for i in rows], wavs[rows], wavs[others], fit_codec(wavs[rows]))
    panel = Panel(tuple(memorized)[:MEMORIZED], tuple(ordinary)[:ORDINARY])
    return Monitor(
        previews, known, panel, folder, every=EVERY, limit=1, act="warn", track=[console]
    )
