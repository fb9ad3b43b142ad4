"""Stable Audio Open 1.0: the unconditional half attends to zeros, or to the negative prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from anechoic.diffusers.adapters.adapter import Adapter, CallRecorder, SoundSpec, Text


def encode(recorder: CallRecorder, texts: Sequence[str], rows: Sequence[int]) -> dict[str, Tensor]:
    encoded = recorder.call_again(
        "encode_prompt", ("device",), prompt=list(texts), do_classifier_free_guidance=False
    )
    return {"encoder_hidden_states": encoded}


def decode(recorder: CallRecorder, x0: Tensor) -> Tensor:
    """The requested seconds alone; by the codec's `preview`, if it has one."""
    vae, asked = recorder.pipe.vae, recorder.calls["check_inputs"]
    start, end = (
        int(asked[name] * vae.config.sampling_rate)
        for name in ("audio_start_in_s", "audio_end_in_s")
    )
    first, last = span(vae, start, end, x0.shape[-1])
    to_sound = getattr(vae, "preview", vae.decode)
    wav: Tensor = to_sound(x0[..., first:last].to(vae.dtype)).sample
    return wav[:, :, start - first * vae.hop_length : end - first * vae.hop_length].float()


def encode_sound(pipe: Any, wav: Tensor) -> Tensor:
    channels = pipe.vae.config.audio_channels
    if wav.shape[1] != channels:
        wav = wav.mean(1, keepdim=True).expand(-1, channels, -1)
    latents: Tensor = pipe.vae.encode(wav.to(pipe.vae.dtype)).latent_dist.mode()
    return latents.float()


def span(vae: Any, start: int, end: int, length: int) -> tuple[int, int]:
    """The latents that samples `start` to `end` are made of: all, where that is not known."""
    ratios = getattr(vae.config, "downsampling_ratios", [])
    if type(vae).__name__ != "AutoencoderOobleck" or any(ratio % 2 for ratio in ratios):
        return 0, length  # an odd ratio moves the sound by a sample
    reach, hop = reach_of(ratios), vae.hop_length
    return max(start // hop - reach, 0), min(-(-end // hop) + reach, length)


def reach_of(ratios: Sequence[int]) -> int:
    """How many latents to each side of its own a sample of the Oobleck decoder depends on.

    From the sound back: a convolution of 7, then for each ratio r three residual units (7 wide,
    dilated by 1, 3 and 9) and a transposed convolution of 2r with stride r, a convolution of 7.

    >>> reach_of([2, 4, 4, 8, 8])
    10
    """
    reach = 3
    for ratio in ratios:  # of the encoder, whose first is the decoder's last
        reach = math.ceil((reach + 3 * (1 + 3 + 9)) / ratio) + 1
    return reach + 3


def sample_rate(pipe: Any) -> int:
    return int(pipe.vae.config.sampling_rate)


def longest_s(pipe: Any) -> float:
    samples = pipe.transformer.config.sample_size * pipe.vae.hop_length
    return float(min(samples / sample_rate(pipe), pipe.projection_model.config.max_value))


ADAPTER = Adapter(
    network="transformer",
    x="hidden_states",
    halves="uncond, cond",
    text=(Text("encoder_hidden_states", tail=2),),  # the sample's own start and end in seconds
    rows=("global_hidden_states",),
    shared=("timestep", "rotary_embedding"),
    encode=encode,
    decode=decode,
    # by default it makes the whole window, and refuses one that its conditioner cannot express
    sound=SoundSpec(sample_rate, "audio_end_in_s", longest_s, encode_sound, named=True),
)
