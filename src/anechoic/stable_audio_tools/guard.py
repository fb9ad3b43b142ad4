"""guard(): guidance inside the `generate_diffusion_cond` of stable-audio-tools."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from anechoic.auto import GuidedBy, method_of
from anechoic.engine.run import guarding
from anechoic.engine.trace import Trace
from anechoic.stable_audio_tools.model import NativeModel

SCALE = 6.0  # generate_diffusion_cond's own


@contextmanager
def guard(model: Any, guidance: GuidedBy) -> Iterator[Trace]:
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
        BadSetting, UnsupportedPipeline, IndexMismatch, GuardError: as `anechoic.guard`; also for a
            generation that was broken off.
    """
    native = NativeModel(model)
    with guarding(native, method_of(guidance, SCALE)) as guarded, native.listening(guarded):
        yield guarded.trace
