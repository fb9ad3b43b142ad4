"""guard(): guidance inside the `generate_diffusion_cond` of stable-audio-tools."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from anechoic.auto import Auto
from anechoic.engine.run import Trace, guarding
from anechoic.guidance.base import Guidance
from anechoic.guidance.step import Guided, Step
from anechoic.index import TrainingIndex
from anechoic.stable_audio_tools.model import NativeModel

SCALE = 6.0  # generate_diffusion_cond's own


@contextmanager
def guard(
    model: Any, guidance: TrainingIndex | Path | Guidance | Callable[[Step], Guided | Tensor]
) -> Iterator[Trace]:
    """Guide every `generate_diffusion_cond(model, ...)` inside the `with` block.

    The model's own code combines the halves, at the scale of the guidance: with
    `ClassifierFree(scale)` the output is bit for bit that of a plain call with `cfg_scale=scale`,
    whatever the sampler, `apg_scale`, `scale_phi` or negative prompt. Call it with any `cfg_scale`
    but 1.

    Args:
        model: a `ConditionedDiffusionModelWrapper` around a `DiffusionTransformer`, of
            stable-audio-tools 0.0.19 or 0.0.20.
        guidance: as `anechoic.guard`.

    Yields:
        A `Trace` that fills while the model generates.

    Raises:
        UnsupportedPipeline, IndexMismatch, BadSetting, GuardError: as `anechoic.guard`.
    """
    native = NativeModel(model)
    if isinstance(guidance, TrainingIndex | Path):
        guidance = Auto.of(guidance, SCALE)
    with guarding(native, guidance) as guarded:
        native.attach(guarded)
        try:
            yield guarded.trace
            native.check_whole()
        finally:
            native.detach()
