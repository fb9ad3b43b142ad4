"""ACE-Step: flow matching; the conditional half first, and guidance by projection (APG)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from anechoic.diffusers.adapters.adapter import (
    Adapter,
    CallRecorder,
    SoundSpec,
    Text,
    guided_by_pipeline,
    of_row,
)
from anechoic.guidance.step import classifier_free

REUSED = (
    "device", "audio_duration", "instruction", "bpm", "keyscale", "timesignature",
    "max_text_length", "max_lyric_length",
)  # fmt: skip


class AdaptiveProjected:
    """The pipeline's adaptive projected guidance (Sadat et al., 2024, arXiv:2410.02416).

    It pushes away from the unconditional estimate and has no meaning for a scale under 1, where
    guidance is held back: there it is the plain combination, and at 1 both are the conditional
    estimate.
    """

    def __init__(self) -> None:
        from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer

        self.momentum = MomentumBuffer(momentum=-0.75)

    def __call__(self, uncond: Tensor, cond: Tensor, scale: Tensor | float) -> Tensor:
        from diffusers.guiders.adaptive_projected_guidance import normalized_guidance

        projected = normalized_guidance(
            pred_cond=cond,
            pred_uncond=uncond,
            guidance_scale=scale - 1.0,
            momentum_buffer=self.momentum,
            eta=0.0,
            norm_threshold=2.5,
            use_original_formulation=True,
            norm_dim=(1,),
        )
        if isinstance(scale, float):
            return projected if scale > 1 else classifier_free(uncond, cond, scale)
        return torch.where(scale > 1, projected, classifier_free(uncond, cond, scale))


def encode(recorder: CallRecorder, texts: Sequence[str], rows: Sequence[int]) -> dict[str, Tensor]:
    """The captions with the lyrics, the language and the timbre of their own samples."""
    asked, timbre = recorder.calls["encode_prompt"], recorder.calls["condition_encoder"]
    text, text_mask, lyrics, lyrics_mask = recorder.call_again(
        "encode_prompt",
        REUSED,
        prompt=list(texts),
        lyrics=[of_row(asked["lyrics"], row) for row in rows],
        vocal_language=[of_row(asked["vocal_language"], row) for row in rows],
    )
    encoded, _ = recorder.pipe.condition_encoder(
        text_hidden_states=text,
        text_attention_mask=text_mask,
        lyric_hidden_states=lyrics,
        lyric_attention_mask=lyrics_mask,
        refer_audio_acoustic_hidden_states_packed=timbre[
            "refer_audio_acoustic_hidden_states_packed"
        ][list(rows)],
        refer_audio_order_mask=torch.arange(len(rows), device=text.device),
    )
    return {"encoder_hidden_states": encoded}


def decode(recorder: CallRecorder, x0: Tensor) -> Tensor:
    # without the pipeline's last change of level, which no embedder hears
    vae = recorder.pipe.vae
    wav: Tensor = vae.decode(x0.to(vae.dtype).transpose(1, 2)).sample.float()
    return wav


def refusal(recorder: CallRecorder) -> str | None:
    asked = recorder.calls["check_inputs"]
    if (asked["cfg_interval_start"], asked["cfg_interval_end"]) != (0.0, 1.0):
        return (
            "cfg_interval_start and cfg_interval_end switch the guidance off in a part of the "
            "schedule; call the pipeline without them and guard it with Interval or During"
        )
    if asked["audio_cover_strength"] < 1.0 and asked["task_type"] == "cover":
        return (
            "audio_cover_strength under 1 blends a second evaluation of the network in, which a "
            "guard does not see; leave it at 1"
        )
    return None


def sample_rate(pipe: Any) -> int:
    return int(pipe.sample_rate)


def longest_s(pipe: Any) -> float:
    return float(pipe.condition_encoder.silence_latent.shape[1] / pipe.latents_per_second)


ADAPTER = Adapter(
    network="transformer",
    x="hidden_states",
    halves="cond, uncond",
    text=(Text("encoder_hidden_states", repeated=True),),
    rows=("timestep", "timestep_r", "context_latents"),
    shared=(),
    guided=guided_by_pipeline,
    encode=encode,
    decode=decode,
    distilled=lambda pipe: pipe.is_turbo,
    sound=SoundSpec(sample_rate, "audio_duration", longest_s),
    refusal=refusal,
    combine=AdaptiveProjected,
    records=("condition_encoder",),
)
