"""Random changes of the prompt: of its words, or of its encoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from anechoic.errors import BadSetting, GuardError
from anechoic.guidance.base import PromptGuidance
from anechoic.guidance.cfg import check_scale
from anechoic.guidance.step import Prompt

Kind = Literal["number", "word", "replace", "repeat"]


@dataclass(frozen=True)
class PromptPerturbation(PromptGuidance):
    """Change the words of the prompt at random, before it is encoded.

    "number" puts a random number into it, "word" a random word, "repeat" one of its own words
    once more, and "replace" exchanges one of its words for a random one; each `count` times. What
    is drawn depends on the sample's own starting noise and on `seed`, and so is reproducible.

    Args:
        scale: classifier-free guidance scale.
        kind: what is done.
        count: how many times.
        seed: other changes for the same starting noise.

    Raises:
        BadSetting: a setting out of range.
        GuardError: the pipeline was given encoded prompts, which have no words.

    Source: Somepalli et al., 2023 (arXiv:2305.20086): random numbers (RNA), random token
    replacement and addition (RT), caption word repetition (CWR).
    """

    scale: float = 7.0
    kind: Kind = "repeat"
    count: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        check_scale(self.scale)
        if self.kind not in ("number", "word", "replace", "repeat"):
            raise BadSetting(f"kind is number, word, replace or repeat, got {self.kind!r}")
        if self.count < 1:
            raise BadSetting(f"count is 1 or more, got {self.count}")

    def condition(self, prompt: Prompt) -> Tensor:
        if prompt.first is not None:
            return prompt.first
        if prompt.texts is None:
            raise GuardError(
                "the pipeline was given encoded prompts, and only words can be changed; give it "
                "the prompt as text, or use EmbeddingNoise"
            )
        pairs = zip(prompt.texts, prompt.generators(self.seed), strict=True)
        words = prompt.words() if self.kind in ("word", "replace") else ()
        texts = [perturbed(text, self.kind, self.count, words, draw) for text, draw in pairs]
        return prompt.encode(texts).to(prompt.encoded)


def perturbed(
    text: str, kind: Kind, count: int, words: Sequence[str], generator: torch.Generator
) -> str:
    """A text with `count` random changes.

    >>> perturbed("a dog", "repeat", 1, (), torch.Generator().manual_seed(0))
    'a dog dog'
    """

    def draw(n: int) -> int:
        return int(torch.randint(n, (1,), generator=generator))

    own = text.split() or [""]
    for _ in range(count):
        if kind == "number":
            own.insert(draw(len(own) + 1), str(draw(100_000)))
        elif kind == "word":
            own.insert(draw(len(own) + 1), words[draw(len(words))])
        elif kind == "repeat":
            own.insert(draw(len(own) + 1), own[draw(len(own))])
        else:
            own[draw(len(own))] = words[draw(len(words))]
    return " ".join(own)


@dataclass(frozen=True)
class EmbeddingNoise(PromptGuidance):
    """Add Gaussian noise of deviation `std` to the encoded prompt, the same all along the run.

    Only tokens that are text get noise: on a pipeline that sets the others to zero, noise there
    would be another prompt altogether.

    Args:
        scale: classifier-free guidance scale.
        std: standard deviation of the noise.
        seed: another noise for the same starting noise.

    Raises:
        BadSetting: a setting out of range.

    Source: Somepalli et al., 2023 (arXiv:2305.20086): Gaussian noise (GN).
    """

    scale: float = 7.0
    std: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        check_scale(self.scale)
        if not 0 < self.std < float("inf"):
            raise BadSetting(f"std is a number above 0, got {self.std}")

    def condition(self, prompt: Prompt) -> Tensor:
        return prompt.encoded + self.std * noise_like(prompt, self.seed)


def noise_like(prompt: Prompt, salt: int) -> Tensor:
    """Standard normal noise over the text of the encoded prompt, zero elsewhere: [b, s, d]."""
    shape = prompt.encoded.shape[1:]
    noise = torch.stack([torch.randn(shape, generator=g) for g in prompt.generators(salt)])
    return noise.to(prompt.encoded) * prompt.mask[:, :, None]
