"""The small Stable Diffusion as a scene for the sweep of its attraction basins."""

from __future__ import annotations

from collections.abc import Sequence

from anechoic.diffusers import fingerprint
from anechoic.guidance.base import Guidance
from anechoic_lab.basin.sweep import ScoredBatch, Scorer, SweepTask
from anechoic_lab.bench.task import MEMORIZED, BenchPrompt
from anechoic_lab.images.task import SCENARIO, STEPS, ImagesTask


def open_scene(model: ImagesTask, split: str = "report", each: int = 6) -> SweepTask:
    """Memorized and shared captions of a split, judged by the grey levels.

    Args:
        model: the model.
        split: of the prompts.
        each: how many of either group, one in so many over all photographs.
    """
    asked = model.prompts(SCENARIO, split)
    groups = [[p for p in asked if (p.group == MEMORIZED) == memorized] for memorized in (1, 0)]
    chosen: list[BenchPrompt] = []
    for group in groups:
        taken = dict.fromkeys(i * len(group) // each for i in range(each))
        chosen += [group[i] for i in taken]

    def judged(captions: Sequence[str], seed: int, guidance: Guidance) -> ScoredBatch:
        made = model.make(captions, seed, guidance)
        told = model.judge(captions, made.samples)
        scores = [
            {name: told[name][i].item() for name in ("grey", "ssim")} for i in range(len(captions))
        ]
        return ScoredBatch(scores, made.records)

    about = model.about()
    judges = [
        Scorer("grey", about["grey"], model.rules["grey"]),
        Scorer("ssim", about["ssim"], model.rules["ssim"]),
    ]
    told = {"model": f"the small Stable Diffusion ({fingerprint(model.pipe)}), {STEPS} steps"}
    return SweepTask(judged, judges, chosen, model.scale, len(chosen), told)
