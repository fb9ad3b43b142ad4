"""What the small Stable Diffusion is worth, unguarded: does it copy, does it follow?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from anechoic.metrics import Estimate, share_interval
from anechoic_lab.bench.task import MEMORIZED
from anechoic_lab.images.task import SCENARIO, SPLITS, ImagesTask


@dataclass(frozen=True)
class EvaluatedShare:
    """One line of the evaluation."""

    what: str
    share: Estimate
    target: str
    holds: bool


def evaluate(
    model: ImagesTask,
    seeds: Sequence[int],
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[EvaluatedShare]:
    """Generate all prompts of both splits under every seed, and judge them."""
    asked = [prompt for split in SPLITS for prompt in model.prompts(SCENARIO, split)]
    captions = [prompt.caption for prompt in asked]
    memorized = torch.tensor([prompt.group == MEMORIZED for prompt in asked])
    columns = []
    for done, seed in enumerate(seeds, 1):
        told = model.judge(captions, model.make(captions, seed).samples)
        columns.append(torch.stack([told["copied"].float(), told["kept"]]))
        report(done, len(seeds))
    copied, kept = torch.stack(columns, 2)  # [prompts, seeds] each
    real = model.known["classifier_after_the_codec"]

    def line(
        what: str, hits: torch.Tensor, least: float | None, most: float = 0.0
    ) -> EvaluatedShare:
        clusters = torch.arange(len(hits)).repeat_interleave(hits.shape[1])
        found = share_interval(hits.flatten().numpy(), clusters.numpy())
        if least is None:
            return EvaluatedShare(what, found, f"< {most:.3f}", found.value < most)
        return EvaluatedShare(what, found, f">= {least:.3f}", found.value >= least)

    return [
        line("plates that are returned", copied[memorized], 0.8),
        line("shared captions that return a training image", copied[~memorized], None, 0.1),
        line("plates: the photograph is right", kept[memorized], 0.95 * real),
        line("shared captions: the photograph is right", kept[~memorized], 0.95 * real),
    ]
