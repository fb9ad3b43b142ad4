"""A small stand-in for stable-audio-tools: its classes' names and calls, a network of two layers.

The network doubles its batch, conditional half first, and combines the halves in x0: projected,
limited and rescaled as it is asked to. The samplers call it as those of the library do.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

RATE, HOP, CHANNELS, TOKENS, WIDTH = 64, 4, 3, 5, 6
WORDS = ["a", "barks", "cello", "dog", "flute", "high", "low", "note", "on", "rain", "roof", "the"]


class Tokenizer:
    def get_vocab(self):
        return {"\u2581" + word: number for number, word in enumerate(WORDS, 1)}


class T5Conditioner(nn.Module):
    """Texts to tokens [b, s, d]; zeros where there are none."""

    def __init__(self):
        super().__init__()
        self.tokenizer, self.table = Tokenizer(), nn.Embedding(len(WORDS) + 1, WIDTH)

    def forward(self, texts, device):
        rows = [[WORDS.index(word) + 1 for word in text.split()][:TOKENS] for text in texts]
        numbers = torch.tensor([row + [0] * (TOKENS - len(row)) for row in rows], device=device)
        mask = numbers > 0
        return (self.table(numbers) * mask[..., None]).detach(), mask


class NumberConditioner(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(1, WIDTH)

    def forward(self, numbers, device):
        rows = torch.tensor([[float(number)] for number in numbers], device=device)
        return self.embed(rows)[:, None].detach(), torch.ones(len(rows), 1, device=device)


class MultiConditioner(nn.Module):
    def __init__(self, **conditioners):
        super().__init__()
        self.conditioners, self.default_keys = nn.ModuleDict(conditioners), {}

    def forward(self, rows, device):
        return {
            name: list(part([row[name] for row in rows], device))
            for name, part in self.conditioners.items()
        }


class DiffusionTransformer(nn.Module):
    def __init__(self, objective):
        super().__init__()
        self.diffusion_objective = objective
        self.read, self.write = nn.Linear(CHANNELS, 16), nn.Linear(16, CHANNELS)
        self.attend, self.glance, self.time = (nn.Linear(n, 16) for n in (WIDTH, WIDTH, 1))

    def _forward(self, x, t, cross_attn_cond=None, global_embed=None, return_info=False, **_):
        asked = self.attend(cross_attn_cond).tanh().mean(1) + self.glance(global_embed)
        hidden = self.read(x.transpose(1, 2)) + (asked + self.time(t[:, None].to(x)))[:, None]
        out = self.write(hidden.tanh()).transpose(1, 2)
        return (out, {}) if return_info else out

    def apg_project(self, step, towards):
        unit = nn.functional.normalize(towards.flatten(1), dim=1).reshape(towards.shape)
        return step - (step * unit).sum((1, 2), keepdim=True) * unit

    def forward(
        self, x, t, cross_attn_cond=None, negative_cross_attn_cond=None, global_embed=None,
        cfg_scale=1.0, cfg_interval=(0, 1), scale_phi=0.0, cfg_norm_threshold=0.0, apg_scale=1.0,
        padding_mask=None, return_info=False, **kwargs,
    ):  # fmt: skip
        x, t = x.to(self.read.weight.dtype), t.float()
        angle = t * math.pi / 2
        alpha, sigma = angle.cos(), angle.sin()
        if self.diffusion_objective != "v":
            alpha, sigma = torch.ones_like(t), t
        alpha, sigma = alpha[:, None, None], sigma[:, None, None]
        kwargs |= {"return_info": return_info}
        cross, glob = cross_attn_cond.to(x), global_embed.to(x)
        if cfg_scale == 1.0 or not cfg_interval[0] <= float(sigma[0]) <= cfg_interval[1]:
            return self._forward(x, t, cross_attn_cond=cross, global_embed=glob, **kwargs)
        negative = torch.zeros_like(cross)
        if negative_cross_attn_cond is not None:
            negative = negative_cross_attn_cond.to(x)
        both = self._forward(
            torch.cat([x, x]), torch.cat([t, t]), cross_attn_cond=torch.cat([cross, negative]),
            global_embed=torch.cat([glob, glob]), **kwargs,
        )  # fmt: skip
        both, info = both if return_info else (both, {})
        cond, uncond = both.chunk(2)
        clean, step = x * alpha - cond * sigma, (uncond - cond) * sigma
        if cfg_norm_threshold:
            step = step * (cfg_norm_threshold / step.norm(dim=(1, 2), keepdim=True)).clamp(max=1)
        if apg_scale:
            step = apg_scale * self.apg_project(step, clean) + (1 - apg_scale) * step
        output = (x * alpha - (clean + (cfg_scale - 1) * step)) / sigma
        if scale_phi:
            ratio = cond.std(1, keepdim=True) / output.std(1, keepdim=True)
            output = scale_phi * output * ratio + (1 - scale_phi) * output
        return (output, {**info, "uncond_output": uncond}) if return_info else output


class DiTWrapper(nn.Module):
    def __init__(self, objective):
        super().__init__()
        self.model = DiffusionTransformer(objective)

    def forward(self, x, t, global_cond=None, **kwargs):
        return self.model(x, t, global_embed=global_cond, **kwargs)


class Pretransform(nn.Module):
    downsampling_ratio, enable_grad = HOP, False

    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose1d(CHANNELS, 2, HOP, HOP)

    def decode(self, latents):
        return self.up(latents)


class ConditionedDiffusionModelWrapper(nn.Module):
    sample_rate, io_channels = RATE, CHANNELS
    cross_attn_cond_ids, prepend_cond_ids = ["prompt", "seconds_total"], []

    def __init__(self, objective):
        super().__init__()
        self.diffusion_objective, self.model = objective, DiTWrapper(objective)
        self.pretransform = Pretransform()
        self.conditioner = MultiConditioner(
            prompt=T5Conditioner(), seconds_total=NumberConditioner()
        )

    def get_conditioning_inputs(self, tensors, negative=False):
        cross = torch.cat([tensors[name][0] for name in self.cross_attn_cond_ids], 1)
        if negative:
            return {"negative_cross_attn_cond": cross}
        return {"cross_attn_cond": cross, "global_cond": tensors["seconds_total"][0][:, 0]}

    def generate(self, *args, **kwargs):
        return generate_diffusion_cond(self, *args, **kwargs)


@torch.no_grad()
def generate_diffusion_cond(
    model, steps=6, cfg_scale=6, conditioning=None, conditioning_tensors=None,
    negative_conditioning=None, batch_size=1, sample_size=2 * RATE, seed=0, device="cpu",
    return_latents=False, apg_scale=1.0, inversion_params=None, schedules=None, **sampler_kwargs,
):  # fmt: skip
    torch.manual_seed(seed)
    noise = torch.randn(batch_size, CHANNELS, sample_size // HOP)
    if conditioning_tensors is None:
        conditioning_tensors = model.conditioner(conditioning, device)
    inputs = model.get_conditioning_inputs(conditioning_tensors)
    if negative_conditioning is not None:
        tensors = model.conditioner(negative_conditioning, device)
        inputs |= model.get_conditioning_inputs(tensors, negative=True)
    sampler = SAMPLERS[sampler_kwargs.pop("sampler_type", "euler")]
    callback = sampler_kwargs.pop("callback", None) or (lambda state: None)
    inputs |= {"cfg_scale": cfg_scale, "apg_scale": apg_scale, **sampler_kwargs}
    noise = noise.to(next(model.model.parameters()).dtype)
    sampled = sampler(model.model, noise, steps, inputs, schedules, callback)
    return sampled if return_latents else model.pretransform.decode(sampled.float())


def euler(model, x, steps, inputs, schedules, callback):
    """A flow; `schedules` [b, steps + 1] gives each sample its own."""
    if schedules is None:
        schedules = torch.linspace(1, 0, steps + 1).expand(len(x), -1)
    for i in range(steps):
        t, following = schedules[:, i], schedules[:, i + 1]
        v = model(x, t.to(x.dtype), **inputs)
        x = x + (following - t)[:, None, None].to(x) * v
        callback({"i": i, "x": x})
    return x


def rk4(model, x, steps, inputs, schedules, callback):
    ones, ts = x.new_ones(len(x)), torch.linspace(1, 0, steps + 1).tolist()
    for t, following in pairwise(ts):
        h = following - t
        k1 = model(x, t * ones, **inputs)
        k2 = model(x + h / 2 * k1, (t + h / 2) * ones, **inputs)
        k3 = model(x + h / 2 * k2, (t + h / 2) * ones, **inputs)
        k4 = model(x + h * k3, max(following, 1e-5) * ones, **inputs)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x


def ddim(model, x, steps, inputs, schedules, callback, plus=False):
    ts = torch.linspace(1, 0, steps + 1)[:-1]
    alphas, sigmas = (ts * math.pi / 2).cos(), (ts * math.pi / 2).sin()
    for i, t in enumerate(ts):
        v = model(x, x.new_ones(len(x)) * t, **inputs, **({"return_info": True} if plus else {}))
        v, info = v if plus else (v, {})
        clean = x * alphas[i] - v * sigmas[i]
        eps = x * sigmas[i] + info.get("uncond_output", v) * alphas[i]
        x = clean if i == steps - 1 else clean * alphas[i + 1] + eps * sigmas[i + 1]
        callback({"i": i, "x": x})
    return x


def ddim_plus(*call):
    return ddim(*call, plus=True)


def heun(model, x, steps, inputs, schedules, callback):
    """Karras' variable x / alpha, as k-diffusion's samplers."""
    high = math.log10(inputs.pop("sigma_max", 100.0))
    levels = [*torch.logspace(high, -2, steps).tolist(), 0.0]
    x = x * levels[0]

    def denoised(x, ratio):
        scale = 1 / math.sqrt(1 + ratio**2)
        t = x.new_ones(len(x)) * (math.atan(ratio) / math.pi * 2)
        return x * scale**2 - model(x * scale, t, **inputs) * ratio * scale

    for ratio, following in pairwise(levels):
        slope = (x - denoised(x, ratio)) / ratio
        ahead = x + slope * (following - ratio)
        if following:
            slope = (slope + (ahead - denoised(ahead, following)) / following) / 2
        x = x + slope * (following - ratio)
    return x


SAMPLERS = {
    "euler": euler, "rk4": rk4, "v-ddim": ddim, "v-ddim-cfgpp": ddim_plus, "k-heun": heun,
}  # fmt: skip


def make(objective: str = "v", seed: int = 0) -> ConditionedDiffusionModelWrapper:
    torch.manual_seed(seed)
    return ConditionedDiffusionModelWrapper(objective).eval()


def samplers(objective: str) -> list[str]:
    return ["v-ddim", "v-ddim-cfgpp", "k-heun"] if objective == "v" else ["euler", "rk4"]


def latents(model, captions, noise: Tensor) -> Tensor:
    """One prediction by the network itself, under captions, at t = 0.5."""
    rows = [{"prompt": caption, "seconds_total": 1.0} for caption in captions]
    inputs = model.get_conditioning_inputs(model.conditioner(rows, "cpu"))
    with torch.no_grad():
        return model.model(noise, torch.full((len(noise),), 0.5), **inputs)
