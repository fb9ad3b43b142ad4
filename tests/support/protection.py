"""A function that generates, and is a copy under some seeds."""

from __future__ import annotations

import torch
from torch import Tensor

from anechoic.protection.policy import seed_of_attempt
from support.sounds import RATE, tune

PROMPT = "tune number 2"
SEEDS = [seed_of_attempt(0, number) for number in range(4)]


class Memorizes:
    """Of its prompt, the training clip under the first seeds; otherwise a tune of its own."""

    seeded = True

    def __init__(self, copies: int = len(SEEDS)):
        self.copies = set(SEEDS[:copies])
        self.seeds: list[int] = []

    def __call__(self, prompt: str, seed: int) -> tuple[Tensor, int]:
        self.seeds.append(seed)
        if prompt == PROMPT and seed in self.copies:
            return 0.5 * tune(2), RATE
        return tune(1000 + seed % 1000), RATE


def not_a_number(prompt: str, seed: int) -> tuple[Tensor, int]:
    """Sound that is none."""
    return torch.full((1, RATE), torch.nan), RATE
