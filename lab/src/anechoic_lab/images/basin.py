"""The small Stable Diffusion as a scene for the sweep of its attraction basins."""

from __future__ import annotations

from collections.abc import Sequence

from anechoic.diffusers import fingerprint
from anechoic.guidance.base import Guidance
from anechoic_lab.basin.sweep import Heard, Judge, Scene
from anechoic_lab.bench.subject import MEMORIZED, BenchPrompt
from anechoic_lab.images.subject import SCENARIO, STEPS, ImagesSubject


def open_scene(subject: ImagesSubject, split: str = "report", each: int = 6) -> Scene:
    """Memorized and shared captions of a split, judged by the grey levels.

    Args:
        subject: the model.
        split: of the prompts.
        each: how many of either group, one in so many over all photographs.
    """
    asked = subject.prompts(SCENARIO, split)
    groups = [[p for p in asked if (p.group == MEMORIZED) == memorized] for memorized in (1, 0)]
    chosen: list[BenchPrompt] = []
    for group in groups:
        taken = dict.fromkeys(i * len(group) // each for i in range(each))
        chosen += [group[i] for i in taken]

    def judged(captions: Sequence[str], seed: int, guidance: Guidance) -> Heard:
        made = subject.make(captions, seed, guidance)
        told = subject.judge(captions, made.samples)
        scores = [
            {name: told[name][i].item() for name in ("grey", "ssim")} for i in range(len(captions))
        ]
        return Heard(scores, made.records)

    about = subject.about()
    judges = [
        Judge("grey", about["grey"], subject.rules["grey"]),
        Judge("ssim", about["ssim"], subject.rules["ssim"]),
    ]
    told = {"model": f"the small Stable Diffusion ({fingerprint(subject.pipe)}), {STEPS} steps"}
    return Scene(judged, judges, chosen, subject.scale, len(chosen), told)
