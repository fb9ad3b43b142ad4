"""guard(): guidance for a stock pipeline, through forward hooks on its network.

The pipeline's network is called with both halves of classifier-free guidance, and the pipeline
then computes u + w*(c - u). The hook replaces both halves by the guided prediction g, which
turns that line into g + w*(g - g) = g, for any w.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from anechoic.auto import GuidedBy, method_of
from anechoic.diffusers.connection import Hooks
from anechoic.diffusers.pipelines import adapter_for, default_scale
from anechoic.diffusers.schedules import check_scheduler
from anechoic.engine.run import guarding
from anechoic.engine.trace import Trace

SCALE = 7.0  # of a pipeline that has no default: Stable Audio Open's own

__all__ = ["Trace", "guard"]

# the ends of a schedule, off by torchsde's own rounding; it warns at each start of a sampler
warnings.filterwarnings("ignore", "Should have t[ab]", UserWarning, "torchsde")


@contextmanager
def guard(pipe: Any, guidance: GuidedBy) -> Iterator[Trace]:
    """Guide every generation of `pipe` inside the `with` block.

    Given an index, or the path of one, or several of them, it is `anechoic.auto.Auto` that guides:
    its settings are read off the indexes, and its scale is the pipeline's default.

    The pipeline stays what it is: nothing is subclassed or replaced, and it is as before when the
    block ends. Inside, the guidance owns the scale; call the pipeline with any
    `guidance_scale` above 1. With `ClassifierFree(scale)` the output is bit for bit that of
    the plain pipeline at that scale.

    The guard reaches the thread, or the asyncio task, that opens the block, and what that one runs
    with `asyncio.to_thread`. A call of `pipe` from any other thread is refused inside the block. To
    generate in several threads, take a pipeline for each from a `PipelinePool`.

    A generation without an unconditional half, for guidance_scale <= 1 or a distilled model, has no
    scale: only methods that do without are guarded there, such as the dissimilarity of
    `AntiMemorization(c1=0, c2=0)`, and their scale does nothing.

    Args:
        pipe: a diffusers pipeline from the table in `anechoic.diffusers.adapters`.
        guidance: the index of the training set, or several, such as that of the model and that of
            its LoRA; or a method, or a function of a `Step`.

    Yields:
        A `Trace` that fills while the pipeline runs.

    Raises:
        BadSetting: `guidance` is neither an index nor a method nor a function of a `Step`.
        UnsupportedPipeline: the pipeline or its scheduler is not one that can be guarded, or the
            guidance compares sound and the pipeline makes images, or the other way round.
        IndexMismatch: the guidance's index is of another model's training set.
        GuardError: a guard inside a guard, or beside another one of `pipe`; a generation that this
            guidance cannot guard; values that are not finite; a block in which nothing was
            generated.
    """
    connection = adapter_for(pipe)
    check_scheduler(pipe.scheduler)
    with guarding(connection, method_of(guidance, default_scale(pipe) or SCALE)) as guarded:
        hooks = Hooks(connection, guarded)
        connection.attach(guarded.block, hooks.begin)
        connection.surround(hooks.pre_forward, hooks.post_forward)
        try:
            yield guarded.trace
        finally:
            connection.detach()
