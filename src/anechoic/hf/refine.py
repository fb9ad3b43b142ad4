"""refine(): more steps after a transition, without more before it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from anechoic.errors import BadSetting, UnsupportedPipeline

# whose whole state is a list of sigmas and one of timesteps, with one evaluation each
REFINED = {
    "CosineDPMSolverMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "EulerDiscreteScheduler",
}


@contextmanager
def refine(pipe: Any, log_snr: float, steps: int = 200) -> Iterator[None]:
    """Discretise what follows a noise level as densely as a schedule of `steps` does.

    Up to the transition the pipeline runs on its own `num_inference_steps`. For a static
    transition only: a dynamic one is each sample's own, while a batch shares one schedule.

    Args:
        pipe: a pipeline whose scheduler is a Cosine-DPM, DPM++ or Euler one.
        log_snr: of the transition, log(alpha^2 / sigma^2).
        steps: density after it.

    Raises:
        UnsupportedPipeline: another scheduler.
        BadSetting: inside the block, a call of the pipeline with more steps than `steps`, or
            a schedule that does not come to the transition.

    Source: Jain et al., 2025 (arXiv:2411.16738), the authors' code.
    """
    scheduler, name = pipe.scheduler, type(pipe.scheduler).__name__
    if name not in REFINED:
        raise UnsupportedPipeline(
            f"one of the schedulers {', '.join(sorted(REFINED))} was expected, got {name}; replace "
            "pipe.scheduler by one of them, or leave the refinement out"
        )
    original = scheduler.set_timesteps
    ratio = math.exp(-log_snr / 2)

    def set_timesteps(num_inference_steps: int, *args: Any, **kwargs: Any) -> None:
        if num_inference_steps > steps:
            raise BadSetting(
                f"a schedule that is refined to {steps} steps has fewer before, got "
                f"{num_inference_steps}; lower num_inference_steps or raise the refinement"
            )
        original(steps, *args, **kwargs)
        dense, dense_times = scheduler.sigmas, scheduler.timesteps
        original(num_inference_steps, *args, **kwargs)
        before = scheduler.sigmas[:-1] > ratio
        after = dense[:-1] <= ratio
        if not after.any():
            raise BadSetting(
                f"the schedule ends at log-SNR {-2 * math.log(float(dense[-2])):.2f} and does not "
                f"come to {log_snr:g}; choose an earlier transition"
            )
        coarse, times = scheduler.sigmas[:-1], scheduler.timesteps
        scheduler.sigmas = torch.cat([coarse[before], dense[:-1][after], dense[-1:]])
        scheduler.timesteps = torch.cat([times[before.to(times.device)],
                                         dense_times[after.to(times.device)]])  # fmt: skip
        scheduler.num_inference_steps = len(scheduler.timesteps)

    scheduler.set_timesteps = set_timesteps
    try:
        yield
    finally:
        del scheduler.set_timesteps  # the class's own shows again
