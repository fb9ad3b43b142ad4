"""How long a generation takes: measured on a few steps, worked out for all."""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch

from anechoic.diffusers.generate import generate
from anechoic.diffusers.pipelines import adapter_for, call_arguments
from anechoic.guidance.base import Guidance

ANY_SCALE = 2.0  # inside a guard the guidance owns the scale
STEPS = 5  # from noise to sound; what the first one takes longer is counted once
SHUT, OPEN = 1.0, -1.0  # cosines that a gate never, and always, opens at


@dataclass(frozen=True)
class Latency:
    """Seconds that one sound takes."""

    evaluation_s: float  # the network under both prompts, with all that the guard does
    around_s: float  # once: encoding the prompt, what a guard does first, decoding the sound
    evaluations: int  # in a whole generation
    memory: int | None = None  # most bytes at once on the GPU; None: on a CPU, not measured

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
    """Generate with very few steps under a guard, and work out a whole generation.

    The few steps go through all noise levels, so a guard that changes on the way is measured on
    both sides of the change, in about the shares that it has in a whole generation.

    Args:
        pipe: a pipeline with its weights.
        guidance: the guard; one with a gate costs more while it is open: see `gates`. None: none.
        prompt: what to ask for; several are generated at once.
        steps: of the generation that is wanted.
        seconds: of its sound; None: the pipeline's own length.
    """
    network = adapter_for(pipe).network
    called: list[float] = []
    handle = network.register_forward_pre_hook(lambda *_: called.append(_now(pipe)))
    on_gpu = pipe.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(pipe.device)
    arguments = call_arguments(pipe, ANY_SCALE, STEPS, seconds)
    start = _now(pipe)
    try:
        generate(pipe, prompt, 0, arguments, guidance)
        end = _now(pipe)
    finally:
        handle.remove()
    # a pipeline may call its network twice an evaluation, a scheduler may evaluate twice a step
    at = called[:: len(called) // _evaluations(pipe, STEPS)]
    one = (at[-1] - at[1]) / (len(at) - 2)
    around = max(end - start - len(at) * one, 0.0)
    memory = torch.cuda.max_memory_allocated(pipe.device) if on_gpu else None
    evaluations = _evaluations(pipe, steps)
    return Latency(one, around, evaluations, memory)


def gates(guidance: Guidance) -> Mapping[str, Guidance]:
    """A guidance with its gate shut and with it open throughout; by itself, if it has none."""
    shut, opened = guidance.with_threshold(SHUT), guidance.with_threshold(OPEN)
    if shut is None or opened is None:
        return {"": guidance}
    return {"gate shut": shut, "gate open": opened}


def default_steps(pipe: Any) -> int:
    """The number of steps that a pipeline takes when it is not told."""
    parameters = inspect.signature(type(pipe).__call__).parameters
    return int(parameters["num_inference_steps"].default)


def _evaluations(pipe: Any, steps: int) -> int:
    """How often a scheduler has the network evaluated; some do so twice a step."""
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
