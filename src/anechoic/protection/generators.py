"""What makes the sound of an attempt: a plain function. Of pipelines, see `pipeline`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from anechoic import audio
from anechoic.audit.samples import make
from anechoic.errors import BadSetting
from anechoic.guidance.base import Guidance
from anechoic.index import JoinedIndex, TrainingIndex
from anechoic.protection.judge import clause
from anechoic.types import Embedder


@dataclass(frozen=True, eq=False)
class Take:
    """What one generation gave: usable sound, or the reason why there is none."""

    wav: Tensor | None  # [c, t]
    sample_rate: int  # in Hz
    seconds: float
    reason: str = ""
    substitute: str = ""  # the caption that guided it in place of the prompt


class Generator(Protocol):
    """Makes one sound a prompt. Whatever fails is told in the take, and raises nothing."""

    @property
    def model(self) -> str | None:
        """The fingerprint of the model; None: unknown."""
        ...

    @property
    def seeded(self) -> bool:
        """Whether another seed can make another sound."""
        ...

    def __call__(
        self, prompts: Sequence[str], seeds: Sequence[int], guidance: Guidance | None
    ) -> list[Take]: ...

    def guidance(
        self, given: Guidance | None, index: TrainingIndex | JoinedIndex, embedder: Embedder
    ) -> Guidance | str:
        """The guard of its generations; a string says why there is none, as a clause.

        Raises:
            AnechoicError: the index or the given guard is not for this model.
        """
        ...


def timed(make_one: Callable[[], tuple[Tensor, int]]) -> Take:
    """Call a function that makes one sound."""
    start = time.perf_counter()
    try:
        wav, sample_rate = make_one()
        audio.require_sound(wav, "what was generated", allow_silence=True)
    except Exception as error:  # from any library that a model uses
        return Take(None, 0, time.perf_counter() - start, clause(error))
    return Take(wav, sample_rate, time.perf_counter() - start)


@dataclass(frozen=True)
class FunctionGenerator:
    """A function of a prompt and a seed.

    Args:
        function: returns sound [channels, samples], or a pair of it and its rate. One that does
            not use the seed has an attribute `seeded` that is False.
        sample_rate: in Hz, for a function that returns sound alone.
    """

    function: Callable[[str, int], Any]
    sample_rate: int | None = None
    model = None

    @property
    def seeded(self) -> bool:
        return bool(getattr(self.function, "seeded", True))

    def __call__(
        self, prompts: Sequence[str], seeds: Sequence[int], guidance: Guidance | None
    ) -> list[Take]:
        assert guidance is None, "a function cannot be guarded"
        return [
            timed(lambda p=prompt, s=seed: make(self._pair, p, s))  # type: ignore[misc]
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]

    def _pair(self, prompt: str, seed: int) -> tuple[Any, int]:
        made = self.function(prompt, seed)
        if isinstance(made, tuple):
            return made
        if self.sample_rate is None:
            raise BadSetting(
                "the function returns sound without its rate; give sample_rate, or have it return "
                "a pair (sound, sample_rate)"
            )
        return made, self.sample_rate

    def guidance(
        self, given: Guidance | None, index: TrainingIndex | JoinedIndex, embedder: Embedder
    ) -> Guidance | str:
        return "a plain function has no steps that a guard could guide"
