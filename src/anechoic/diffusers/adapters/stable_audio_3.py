"""Stable Audio 3: flow matching; the distilled models have no unconditional half."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from anechoic.diffusers.adapters.adapter import (
    Adapter,
    CallRecorder,
    SoundSpec,
    Text,
    guided_by_pipeline,
)


def encode(recorder: CallRecorder, texts: Sequence[str], rows: Sequence[int]) -> dict[str, Tensor]:
    encoded, mask = recorder.call_again(
        "encode_prompt", ("device",), prompt=list(texts), num_waveforms_per_prompt=1
    )
    return {"encoder_hidden_states": encoded, "encoder_attention_mask": mask}


def decode(recorder: CallRecorder, x0: Tensor) -> Tensor:
    # without the pipeline's last clamp to (-1, 1), beyond which there would be no gradient
    samples = int(recorder.calls["check_inputs"]["duration"] * sample_rate(recorder.pipe))
    vae = recorder.pipe.vae
    wav: Tensor = vae.decode(x0.to(vae.dtype)).sample[:, :, :samples].float()
    return wav


def sample_rate(pipe: Any) -> int:
    return int(pipe.vae.config.sampling_rate)


def longest_s(pipe: Any) -> float:
    return float(pipe.duration_embedder.config.max_val)


ADAPTER = Adapter(
    network="transformer",
    x="hidden_states",
    halves="uncond, cond",
    text=(Text("encoder_hidden_states", mask="encoder_attention_mask", tail=1),),  # the duration
    rows=("timestep", "global_hidden_states"),
    shared=(),
    guided=guided_by_pipeline,
    encode=encode,
    decode=decode,
    distilled=lambda pipe: pipe.scheduler.config.stochastic_sampling,
    steps=lambda pipe: 8 if pipe.scheduler.config.stochastic_sampling else 100,
    sound=SoundSpec(sample_rate, "duration", longest_s),
)
