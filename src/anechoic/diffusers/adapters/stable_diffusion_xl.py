"""Stable Diffusion XL: tokens of two text encoders, and a pooled one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from anechoic.diffusers.adapters.adapter import Adapter, CallRecorder, Text, as_image
from anechoic.diffusers.adapters.stable_diffusion import encoded, refusal


def encode(recorder: CallRecorder, texts: Sequence[str], rows: Sequence[int]) -> dict[str, Tensor]:
    tokens, _, pooled, _ = encoded(recorder, texts)
    return {"encoder_hidden_states": tokens, "added_cond_kwargs.text_embeds": pooled}


def decode(recorder: CallRecorder, x0: Tensor) -> Tensor:
    vae = _wide(recorder)
    mean, std = (
        None if value is None else torch.tensor(value).view(1, -1, 1, 1).to(x0)
        for value in (vae.config.latents_mean, vae.config.latents_std)
    )
    x0 = x0 / vae.config.scaling_factor if mean is None or std is None else (
        x0 * std / vae.config.scaling_factor + mean
    )  # fmt: skip
    return as_image(vae.decode(x0.to(vae.dtype)).sample)


def _wide(recorder: CallRecorder) -> Any:
    """The decoder, in a number format in which it does not overflow: of fp16, a copy in fp32."""
    vae = recorder.pipe.vae
    if vae.dtype != torch.float16 or not vae.config.force_upcast:
        return vae
    if "wide vae" not in recorder.cache:
        copy = type(vae).from_config(vae.config).requires_grad_(False).eval()
        copy.load_state_dict(vae.state_dict())
        recorder.cache["wide vae"] = copy.to(recorder.pipe._execution_device, torch.float32)
    return recorder.cache["wide vae"]


ADAPTER = Adapter(
    network="unet",
    x="sample",
    halves="uncond, cond",
    text=(Text("encoder_hidden_states"), Text("added_cond_kwargs.text_embeds")),
    rows=("added_cond_kwargs.time_ids", "timestep_cond"),
    shared=("timestep",),
    encode=encode,
    decode=decode,
    distilled=lambda pipe: pipe.unet.config.time_cond_proj_dim is not None,
    refusal=refusal,
)
