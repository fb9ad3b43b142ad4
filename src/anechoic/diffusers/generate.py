"""Generating under a seed: the same sound for the same seed, alone or in a batch."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from anechoic.diffusers.guard import guard
from anechoic.diffusers.pipelines import adapter_for, waveforms
from anechoic.engine.trace import Trace
from anechoic.guidance.base import Guidance
from anechoic.guidance.step import Record


@dataclass(frozen=True, eq=False)
class GeneratedBatch:
    """What a pipeline made of some prompts."""

    samples: Tensor  # sound [b, c, t], or images [b, 3, h, w]; float32, on the CPU
    trace: Trace  # of the guard; it has no runs without one
    seconds: float  # that each sample took
    passes: float  # of each sample through the network

    @property
    def records(self) -> list[Record]:
        """What the guard recorded, one record an evaluation."""
        return self.trace.records


def generate(
    pipe: Any,
    prompts: str | Sequence[str],
    seed: int | Sequence[int],
    arguments: Mapping[str, Any],
    guidance: Guidance | None = None,
) -> GeneratedBatch:
    """Generate one sample a prompt.

    Each sample has a generator of its own, on the CPU: its noise is the same on every device, and
    whatever stands beside it in the batch.

    Args:
        pipe: a pipeline that `guard` knows.
        prompts: one prompt, or a batch of them.
        seed: of the noise, one for each prompt, or the same for all.
        arguments: the pipeline's own: see `anechoic.diffusers.pipelines.call_arguments`.
        guidance: guards the generation; None: the plain pipeline.

    Raises:
        AnechoicError: see `guard`.
    """
    count = 1 if isinstance(prompts, str) else len(prompts)
    seeds = [seed] * count if isinstance(seed, int) else seed
    generators = [torch.Generator().manual_seed(one) for one in seeds]
    call = {
        **arguments,
        "prompt": prompts if isinstance(prompts, str) else list(prompts),
        "generator": generators[0] if isinstance(prompts, str) else generators,
    }
    if guidance is not None:
        with guard(pipe, guidance) as trace:
            made, seconds = _timed(pipe, call)
        passes = sum(record.passes for record in trace.records)
        return GeneratedBatch(made, trace, seconds / count, passes)
    connection, rows = adapter_for(pipe), [0]

    def add_rows(network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        rows[0] += len(connection.arguments(args, kwargs)[connection.adapter.x])

    with connection.block:  # no rows of other threads
        connection.surround(add_rows)
        try:
            made, seconds = _timed(pipe, call)
        finally:
            connection.detach()
    return GeneratedBatch(made, Trace(), seconds / count, rows[0] / count)


def _timed(pipe: Any, call: Mapping[str, Any]) -> tuple[Tensor, float]:
    start = time.perf_counter()
    made = waveforms(pipe(**call)).float().cpu()  # waits for the device
    return made, time.perf_counter() - start
