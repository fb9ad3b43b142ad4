"""Stable Diffusion 3: flow matching; tokens of two CLIP encoders and T5, and a pooled one."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from anechoic.diffusers.adapters.adapter import Adapter, CallRecorder, Text, as_image


def encode(recorder: CallRecorder, texts: Sequence[str], rows: Sequence[int]) -> dict[str, Tensor]:
    tokens, _, pooled, _ = recorder.call_again(
        "encode_prompt",
        ("device", "clip_skip", "max_sequence_length", "lora_scale"),
        prompt=list(texts),
        prompt_2=None,
        prompt_3=None,
        do_classifier_free_guidance=False,
    )
    return {"encoder_hidden_states": tokens, "pooled_projections": pooled}


def decode(recorder: CallRecorder, x0: Tensor) -> Tensor:
    vae = recorder.pipe.vae
    x0 = x0.to(vae.dtype) / vae.config.scaling_factor + vae.config.shift_factor
    return as_image(vae.decode(x0).sample)


ADAPTER = Adapter(
    network="transformer",
    x="hidden_states",
    halves="uncond, cond",
    text=(Text("encoder_hidden_states"), Text("pooled_projections")),
    rows=("timestep",),
    shared=(),
    encode=encode,
    decode=decode,
)
