"""AudioLDM 2: CLAP and T5 tokens, and eight that a language model makes of both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from anechoic.diffusers.adapters.adapter import Adapter, CallRecorder, SoundSpec, Text, of_row


def encode(recorder: CallRecorder, texts: Sequence[str], rows: Sequence[int]) -> dict[str, Tensor]:
    said = recorder.calls["encode_prompt"]["transcription"]  # the words of a speech model stay
    tokens, mask, generated = recorder.call_again(
        "encode_prompt",
        ("device", "max_new_tokens"),
        prompt=list(texts),
        num_waveforms_per_prompt=1,
        do_classifier_free_guidance=False,
        transcription=None if said is None else [of_row(said, row) for row in rows],
    )
    return {
        "encoder_hidden_states": generated,
        "encoder_hidden_states_1": tokens,
        "encoder_attention_mask_1": mask,
    }


def decode(recorder: CallRecorder, x0: Tensor) -> Tensor:
    pipe, asked = recorder.pipe, recorder.calls["check_inputs"]
    mel = pipe.vae.decode(x0.to(pipe.vae.dtype) / pipe.vae.config.scaling_factor).sample
    wav: Tensor = pipe.vocoder(mel.squeeze(1)).float()
    return wav[:, None, : int(asked["audio_length_in_s"] * sample_rate(pipe))]


def refusal(recorder: CallRecorder) -> str | None:
    if not hasattr(recorder.pipe.language_model, "_update_model_kwargs_for_generation"):
        return (
            "its language model is a bare GPT2Model, which cannot generate with transformers 5; "
            "load the pipeline with language_model=GPT2LMHeadModel.from_pretrained(model, "
            "subfolder='language_model')"
        )
    return None


def sample_rate(pipe: Any) -> int:
    return int(pipe.vocoder.config.sampling_rate)


def longest_s(pipe: Any) -> float:
    """What it makes by default: longer is possible, but not what it was trained on."""
    hop = math.prod(pipe.vocoder.config.upsample_rates)
    return float(pipe.unet.config.sample_size * pipe.vae_scale_factor * hop / sample_rate(pipe))


ADAPTER = Adapter(
    network="unet",
    x="sample",
    halves="uncond, cond",
    text=(
        Text("encoder_hidden_states"),
        Text("encoder_hidden_states_1", mask="encoder_attention_mask_1", padded=True),
    ),
    rows=(),
    shared=("timestep",),
    encode=encode,
    decode=decode,
    refusal=refusal,
    sound=SoundSpec(sample_rate, "audio_length_in_s", longest_s),
)
