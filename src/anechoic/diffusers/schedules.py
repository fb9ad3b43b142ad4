"""Which noise level a diffusers scheduler has just fed to the network."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from anechoic.errors import GuardError, UnsupportedPipeline
from anechoic.guidance.noise import NoiseLevel, Prediction

# what the network is fed is alpha*x0 + sigma*eps with sigma/alpha = scheduler.sigmas[step_index]
BY_RATIO = {
    "CosineDPMSolverMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
    "UniPCMultistepScheduler",
}
# ... with alpha^2 = scheduler.alphas_cumprod[t]
BY_ABAR = {"DDIMScheduler", "DDPMScheduler", "LCMScheduler", "PNDMScheduler"}
# ... with sigma = scheduler.sigmas[step_index] and alpha = 1 - sigma
FLOW = {"FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"}
KNOWN = BY_RATIO | BY_ABAR | FLOW


def check_scheduler(scheduler: Any) -> None:
    """Refuse a scheduler whose algebra is not known here.

    Raises:
        UnsupportedPipeline: an unknown class, or a setting that changes the algebra.
    """
    name = type(scheduler).__name__
    if name not in KNOWN:
        raise UnsupportedPipeline(
            f"one of the schedulers {', '.join(sorted(KNOWN))} was expected, got {name}; replace "
            "pipe.scheduler by one of them"
        )
    if name in FLOW:
        return
    kind = scheduler.config.prediction_type
    if name.startswith("Cosine"):
        if kind != "v_prediction" or scheduler.config.sigma_data != 1.0:
            raise UnsupportedPipeline(
                f"{name} is guarded with prediction_type 'v_prediction' and sigma_data 1.0, as "
                f"Stable Audio sets them; got {kind!r} and {scheduler.config.sigma_data}"
            )
    elif kind not in ("epsilon", "v_prediction", "sample"):
        raise UnsupportedPipeline(
            f"a prediction_type epsilon, v_prediction or sample was expected, got {kind!r}"
        )
    if scheduler.config.get("use_flow_sigmas") or scheduler.config.get("thresholding"):
        raise UnsupportedPipeline(
            f"{name} with use_flow_sigmas or thresholding is not guarded; switch them off"
        )


class Schedule:
    """A scheduler, as one generation goes through it: what does not change is read once."""

    def __init__(self, scheduler: Any):
        self.scheduler = scheduler
        self._name = type(scheduler).__name__
        self._sigmas: tuple[Tensor | None, list[float]] = None, []

    @cached_property
    def kind(self) -> Prediction:
        """What the network predicts."""
        if self._name in FLOW:
            return "reverse_flow" if self._inverted else "flow"
        kind: Prediction = self.scheduler.config.prediction_type
        return kind

    @cached_property
    def _inverted(self) -> bool:
        return bool(self.scheduler.config.get("invert_sigmas"))

    def noise(self, timestep: Any) -> NoiseLevel:
        """The level of the input that the network is being called with, at this timestep, or at
        one of each row."""
        if self._name in BY_ABAR:
            first = timestep.flatten()[0] if isinstance(timestep, Tensor) else timestep
            return NoiseLevel.of_abar(float(self.scheduler.alphas_cumprod[int(first)]))
        index = self.scheduler.step_index
        if index is None:  # schedulers that scale nothing set it in their first step
            index = self.scheduler.begin_index or 0
        sigma = self._numbers(self.scheduler.sigmas)[index]
        if self._name in FLOW:
            return NoiseLevel.flow(1.0 - sigma if self._inverted else sigma)
        return NoiseLevel.from_ratio(sigma)

    def _numbers(self, sigmas: Tensor) -> list[float]:
        """The same as plain numbers; `set_timesteps` makes a new tensor."""
        if sigmas is not self._sigmas[0]:
            self._sigmas = sigmas, sigmas.tolist()
        return self._sigmas[1]

    def progress(self, done: int) -> float:
        """The share of the schedule's evaluations that `done` of them are, in [0, 1)."""
        return done / max(len(self.scheduler.timesteps), done + 1)


def moved_sample(scheduler: Any, arguments: dict[str, Any], moved: Tensor) -> dict[str, Any]:
    """The arguments of a scheduler's step from other latents.

    Args:
        scheduler: the scheduler.
        arguments: of its `step`, by name.
        moved: by how much the network's input is moved, [b, *latent].

    Raises:
        GuardError: the scheduler's latents have another shape.
    """
    sample = arguments["sample"]
    if sample.shape != moved.shape:
        raise GuardError(
            f"expected latents {tuple(moved.shape)}, as the network is fed, in the scheduler's "
            f"step, got {tuple(sample.shape)}; use a method that does not move the latents"
        )
    scaled = getattr(scheduler, "scale_model_input", lambda ones, timestep: ones)
    factor = scaled(torch.ones_like(moved[:1]), arguments["timestep"])  # of what the network is fed
    return {**arguments, "sample": (sample.float() + moved / factor).to(sample.dtype)}
