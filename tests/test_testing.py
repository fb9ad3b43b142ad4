"""The checks that a package of its own holds its methods to: ours pass, and broken ones do not."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count

import pytest
import torch

from anechoic import AntiMemorization, Guidance, Guided, embedder
from anechoic.guidance import CaptionSubstitution, ClassifierFree, GramVolume, Projection
from anechoic.guidance.step import Step
from anechoic.testing import check_embedder, check_guidance
from anechoic.types import Embedder

OURS = {
    "cfg": lambda index, embed: ClassifierFree(3.0),
    "amg": lambda index, embed: AntiMemorization(index, embed, lambda_min=-1.0, lambda_max=-1.0),
    "volume": lambda index, embed: GramVolume(index, embed, threshold=-1.0, k=2),
    "projection": lambda index, embed: Projection(index, embed, opens=-0.99, limit=-0.995),
    "substitution": lambda index, embed: CaptionSubstitution(index, embed, opens=0.9),
    "a function": lambda index, embed: lambda step: Guided(3.0),
}


@pytest.mark.parametrize("name", OURS)
def test_our_methods_keep_what_is_checked(name: str) -> None:
    check_guidance(OURS[name])


@dataclass(frozen=True)
class Broken(Guidance):
    """Source: none."""

    kind: str
    calls: count = field(default_factory=count)  # type: ignore[type-arg]

    def __call__(self, step: Step) -> Guided:
        delta = torch.zeros_like(step.x)
        if self.kind == "batch":
            delta += step.x.mean(0)
        elif self.kind == "state":
            delta += float(next(self.calls))
        elif self.kind == "nan":
            delta = delta / 0
        return Guided(3.0, delta)


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [("batch", "as it is alone"), ("state", "second time|alone"), ("nan", "not finite")],
)
def test_a_broken_method_is_found(kind: str, sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence):
        check_guidance(lambda index, embed: Broken(kind))


def test_a_method_without_a_source_or_that_can_be_changed_is_found() -> None:
    class Loose(Guidance):
        def __call__(self, step: Step) -> Guided:
            return Guided(3.0)

    with pytest.raises(AssertionError, match="not a frozen dataclass"):
        check_guidance(lambda index, embed: Loose())


class Level(Embedder):
    """Hears the level, and nothing else."""

    name, dim, sample_rate = "level", 2, 16_000

    def __call__(self, wav: torch.Tensor, sample_rate: int) -> torch.Tensor:
        level = wav.abs().mean((1, 2)) * 10
        return torch.stack([level.cos(), level.sin()], 1)


def test_embedders_are_held_to_their_promises() -> None:
    check_embedder(embedder("magmel"))
    with pytest.raises(AssertionError, match="a tenth of the level"):
        check_embedder(Level())
