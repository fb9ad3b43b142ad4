"""A small stand-in for ComfyUI: what its models, text encoders and samplers are called with.

The network, the prompts and the codec are those of the stand-in for stable-audio-tools.
"""

from __future__ import annotations

import copy
import math
import sys
from itertools import pairwise
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from support import stand_in

POST, EVALUATE = "sampler_post_cfg_function", "sampler_calc_cond_batch_function"


class EPS:
    @staticmethod
    def noised(sigma, noise):
        return noise * math.sqrt(1 + sigma**2)

    @staticmethod
    def network_input(sigma, x):
        return x / math.sqrt(1 + sigma**2), math.atan(sigma) / math.pi * 2

    @staticmethod
    def denoised(sigma, out, x):
        return x / (1 + sigma**2) - out * (sigma / math.sqrt(1 + sigma**2))


class CONST:
    @staticmethod
    def noised(sigma, noise):
        return noise * sigma

    @staticmethod
    def network_input(sigma, x):
        return x, sigma

    @staticmethod
    def denoised(sigma, out, x):
        return x - out * sigma


class Sampling(EPS):
    """Of a model that predicts v."""


class FlowSampling(CONST):
    """Of a model that predicts the velocity of a flow."""


class CONDRegular:
    def __init__(self, cond):
        self.cond = cond


class Model:
    """comfy.model_base.StableAudio1."""

    latent_scale = 2.0

    def __init__(self, objective="v", seed=0):
        torch.manual_seed(seed)
        self.diffusion_model = stand_in.DiffusionTransformer(objective).eval()
        self.seconds = stand_in.NumberConditioner()
        self.model_sampling = Sampling() if objective == "v" else FlowSampling()
        self.current_patcher = None

    def process_latent_out(self, latents):
        return latents / self.latent_scale

    def extra_conds(self, cross_attn=None, seconds_total=1.0, noise=None, device="cpu", **_):
        length = self.seconds([seconds_total], device)[0]
        text = torch.cat([cross_attn, length.repeat(len(cross_attn), 1, 1)], 1)
        return {"c_crossattn": CONDRegular(text), "global_embed": CONDRegular(length[:, 0])}


class CLIP:
    """comfy.sd.CLIP."""

    def __init__(self):
        torch.manual_seed(1)
        self.encoder, self.encoded = stand_in.T5Conditioner(), []
        vocabulary = self.encoder.tokenizer.get_vocab()
        inner = SimpleNamespace(inv_vocab={n: word for word, n in vocabulary.items()})
        self.tokenizer = SimpleNamespace(clip="t5base", t5base=inner)

    def tokenize(self, text):
        return {"t5base": text}

    def encode_from_tokens(self, tokens):
        self.encoded.append(tokens["t5base"])
        return self.encoder([tokens["t5base"]], "cpu")[0]


class VAE:
    """comfy.sd.VAE."""

    vae_dtype, device = torch.float32, "cpu"

    def __init__(self, rate=stand_in.RATE):
        torch.manual_seed(2)
        self.first_stage_model, self.audio_sample_rate = stand_in.Pretransform().eval(), rate
        self.patcher = SimpleNamespace(model=self.first_stage_model)


class ModelPatcher:
    """comfy.model_patcher.ModelPatcher."""

    def __init__(self, model, options=None, wrappers=(), backup=None):
        self.model, self.wrappers = model, list(wrappers)
        self.backup = {} if backup is None else backup
        self.model_options = options or {"transformer_options": {}}

    def clone(self):
        return ModelPatcher(
            self.model, copy.deepcopy(self.model_options), self.wrappers, self.backup
        )

    def add_wrapper_with_key(self, kind, key, wrapper):
        assert kind == "outer_sample"
        self.wrappers.append(wrapper)

    def set_model_sampler_calc_cond_batch_function(self, function):
        self.model_options[EVALUATE] = function

    def set_model_sampler_post_cfg_function(self, function, disable_cfg1_optimization=False):
        self.model_options[POST] = [*self.model_options.get(POST, []), function]
        self.model_options["disable_cfg1_optimization"] = disable_cfg1_optimization


class Executor:
    """comfy.patcher_extension.WrapperExecutor."""

    def __init__(self, original, class_obj, wrappers):
        self.original, self.class_obj, self.wrappers = original, class_obj, wrappers

    def __call__(self, *args, **kwargs):
        if not self.wrappers:
            return self.original(*args, **kwargs)
        following = Executor(self.original, self.class_obj, self.wrappers[1:])
        return self.wrappers[0](following, *args, **kwargs)


def calc_cond_batch(model, conds, x, sigma, options):
    """The estimates of an input under each conditioning, zeros under none; all in one batch."""
    given = [(number, cond[0]["model_conds"]) for number, cond in enumerate(conds) if cond]
    level = float(sigma[0])
    scaled, t = model.model_sampling.network_input(level, x)

    def repeated(name):
        held = [cond[name].cond for _, cond in given]
        return torch.cat([one.expand(len(x), *one.shape[1:]) for one in held])

    out = model.diffusion_model._forward(
        scaled.repeat(len(given), 1, 1), torch.full((len(x) * len(given),), t),
        cross_attn_cond=repeated("c_crossattn"), global_embed=repeated("global_embed"),
    )  # fmt: skip
    found = {number: part for (number, _), part in zip(given, out.chunk(len(given)), strict=True)}
    return [
        model.model_sampling.denoised(level, found[i], x) if i in found else torch.zeros_like(x)
        for i in range(len(conds))
    ]


def cfg_function(
    model, cond_pred, uncond_pred, scale, x, sigma, model_options, cond=None, uncond=None
):
    result = uncond_pred + (cond_pred - uncond_pred) * scale
    for function in model_options.get(POST, []):
        result = function({
            "denoised": result, "cond": cond, "uncond": uncond, "cond_scale": scale,
            "model": model, "uncond_denoised": uncond_pred, "cond_denoised": cond_pred,
            "sigma": sigma, "model_options": model_options, "input": x,
        })  # fmt: skip
    return result


class CFGGuider:
    """comfy.samplers.CFGGuider."""

    def __init__(self, patcher, positive, negative, scale):
        self.patcher, self.cfg = patcher, scale
        self.conds = {"positive": positive} | ({"negative": negative} if negative else {})

    def predict_noise(self, x, sigma, options):
        model, uncond = self.patcher.model, self.conds.get("negative")
        if math.isclose(self.cfg, 1.0) and not options.get("disable_cfg1_optimization"):
            uncond = None
        args = {"conds": [self.conds["positive"], uncond], "input": x, "sigma": sigma,
                "model": model, "model_options": options}  # fmt: skip
        evaluate = options.get(EVALUATE) or (
            lambda args: calc_cond_batch(args["model"], args["conds"], args["input"], args["sigma"],
                                         args["model_options"])
        )  # fmt: skip
        out = evaluate(args)
        positive = self.conds["positive"]
        return cfg_function(model, *out, self.cfg, x, sigma, options, positive, uncond)

    def outer_sample(self, noise, latent_image, sampler, sigmas):
        model, options = self.patcher.model, self.patcher.clone().model_options
        model.current_patcher = self.patcher
        options["transformer_options"]["sample_sigmas"] = sigmas
        for conds in self.conds.values():  # the texts, as the model wants them
            for cond in conds:
                cond["model_conds"] = model.extra_conds(**cond, noise=noise, device="cpu")
        x = model.model_sampling.noised(float(sigmas[0]), noise)

        def denoised(x, level):
            return self.predict_noise(x, x.new_full((len(x),), level), options)

        return model.process_latent_out(sampler.sampler_function(denoised, x, sigmas.tolist()))

    def sample(self, noise, sampler, sigmas):
        executor = Executor(self.outer_sample, self, self.patcher.wrappers)
        return executor(noise, torch.zeros_like(noise), sampler, sigmas)


class DualGuider(CFGGuider):
    """A guider that combines halves by itself."""

    def predict_noise(self, x, sigma, options):
        conds = [self.conds["positive"], self.conds["negative"]]
        cond, uncond = calc_cond_batch(self.patcher.model, conds, x, sigma, options)
        return uncond + self.cfg * (cond - uncond)


def euler(denoised, x, levels):
    for level, following in pairwise(levels):
        x = x + (x - denoised(x, level)) / level * (following - level)
    return x


def heun(denoised, x, levels):
    for level, following in pairwise(levels):
        slope = (x - denoised(x, level)) / level
        if following:
            ahead = x + slope * (following - level)
            slope = (slope + (ahead - denoised(ahead, following)) / following) / 2
        x = x + slope * (following - level)
    return x


def lazy(denoised, x, levels):
    """As where another node skips every second evaluation."""
    for number, (level, following) in enumerate(pairwise(levels)):
        estimate = estimate if number % 2 else denoised(x, level)  # noqa: F821
        x = x + (x - estimate) / level * (following - level)
    return x


def install(monkeypatch: Any) -> ModuleType:
    """Make it importable for one test."""
    comfy, samplers, management = map(
        ModuleType, ("comfy", "comfy.samplers", "comfy.model_management")
    )
    samplers.calc_cond_batch, samplers.cfg_function = calc_cond_batch, cfg_function
    samplers.CFGGuider = CFGGuider
    management.loaded = []
    management.load_models_gpu = management.loaded.append
    comfy.samplers, comfy.model_management = samplers, management
    for module in (comfy, samplers, management):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return comfy


def conditioning(clip: CLIP, texts) -> list[dict[str, Any]]:
    """A text for all samples, or one for each."""
    encoded = [clip.encode_from_tokens(clip.tokenize(text)) for text in texts]
    return [{"cross_attn": torch.cat(encoded), "seconds_total": 1.0}]


def sample(
    patcher, clip, texts, noise: Tensor, *, scale=7.0, negative=("",), sampler=euler, steps=6,
    guider=CFGGuider,
):  # fmt: skip
    """KSampler."""
    high, low = (30.0, 0.05) if isinstance(patcher.model.model_sampling, EPS) else (0.999, 0.05)
    levels = torch.cat([torch.logspace(math.log10(high), math.log10(low), steps), torch.zeros(1)])
    return guider(
        patcher,
        conditioning(clip, texts),
        conditioning(clip, negative) if negative else None,
        scale,
    ).sample(noise, SimpleNamespace(sampler_function=sampler), levels)


def parameters_are_inference(module: nn.Module) -> bool:
    return all(weight.is_inference() for weight in module.parameters())
