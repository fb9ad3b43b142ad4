"""Stable Diffusion 1 and 2."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from anechoic.diffusers.adapters.adapter import Adapter, CallRecorder, Text, as_image


def encode(recorder: CallRecorder, texts: Sequence[str], rows: Sequence[int]) -> dict[str, Tensor]:
    return {"encoder_hidden_states": encoded(recorder, texts)[0]}


def encoded(recorder: CallRecorder, texts: Sequence[str]) -> Sequence[Tensor]:
    """What the pipeline makes of texts: tokens first, and after them what its class adds."""
    made: Sequence[Tensor] = recorder.call_again(
        "encode_prompt",
        ("device", "lora_scale", "clip_skip"),
        prompt=list(texts),
        num_images_per_prompt=1,
        do_classifier_free_guidance=False,
    )
    return made


def decode(recorder: CallRecorder, x0: Tensor) -> Tensor:
    vae = recorder.pipe.vae
    return as_image(vae.decode(x0.to(vae.dtype) / vae.config.scaling_factor).sample)


def refusal(recorder: CallRecorder) -> str | None:
    if (rescale := recorder.pipe.guidance_rescale) > 0:
        return (
            f"guidance_rescale is {rescale:g}, which the pipeline would apply "
            "after the guidance and which a guard would undo; call the pipeline without it"
        )
    return None


ADAPTER = Adapter(
    network="unet",
    x="sample",
    halves="uncond, cond",
    text=(Text("encoder_hidden_states"),),
    rows=("timestep_cond",),
    shared=("timestep",),
    encode=encode,
    decode=decode,
    distilled=lambda pipe: pipe.unet.config.time_cond_proj_dim is not None,
    refusal=refusal,
)
