"""A diffusers pipeline as the generators of an audit, one for each guard."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from torch import Tensor

from anechoic.diffusers import fingerprint
from anechoic.diffusers.generate import generate
from anechoic.diffusers.lora import described
from anechoic.diffusers.pipelines import (
    adapter_for,
    call_arguments,
    sound_seconds,
    weights_sha256,
)
from anechoic.engine.model import require_own_index
from anechoic.errors import BadSetting
from anechoic.guidance.base import Guidance, as_guidance
from anechoic.guidance.registry import settings_as_text
from anechoic.index import JoinedIndex, TrainingIndex
from anechoic.types import parts_of

ANY_SCALE = 2.0  # passed to the pipeline and not used: inside a guard the guidance sets the scale


@dataclass(frozen=True, eq=False)
class Pipeline:
    """A pipeline with the settings of all its generations.

    Args:
        pipe: a pipeline that `guard` supports.
        name: its name in the report.
        scale: guidance scale of the plain pipeline.
        steps, seconds: by default the pipeline's own.

    Raises:
        BadSetting: the scale is 1 or less, or the sound longer than the model makes.
    """

    pipe: Any
    name: str
    scale: float
    steps: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if not self.scale > 1:
            raise BadSetting(
                f"guidance scale {self.scale:g} is not a valid guidance scale; give one above 1"
            )
        if adapter_for(self.pipe).adapter.sound is None:
            raise BadSetting(
                f"{type(self.pipe).__name__} makes images, and an audit is of sound; give a model "
                "that makes sound"
            )
        sound_seconds(self.pipe, self.seconds)

    def require_own(self, index: TrainingIndex | JoinedIndex) -> None:
        """Refuse the index of another model's training set.

        Raises:
            IndexMismatch: the index belongs to another model.
        """
        require_own_index(index, partial(fingerprint, self.pipe))

    @cached_property
    def weights(self) -> str:
        """A hash of the weights of all parts, and of the tokenizer's words."""
        return weights_sha256(self.pipe)

    @property
    def _dtype(self) -> str:
        """Number format of the denoiser's weights."""
        return str(next(adapter_for(self.pipe).network.parameters()).dtype)

    @property
    def about(self) -> dict[str, str]:
        """Its description in the report."""
        pipe = self.pipe
        return {
            "model": f"{self.name} ({type(pipe).__name__})",
            **({"LoRA": loras} if (loras := described(pipe)) else {}),
            "weights": f"sha256 {self.weights}, {self._dtype} on {pipe.device.type}",
            "scheduler": f"{type(pipe.scheduler).__name__}, {self.steps or 'its own number of'} "
            "steps",
            "guidance scale": f"{self.scale:g}",
            "length": "the model's longest" if self.seconds is None else f"{self.seconds:g} s",
        }

    @property
    def identity(self) -> list[Any]:
        """All that its sounds depend on, except prompt, seed and guard."""
        return [
            self.weights,
            self._dtype,
            self.pipe.device.type,
            dict(self.pipe.scheduler.config),
            self.scale,
            self.steps,
            self.seconds,
        ]

    def make(self, prompt: str, seed: int, guidance: Guidance | None) -> tuple[Tensor, int]:
        """One sound [c, t], and its sample rate in Hz."""
        scale = self.scale if guidance is None else ANY_SCALE
        arguments = call_arguments(self.pipe, scale, self.steps, self.seconds)
        made = generate(self.pipe, prompt, seed, arguments, guidance).samples[0]
        return made, adapter_for(self.pipe).sample_rate


@dataclass(frozen=True, eq=False)
class Guarded:
    """A pipeline under a guard, or plain, as a generator for an audit."""

    pipeline: Pipeline
    guidance: Guidance | None = None

    def __post_init__(self) -> None:
        if self.guidance is not None:  # it may be a plain function
            object.__setattr__(self, "guidance", as_guidance(self.guidance))

    def __call__(self, prompt: str, seed: int) -> tuple[Tensor, int]:
        return self.pipeline.make(prompt, seed, self.guidance)

    @property
    def identity(self) -> list[Any]:
        """All that its sounds depend on, except prompt and seed."""
        indexes = () if self.guidance is None else self.guidance.indexes()
        parts = (part for index in indexes for part in parts_of(index))
        contents = dict.fromkeys(i.content for i in parts if isinstance(i, TrainingIndex))
        hashed = list(contents) if len(contents) > 1 else next(iter(contents), None)
        return [*self.pipeline.identity, settings_as_text(self.guidance), hashed]

    @property
    def about(self) -> str:
        """The description of the guard in the report."""
        if self.guidance is None:
            return "the plain pipeline"
        text = ", ".join(
            f"{name}={value}" for name, value in settings_as_text(self.guidance).items()
        )
        return f"{self.guidance.label()}({text})"

    @property
    def source(self) -> str:
        """The source of the guard's method."""
        from anechoic.audit.describe import source_of

        return "" if self.guidance is None else source_of(type(self.guidance))
