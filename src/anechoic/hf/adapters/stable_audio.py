"""Stable Audio Open 1.0: the unconditional half attends to zeros, or to the negative prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from anechoic.hf.adapters.adapter import Adapter, Heard, Sound, Text, told_by_prompt


def encode(heard: Heard, texts: Sequence[str], rows: Sequence[int]) -> dict[str, Tensor]:
    encoded = heard.again(
        "encode_prompt", ("device",), prompt=list(texts), do_classifier_free_guidance=False
    )
    return {"encoder_hidden_states": encoded}


def decode(heard: Heard, x0: Tensor) -> Tensor:
    vae, asked = heard.pipe.vae, heard.calls["check_inputs"]
    start, end = (
        int(asked[name] * vae.config.sampling_rate)
        for name in ("audio_start_in_s", "audio_end_in_s")
    )
    return vae.decode(x0.to(vae.dtype)).sample[:, :, start:end].float()


def sample_rate(pipe: Any) -> int:
    return pipe.vae.config.sampling_rate


def longest_s(pipe: Any) -> float:
    samples = pipe.transformer.config.sample_size * pipe.vae.hop_length
    return min(samples / sample_rate(pipe), pipe.projection_model.config.max_value)


ADAPTER = Adapter(
    network="transformer",
    x="hidden_states",
    halves="uncond, cond",
    text=(Text("encoder_hidden_states", tail=2),),  # the sample's own start and end in seconds
    rows=("global_hidden_states",),
    shared=("timestep", "rotary_embedding"),
    guided=told_by_prompt,
    encode=encode,
    decode=decode,
    sound=Sound(sample_rate, "audio_end_in_s", longest_s),
)
