"""refine(): more steps after a transition, without more before it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from anechoic.diffusers.guard import Trace, guard
from anechoic.diffusers.pipelines import adapter_for
from anechoic.engine.wrapping import Block, Hook
from anechoic.errors import BadSetting, UnsupportedPipeline
from anechoic.guidance.base import Guidance

# whose whole state is a list of sigmas and one of timesteps, with one evaluation each
REFINED = {
    "CosineDPMSolverMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "EulerDiscreteScheduler",
}


@contextmanager
def refine(pipe: Any, log_snr: float, steps: int = 200) -> Iterator[None]:
    """Discretise what follows a noise level as densely as a schedule of `steps` does.

    Up to the transition the pipeline runs on its own `num_inference_steps`. This is for a
    transition that is known beforehand; `generate_refined` finds a dynamic one.

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


def generate_refined(
    pipe: Any, guidance: Guidance, call: Mapping[str, Any], steps: int = 200
) -> tuple[Any, Trace]:
    """Generate with a dynamic transition, and discretise densely what follows it.

    A pipeline fixes its schedule before the first step, so the transition is looked for in a
    run that stops there. The run that counts is the same up to and with the step of the
    transition: the generators are set back to where they were. So it costs the steps before the
    transition twice.

    Args:
        pipe: as for `refine`.
        guidance: a method that notes "switched", such as `DynamicTransition`.
        call: the pipeline's keyword arguments, for one sample: a batch shares one schedule,
            and each sample has its own transition.
        steps: density after the transition.

    Returns:
        What the pipeline returns, and the trace. A sample that never left its basin is
        returned as it came, on the coarse schedule.

    Raises:
        BadSetting: no generator in the call, more than one sample, or a guidance that notes no
            transition.
        GuardError, UnsupportedPipeline: as `guard` and `refine`.

    Source: Jain et al., 2025 (arXiv:2411.16738), the authors' code.
    """
    generator = call.get("generator")
    if not isinstance(generator, torch.Generator):
        raise BadSetting(
            "a torch.Generator was expected in the call, so that the run can be made twice, got "
            f"{type(generator).__name__}; pass generator=torch.Generator().manual_seed(0)"
        )

    with refine(pipe, 0.0, steps):
        pass  # refuses a scheduler before anything is generated
    state = generator.get_state()
    try:
        with guard(pipe, guidance) as trace, _stopped_at_its_transition(pipe, trace):
            return pipe(**call), trace
    except _Switched as found:
        ratio = found.ratio * (1 - 1e-6)  # the step of the transition itself stays
    generator.set_state(state)
    with refine(pipe, -2 * math.log(ratio), steps), guard(pipe, guidance) as trace:
        return pipe(**call), trace


class _Switched(Exception):
    """The sample has left its basin, at this sigma/alpha."""

    def __init__(self, ratio: float):
        self.ratio = ratio


@contextmanager
def _stopped_at_its_transition(pipe: Any, trace: Trace) -> Iterator[None]:
    def after(network: nn.Module, args: Any, output: Any) -> None:
        record = trace.records[-1]
        switched = record.notes.get("switched")
        if switched is None or len(switched) != 1:
            raise BadSetting(
                "one sample and a guidance that notes whether it has 'switched' were expected, got "
                f"{len(record.scale)} samples and the notes {', '.join(record.notes) or 'none'}; "
                "generate one at a time, with a transition method"
            )
        if bool(switched):
            raise _Switched(record.noise.ratio)

    with Block() as block:  # another thread may evaluate the network
        hook = Hook(block, after)
        handle = adapter_for(pipe).network.register_forward_hook(hook)  # after the guard's own
        try:
            yield
        finally:
            handle.remove()
