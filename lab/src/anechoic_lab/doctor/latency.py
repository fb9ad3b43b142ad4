"""Estimates how long a generation takes, from two of few steps."""

from __future__ import annotations

import time
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch

from anechoic.diffusers.generate import generate
from anechoic.diffusers.pipelines import call_arguments
from anechoic.guidance.base import Guidance

ANY_SCALE = 2.0  # inside a guard the guidance owns the scale
FEW, MORE = 4, 12  # steps of the two generations that are compared
QUICK_S = 10.0  # a generation that takes less is made whole instead
SHUT, OPEN = 0.9999, -1.0  # thresholds over which only a copy comes, and every sound


@dataclass(frozen=True)
class Latency:
    """The time that one sound takes."""

    evaluation_s: float  # the denoiser with and without the prompt, and the guard's work
    around_s: float  # once: encoding the prompt, the guard's setup, decoding the sound
    evaluations: int  # in a whole generation
    memory: int | None = None  # peak bytes on the GPU; None: not measured, on a CPU

    @property
    def sound_s(self) -> float:
        return self.around_s + self.evaluations * self.evaluation_s


def measure_latency(
    pipe: Any,
    guidance: Guidance | None,
    prompt: str | list[str],
    steps: int,
    seconds: float | None = None,
) -> Latency:
    """Generate with few steps under a guard, and with more, and extrapolate to all.

    Their difference is the time of an evaluation, and what is left the time around them. So a guard
    that compares at fixed noise levels, and not at each evaluation, is not taken for slower than it
    is in many steps. Both go through all noise levels: a guard that changes on the way is measured
    on both sides of the change.

    Args:
        pipe: a pipeline with its weights.
        guidance: the guard, if any; one with a gate costs more while it is open: see `gates`.
        prompt: the prompt; several are generated at once.
        steps: denoising steps of the whole generation.
        seconds: length of its sound; None: the pipeline's own length.
    """
    on_gpu = pipe.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(pipe.device)

    def took(count: int) -> float:
        start = _now(pipe)
        generate(pipe, prompt, 0, call_arguments(pipe, ANY_SCALE, count, seconds), guidance)
        return _now(pipe) - start

    took(FEW)  # the first generation takes longer than any other
    short, evaluations = took(FEW), _evaluations(pipe, steps)
    least = _evaluations(pipe, FEW)
    more = steps if steps > FEW and short / least * evaluations < QUICK_S else MORE
    one = max(took(more) - short, 0.0) / (_evaluations(pipe, more) - least)
    memory = torch.cuda.max_memory_allocated(pipe.device) if on_gpu else None
    return Latency(one, max(short - least * one, 0.0), evaluations, memory)


def gates(guidance: Guidance) -> Mapping[str, Guidance]:
    """A guidance with its gate always shut, and always open; the guidance itself without a gate."""
    shut, opened = guidance.with_threshold(SHUT), guidance.with_threshold(OPEN)
    if shut is None or opened is None:
        return {"": guidance}
    return {"gate shut": shut, "gate open": opened}


def _evaluations(pipe: Any, steps: int) -> int:
    """The number of evaluations of a schedule; some schedulers evaluate twice a step."""
    scheduler = deepcopy(pipe.scheduler)
    try:
        scheduler.set_timesteps(steps)
    except ValueError:  # a flow whose shift depends on the size of the latents
        return steps
    return len(scheduler.timesteps)


def _now(pipe: Any) -> float:
    if pipe.device.type == "cuda":
        torch.cuda.synchronize(pipe.device)
    return time.perf_counter()
