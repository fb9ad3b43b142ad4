"""What the small Stable Diffusion is worth, unguarded: does it copy, does it follow?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from anechoic.metrics import Estimate, share_interval
from anechoic_lab.bench.subject import MEMORIZED
from anechoic_lab.images.subject import SCENARIO, SPLITS, ImagesSubject


@dataclass(frozen=True)
class Measured:
    """One line of the evaluation."""

    what: str
    share: Estimate
    target: str
    holds: bool


def evaluate(
    subject: ImagesSubject,
    seeds: Sequence[int],
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[Measured]:
    """Generate all prompts of both splits under every seed, and judge them."""
    asked = [prompt for split in SPLITS for prompt in subject.prompts(SCENARIO, split)]
    captions = [prompt.caption for prompt in asked]
    memorized = torch.tensor([prompt.group == MEMORIZED for prompt in asked])
    columns = []
    for done, seed in enumerate(seeds, 1):
        told = subject.judge(captions, subject.make(captions, seed).samples)
        columns.append(torch.stack([told["copied"].float(), told["kept"]]))
        report(done, len(seeds))
    copied, kept = torch.stack(columns, 2)  # [prompts, seeds] each
    real = subject.known["classifier_after_the_codec"]

    def line(what: str, hits: torch.Tensor, least: float | None, most: float = 0.0) -> Measured:
        clusters = torch.arange(len(hits)).repeat_interleave(hits.shape[1])
        found = share_interval(hits.flatten().numpy(), clusters.numpy())
        if least is None:
            return Measured(what, found, f"< {most:.3f}", found.value < most)
        return Measured(what, found, f">= {least:.3f}", found.value >= least)

    return [
        line("plates that are returned", copied[memorized], 0.8),
        line("shared captions that return a training image", copied[~memorized], None, 0.1),
        line("plates: the photograph is right", kept[memorized], 0.95 * real),
        line("shared captions: the photograph is right", kept[~memorized], 0.95 * real),
    ]
