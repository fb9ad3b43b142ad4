"""LongCat AudioDiT: flow matching; the network is called once for each half."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from anechoic.diffusers.adapters.adapter import Adapter, CallRecorder, SoundSpec, Text


def guided(recorder: CallRecorder) -> bool:
    return bool(recorder.pipe.guidance_scale > 1.0)


def encode(recorder: CallRecorder, texts: Sequence[str], rows: Sequence[int]) -> dict[str, Tensor]:
    from diffusers.pipelines.longcat_audio_dit import pipeline_longcat_audio_dit as longcat

    prompts = [longcat._normalize_text(text) for text in texts]  # as the pipeline does its own
    encoded, lengths = recorder.call_again("encode_prompt", ("device",), prompt=prompts)
    return {
        "encoder_hidden_states": encoded,
        "encoder_attention_mask": longcat._lens_to_mask(lengths, length=encoded.shape[1]),
    }


def unconditional(recorder: CallRecorder, cond: dict[str, Any]) -> dict[str, Any]:
    """What the second call is given: zeros in the prompt's place, or the negative prompt."""
    from diffusers.pipelines.longcat_audio_dit.pipeline_longcat_audio_dit import _lens_to_mask

    negative, tokens = (
        recorder.calls["check_inputs"]["negative_prompt"],
        cond["encoder_hidden_states"],
    )
    if negative is None:
        return {**cond, "encoder_hidden_states": torch.zeros_like(tokens)}
    texts = [negative] * len(tokens) if isinstance(negative, str) else list(negative)
    encoded, lengths = recorder.call_again("encode_prompt", ("device",), prompt=texts)
    mask = _lens_to_mask(lengths, length=encoded.shape[1])
    return {**cond, "encoder_hidden_states": encoded, "encoder_attention_mask": mask}


def decode(recorder: CallRecorder, x0: Tensor) -> Tensor:
    vae = recorder.pipe.vae
    wav: Tensor = vae.decode(x0.to(vae.dtype).permute(0, 2, 1)).sample.float()
    return wav


def sample_rate(pipe: Any) -> int:
    return int(pipe.sample_rate)


def longest_s(pipe: Any) -> float:
    return float(pipe.max_wav_duration)


ADAPTER = Adapter(
    network="transformer",
    x="hidden_states",
    halves="cond, then uncond",
    text=(Text("encoder_hidden_states", mask="encoder_attention_mask"),),
    rows=("timestep", "attention_mask", "latent_cond"),
    shared=(),
    guided=guided,
    encode=encode,
    decode=decode,
    unconditional=unconditional,
    sound=SoundSpec(sample_rate, "audio_duration_s", longest_s),
)
