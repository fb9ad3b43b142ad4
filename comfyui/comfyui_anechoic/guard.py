"""A model of ComfyUI under a guard.

ComfyUI's sampler evaluates the network on both halves, combines them in x0, and passes them to
functions that nodes add to a model. The guard adds three: around each sampling, and before and
after each evaluation. ComfyUI runs in `torch.inference_mode`, which knows no gradients. The guard
leaves it for its own work, and calls ComfyUI's code in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from anechoic.engine.run import Run, guarding
from anechoic.errors import BadSetting, GuardError, UnsupportedPipeline
from anechoic.guidance.base import Guidance
from anechoic.guidance.step import Condition

from .call import ComfyCall, ComfyModel, normal_tensors

AROUND = "outer_sample"  # comfy.patcher_extension.WrappersMP.OUTER_SAMPLE
BEFORE, AFTER = "sampler_calc_cond_batch_function", "sampler_post_cfg_function"
HALVES: tuple[Condition, ...] = ("cond", "uncond")
TRIAL = 7.0  # a scale that every guidance takes
ADAPTIVE = "dpm_adaptive_function"  # a sampler that chooses its own steps


def guarded(model: Any, method: Callable[[float], Guidance], clip: Any, vae: Any) -> Any:
    """A copy of a model, every sampling of which is guided.

    Plain classifier-free guidance leaves what is sampled as it is, bit for bit.

    Args:
        model: a `comfy.model_patcher.ModelPatcher`.
        method: makes the guidance at a guidance scale, which is the sampler's cfg.
        clip: a `comfy.sd.CLIP`, for guidance that tries other captions; or None.
        vae: a `comfy.sd.VAE`, for guidance that compares sound; or None.

    Raises:
        BadSetting: the guidance needs what is not given, or cannot act here.
        UnsupportedPipeline: the model cannot be guarded.

    Example: `guarded(model, ClassifierFree, None, None)`
    """
    backup = getattr(model, "backup", {})  # one of all copies of a model
    guard = Guard(ComfyModel(model.model, clip, vae, backup), method)
    guard.guidance(TRIAL)  # refused here, rather than by the sampler
    if not hasattr(model, "add_wrapper_with_key"):
        raise UnsupportedPipeline(
            "expected a ComfyUI of 2025 or newer, whose models take wrappers, got an older one; "
            "update it"
        )
    copy = model.clone()
    guard.earlier = copy.model_options.get(BEFORE)
    copy.add_wrapper_with_key(AROUND, "anechoic", guard.sample)
    copy.set_model_sampler_calc_cond_batch_function(guard.evaluate)
    copy.set_model_sampler_post_cfg_function(guard.guide, disable_cfg1_optimization=True)
    return copy


@dataclass(eq=False)
class Guard:
    """What is added to a model. ComfyUI calls it in one thread."""

    model: ComfyModel
    method: Callable[[float], Guidance]
    earlier: Callable[[Any], Any] | None = None  # what another node evaluates the halves by
    run: Run | None = None  # of the sampling that is running
    call: ComfyCall | None = None  # the evaluation that is running

    def __deepcopy__(self, memo: Any) -> Guard:
        return self  # a copy of the model has the same guard

    def guidance(self, scale: float) -> Guidance:
        """The guidance at a scale.

        Raises:
            BadSetting: it cannot act here.
        """
        guidance = self.method(scale)
        if guidance.gradient_reach() == "network":
            raise BadSetting(
                f"{guidance.label()} takes a gradient through the network, and ComfyUI loads "
                "networks in inference_mode, where there is none; write 'gradient=x0' among the "
                "settings"
            )
        if guidance.embedders() and self.model.vae is None:
            raise BadSetting(f"{guidance.label()} compares sound; connect the VAE to the guard")
        return guidance

    def sample(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """Around one sampling, whose third and fourth arguments are the sampler and its levels.

        Raises:
            GuardError: it was not guarded from its start to its end.
        """
        from comfy.samplers import CFGGuider

        guider, sampler, steps = executor.class_obj, args[2], len(args[3]) - 1
        if type(guider).predict_noise is not CFGGuider.predict_noise:
            raise GuardError(
                f"{type(guider).__name__} combines the halves by itself, past the guard; sample "
                "with KSampler, or with CFGGuider"
            )
        with guarding(self.model, self.guidance(guider.cfg)) as guard:
            with normal_tensors():
                self.run = guard.begin(bool(guider.conds.get("negative")))
            try:
                made = executor(*args, **kwargs)
            finally:
                self.run = self.call = None
                self.model.forget()
            done = len(guard.trace.records)
            adapts = getattr(getattr(sampler, "sampler_function", None), "__name__", "") == ADAPTIVE
            if done < (1 if adapts else steps):
                raise GuardError(
                    f"{done} evaluations of a sampling of {steps} steps were guarded, so another "
                    "node skips them or takes the guard off the model; remove it (such as a "
                    "cache), or put Anechoic Guard after it"
                )
        return made

    def evaluate(self, args: Any) -> Any:
        """Before an evaluation: the predictions of both halves, under the guidance's prompt."""
        if self.run is None:
            raise GuardError("the guarded model was called by no sampler of ComfyUI; use KSampler")
        call = ComfyCall(self.model, args["input"], args["sigma"], args["model_options"],
                         *args["conds"])  # fmt: skip
        if self.run.guidance.changes_prompt:
            with normal_tensors():
                call = call.under(self.run.change_prompt(call))
        self.call = call
        if self.earlier is not None:
            return self.earlier({**args, "conds": [call.cond, call.uncond]})
        return self.model.evaluate([call.cond, call.uncond], call.input, call.sigma, call.options)

    def guide(self, args: Any) -> Tensor:
        """After an evaluation: the guided estimate."""
        call, self.call = self.call, None
        if self.run is None or call is None or args["input"] is not call.input:
            raise GuardError(
                "another node took the guard's evaluation off the model; put Anechoic Guard after "
                "it, next to the sampler"
            )
        added = args["model_options"][AFTER]
        call.options = {**call.options, AFTER: added[: added.index(self.guide)]}
        with normal_tensors():
            predictions: dict[Condition, Tensor] = {
                half: args[f"{half}_denoised"].clone() for half in HALVES[: 1 + call.guided]
            }
            return self.run.guide(call, predictions).to(args["denoised"])
