"""A guidance as a guider of diffusers' modular pipelines.

A guider is given the two predictions and nothing else, so this bridge is for the methods that act
on them alone: plain guidance, transition points, intervals and what is composed of these. What
changes the prompt, or decodes the estimate, needs `guard`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from diffusers.guiders.guider_utils import BaseGuidance, GuiderOutput
from torch import Tensor, nn

from anechoic.diffusers.adapters.adapter import by_name
from anechoic.diffusers.schedules import Schedule, check_scheduler
from anechoic.engine.call import EncodedPrompt, Predictions
from anechoic.engine.run import Run
from anechoic.engine.trace import Trace
from anechoic.engine.wrapping import Block, Hook, surround
from anechoic.errors import BadSetting, GuardError
from anechoic.guidance.base import Guidance, as_guidance
from anechoic.guidance.noise import NoiseLevel, Prediction
from anechoic.guidance.step import Condition, classifier_free


class Guider(BaseGuidance):  # type: ignore[misc]  # diffusers has no types
    """The computation of a guidance, where a modular pipeline computes its own.

        guider = Guider(TransitionPoint(7.0, before=0.0), pipe.scheduler)
        pipe.update_components(guider=guider)

    What it did stands in its `trace`.

    Args:
        guidance: a method that acts on the predictions, or a function of a `Step`.
        scheduler: the pipeline's.

    Raises:
        UnsupportedPipeline: a scheduler that is not known here.
        BadSetting: a method that changes the prompt.
        GuardError: while generating, a method that asks for more than predictions, or a guided
            prediction that is not finite.
    """

    _input_predictions = ["pred_cond", "pred_uncond"]  # noqa: RUF012  # diffusers wants a list

    def __init__(self, guidance: Guidance, scheduler: Any):
        super().__init__()
        method = as_guidance(guidance)
        if method.changes_prompt:
            raise BadSetting(
                f"{method.label()} changes the prompt, and a guider is given the "
                "predictions alone; use 'with guard(pipe, ...)' around a pipeline of the table"
            )
        check_scheduler(scheduler)
        self.register_to_config(guidance=repr(guidance))
        self.guidance = method
        self.scheduler = scheduler
        self.trace = Trace()
        self._x: Tensor | None = None  # what the network is fed
        self._hooks = ExitStack()

    # ------------------------------------------------------------------ what diffusers calls

    def set_state(self, step: int, num_inference_steps: int, timestep: Any) -> None:
        super().set_state(step, num_inference_steps, timestep)
        if step == 0:
            self.trace.runs.append([])
            self._run = Run(self.guidance, self.trace.records, sample_rate=0)
            self._schedule = Schedule(self.scheduler)

    def prepare_models(self, denoiser: nn.Module) -> None:
        super().prepare_models(denoiser)
        block = self._hooks.enter_context(Block())  # another thread may call the same denoiser
        self._hooks.callback(surround(denoiser, Hook(block, self._called)))

    def cleanup_models(self, denoiser: nn.Module) -> None:
        self._hooks.close()

    def prepare_inputs(self, data: Mapping[str, tuple[Tensor, Tensor]]) -> list[Any]:
        names = enumerate(self._input_predictions)
        return [self._prepare_batch(data, which, name) for which, name in names]

    def prepare_inputs_from_block_state(
        self, data: Any, input_fields: Mapping[str, str | tuple[str, str]]
    ) -> list[Any]:
        names = enumerate(self._input_predictions)
        return [
            self._prepare_batch_from_block_state(input_fields, data, which, name)
            for which, name in names
        ]

    @property
    def is_conditional(self) -> bool:
        return bool(self._count_prepared == 1)

    @property
    def num_conditions(self) -> int:
        return 2

    def forward(self, pred_cond: Tensor, pred_uncond: Tensor) -> GuiderOutput:
        """The guided prediction."""
        assert self._x is not None  # the network was called
        noise = self._schedule.noise(self._timestep)
        progress = self._schedule.progress(len(self._run.records))
        call = GuiderCall(self._x.float(), noise, progress, self._schedule.kind)
        pred = self._run.guide(call, {"cond": pred_cond, "uncond": pred_uncond})
        return GuiderOutput(pred=pred, pred_cond=pred_cond, pred_uncond=pred_uncond)

    def _called(self, denoiser: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        network: Any = getattr(denoiser, "_orig_mod", denoiser)  # of torch.compile
        forward = type(network).forward
        first = list(inspect.signature(forward).parameters)[1]  # after self: sample, hidden_states
        self._x = by_name(forward, (None, *args), kwargs)[first]


@dataclass
class GuiderCall:
    """What a guider knows of an evaluation: see `anechoic.engine.call.Call`."""

    x: Tensor
    noise: NoiseLevel
    progress: float
    kind: Prediction
    guided: bool = True
    may_spare: bool = False

    @property
    def batch(self) -> int:
        return len(self.x)

    def combine(
        self, predictions: Predictions, scale: Tensor | float, rows: Tensor | None = None
    ) -> Tensor:
        return classifier_free(predictions["uncond"], predictions["cond"], scale)

    def prompt(self) -> EncodedPrompt:
        raise _refusal("change the prompt")

    def again(
        self, x: Tensor, condition: Condition | Sequence[str] | Tensor, rows: Tensor | None = None
    ) -> Tensor:
        raise _refusal("evaluate the network again")

    def decode(self, x0: Tensor, rows: Tensor | None = None) -> Tensor:
        raise _refusal("decode the estimate")

    def move(self, x: Tensor, rows: Tensor | None = None) -> None:
        raise _refusal("move the latents")


def _refusal(what: str) -> GuardError:
    return GuardError(
        f"the guidance wants to {what}, and a guider is given the predictions alone; use 'with "
        "guard(pipe, ...)' around a pipeline of the table"
    )
