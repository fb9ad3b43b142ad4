"""The demo model as a task for the sweep of its attraction basins."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, zip_longest
from pathlib import Path

import torch
from torch import Tensor

from anechoic.diffusers import fingerprint
from anechoic.errors import BadSetting
from anechoic.guidance.base import Guidance
from anechoic_lab.basin.sweep import ORDINARY, ScoredBatch, Scorer, SweepTask
from anechoic_lab.bench.task import MEMORIZED, BenchPrompt
from anechoic_lab.demo import assets
from anechoic_lab.demo.corpus import SAMPLE_RATE, Clip
from anechoic_lab.demo.run import BATCH, Bench, generate
from anechoic_lab.demo.show import prompts_to_report


def open_demo(
    memorized: Sequence[str] = (),
    ordinary: Sequence[str] = (),
    *,
    each: int = 2,
    scale: float = assets.CFG_SCALE,
    steps: int = assets.STEPS,
    batch: int = 8,
    folder: Path = assets.SHIPPED,
) -> SweepTask:
    """The demo model, its prompts and its own judge.

    Similarity is the centred log-mel correlation with the caption's own training clip, which no
    guard of the demo follows. The guide's descriptor is scored as well.

    Args:
        memorized, ordinary: captions; by default the first ones of the split that the demo reports
            on, notes and recordings in turn.
        each: default number of captions in each group.
        scale: classifier-free guidance scale.
        steps: denoising steps.
        batch: clips generated at once.
        folder: made by `anechoic demo train`; by default the shipped one.

    Raises:
        BadSetting: the batch is too large, or there are not so many prompts.
    """
    if not 1 <= batch <= BATCH:
        raise BadSetting(f"the demo generates 1 to {BATCH} clips at once, got a batch of {batch}")
    pipe = assets.pipeline(folder)
    bench = Bench.load(folder, pipe)
    known = prompts_to_report(bench)
    chosen = {
        MEMORIZED: memorized or _first(known[0], each),
        ORDINARY: ordinary or _first(known[1], each),
    }
    prompts = [BenchPrompt(text, text, group) for group, texts in chosen.items() for text in texts]
    guide = bench.index.embedder_name

    def judged(captions: Sequence[str], seed: int, guidance: Guidance) -> ScoredBatch:
        made = generate(pipe, captions, seed, guidance, steps=steps)
        own, near = _own(bench, made.wav, captions), _near(bench, made.wav)
        scores = [{"mel": a, guide: b} for a, b in zip(own, near, strict=True)]
        return ScoredBatch(scores, made.traces[0].records)

    judges = [
        Scorer("mel", "centred log-mel correlation with the caption's own training clip, or with "
              "the nearest of all for a caption that has none", bench.rule("mel")),
        Scorer(guide, f"cosine to the nearest of {len(bench.index)} training clips by the guide's "
              "descriptor, centred", bench.verifier.rule),
    ]  # fmt: skip
    about = {"model": f"the demo model ({fingerprint(pipe)}), 1.024 s at {SAMPLE_RATE // 1000} kHz"}
    return SweepTask(judged, judges, prompts, scale, batch, about)


def _first(clips: Sequence[Clip], count: int) -> list[str]:
    """The first captions, notes and recordings in turn."""
    kinds = [[c.caption for c in clips if c.kind == kind] for kind in ("note", "recording")]
    in_turn = [caption for caption in chain(*zip_longest(*kinds)) if caption]
    if not 1 <= count <= len(in_turn):
        raise BadSetting(f"expected 1 to {len(in_turn)} of the demo's prompts, got {count}")
    return in_turn[:count]


@torch.no_grad()
def _own(bench: Bench, wav: Tensor, captions: Sequence[str]) -> list[float]:
    """Similarity to the nearest clip of each caption, or of all if a caption has none."""
    scores = bench.judges["mel"](wav)
    everything = list(range(len(bench.clips)))
    rows = [
        [row for row, clip in enumerate(bench.clips) if clip.caption == caption] or everything
        for caption in captions
    ]
    return [scores[i, own].max().item() for i, own in enumerate(rows)]


@torch.no_grad()
def _near(bench: Bench, wav: Tensor) -> list[float]:
    return [bench.verifier(one[None], SAMPLE_RATE).score for one in wav]
