"""A diffusers pipeline as what makes the sound of an attempt."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

from torch import Tensor

from anechoic.auto import Auto
from anechoic.diffusers import fingerprint
from anechoic.diffusers.generate import generate
from anechoic.diffusers.pipelines import (
    adapter_for,
    default_scale,
    length_argument,
    sound_seconds,
)
from anechoic.engine.model import require_guardable, require_own_index
from anechoic.guidance.base import Guidance, as_guidance
from anechoic.guidance.substitution import substitutes
from anechoic.index import JoinedIndex, TrainingIndex
from anechoic.protection.generators import Take, timed
from anechoic.protection.judge import clause
from anechoic.types import Embedder


@dataclass(frozen=True, eq=False)
class PipelineGenerator:
    """A pipeline and the arguments of all its calls.

    Args:
        pipe: a pipeline of sound that `guard` knows.
        arguments: its own, such as num_inference_steps and guidance_scale.

    Raises:
        UnsupportedPipeline: another pipeline, or one that makes images.
    """

    pipe: Any
    arguments: Mapping[str, Any] = field(default_factory=dict)
    seeded = True

    def __post_init__(self) -> None:
        sound_seconds(self.pipe)  # refuses one of images

    def __call__(
        self, prompts: Sequence[str], seeds: Sequence[int], guidance: Guidance | None
    ) -> list[Take]:
        call = {**length_argument(self.pipe), **self.arguments, "output_type": "pt"}
        start = time.perf_counter()
        try:
            made = generate(self.pipe, prompts, seeds, call, guidance)
        except Exception as error:
            if len(prompts) == 1:
                return [Take(None, 0, time.perf_counter() - start, clause(error))]
            pairs = zip(prompts, seeds, strict=True)  # one may be the cause: each is made alone
            return [self([prompt], [seed], guidance)[0] for prompt, seed in pairs]
        each = (time.perf_counter() - start) / len(prompts)
        captions = (
            [""] * len(prompts)
            if guidance is None
            else substitutes(made.records, guidance, prompts)
        )
        return [
            replace(timed(partial(self._with_rate, wav)), seconds=each, substitute=caption)
            for wav, caption in zip(made.samples, captions, strict=True)
        ]

    def _with_rate(self, wav: Tensor) -> tuple[Tensor, int]:
        return wav, self._sample_rate

    @cached_property
    def model(self) -> str:
        """The fingerprint of its network's weights."""
        return fingerprint(self.pipe)

    @property
    def _sample_rate(self) -> int:
        return adapter_for(self.pipe).sample_rate

    def guidance(
        self, given: Guidance | None, index: TrainingIndex | JoinedIndex, embedder: Embedder
    ) -> Guidance | str:
        require_own_index(index, lambda: self.model)
        found = automatic(index, embedder, self._scale) if given is None else as_guidance(given)
        if isinstance(found, Guidance):
            require_guardable(adapter_for(self.pipe), found, self._seconds)
        return found

    @property
    def _seconds(self) -> float:
        """The length of the sound that the pipeline is asked for."""
        sound = adapter_for(self.pipe).adapter.sound
        assert sound is not None  # `__post_init__` saw to it
        return sound_seconds(self.pipe, self.arguments.get(sound.seconds))

    @property
    def _scale(self) -> float | None:
        """The scale of classifier-free guidance that the pipeline is called with."""
        scale: float | None = self.arguments.get("guidance_scale", default_scale(self.pipe))
        return scale if scale is not None and scale > 1 else None


def automatic(
    index: TrainingIndex | JoinedIndex, embedder: Embedder, scale: float | None
) -> Guidance:
    """The guidance whose every number is read off the index."""
    return Auto(index, embedder) if scale is None else Auto(index, embedder, scale)
