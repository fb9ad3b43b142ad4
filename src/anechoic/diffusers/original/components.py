"""What diffusers' classes can express of a model of stable-audio-tools, and its components in them.

The architecture is that of Stable Audio Open 1.0, in any size. Any other is refused, by the entry
of model_config.json.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from anechoic.diffusers.folder import quietly, reason
from anechoic.errors import UnsupportedPipeline

CONDITIONED = ["prompt", "seconds_start", "seconds_total"]
CODEC, NETWORK = "model.pretransform.config.", "model.diffusion.config."
SECONDS = "model.conditioning.seconds_"

# entries of model_config.json with the one value that diffusers' classes have; None beside it
# where stable-audio-tools takes it by default
FIXED: dict[str, tuple[Any, ...]] = {
    "model_type": ("diffusion_cond",),
    "model.pretransform.type": ("autoencoder",),
    "model.pretransform.scale": (1, None),
    f"{CODEC}bottleneck.type": ("vae",),
    **{f"{CODEC}{side}.type": ("oobleck",) for side in ("encoder", "decoder")},
    **{f"{CODEC}{side}.config.use_snake": (True,) for side in ("encoder", "decoder")},
    f"{CODEC}decoder.config.final_tanh": (False,),
    "model.conditioning.prompt.type": ("t5",),
    "model.conditioning.prompt.config.padding_mode": ("zero", None),
    **{f"{SECONDS}{end}.type": ("number",) for end in ("start", "total")},
    "model.diffusion.type": ("dit",),
    "model.diffusion.diffusion_objective": ("v", None),
    "model.diffusion.cross_attention_cond_ids": (CONDITIONED,),
    "model.diffusion.global_cond_ids": (CONDITIONED[1:],),
    **{f"{NETWORK}{entry}": (value, None) for entry, value in {
        "project_global_cond": True, "transformer_type": "continuous_transformer",
        "patch_size": 1, "global_cond_type": "prepend", "timestep_cond_type": "global",
        "timestep_features_type": "learned", "attn_kwargs.qk_norm": "none",
        "norm_type": "layer_norm", "rotary_pos_emb": True, "final_cross_attn_ix": -1,
    }.items()},
}  # fmt: skip
# how the names of sizes end, and of what does not change the sound
COUNTS = {
    *("channels", "latent_dim", "in_channels", "out_channels", "io_channels", "cond_dim"),
    *("downsampling_ratio", "embed_dim", "depth", "num_heads", "cond_token_dim"),
    *("global_cond_dim", "timestep_features_dim", "max_length", "sample_size", "sample_rate"),
}
FREE = COUNTS | {
    *("c_mults", "strides", "project_cond_tokens", "min_val", "max_val", "t5_model_name"),
    *("model_path", "project_out", "requires_grad", "enable_grad", "iterate_batch", "chunked"),
    *("model_half", "qk_norm_eps", "zero_init_branch_outputs", "default_keys"),
    *("distribution_shift_options", "sampling_distribution_shift_options"),
}
PLAIN: tuple[Any, ...] = (None, False, 0, "", [])  # of an option that is not chosen


def components(config: Mapping[str, Any], text_width: int) -> dict[str, Any]:
    """diffusers' components of a model, without numbers (on the meta device), by name.

    Args:
        config: the content of a model_config.json.
        text_width: numbers for each token that its text encoder gives.

    Raises:
        UnsupportedPipeline: diffusers' StableAudioPipeline cannot express it; the sentence names
            the first entry.
    """
    given = dict(_entries(config))
    for name, value in given.items():
        is_count = type(value) is int and 0 < value < 2**31
        if name.rpartition(".")[2] in COUNTS and not is_count:
            raise _refused(name, value, "a whole number from 1 on")
    inside = (name for name in given if name.startswith("model."))
    expected = {name: PLAIN for name in inside if FREE.isdisjoint(name.split("."))} | FIXED
    for name, allowed in expected.items():
        if given.get(name) not in allowed:
            raise _refused(name, given.get(name), repr(allowed[0]))
    try:
        return _built(given, text_width)
    except (LookupError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise UnsupportedPipeline(
            f"model_config.json is not that of a whole model ({type(error).__name__}: "
            f"{reason(error)}); give the one that the checkpoint was trained with"
        ) from error


def _built(given: Mapping[str, Any], text_width: int) -> dict[str, Any]:
    from diffusers import AutoencoderOobleck, StableAudioDiTModel, StableAudioProjectionModel

    def of(where: str, *entries: str) -> list[Any]:
        return [given[f"{where}{entry}"] for entry in entries]

    heads, embed, tokens = of(NETWORK, "num_heads", "embed_dim", "cond_token_dim")
    width = max(64, embed // heads)  # of a head; rotary positions take 64 at least
    context = embed if given.get(f"{NETWORK}project_cond_tokens", True) else tokens
    channels, strides, multiples = of(f"{CODEC}encoder.config.", "channels", "strides", "c_mults")
    seconds = of(f"{SECONDS}start.config.", "min_val", "max_val")
    for name, value in (
        (f"{CODEC}encoder.config.latent_dim", channels),  # diffusers has one number for both
        (f"{SECONDS}total.config.min_val", seconds[0]),  # and one range for both
        (f"{SECONDS}total.config.max_val", seconds[1]),
        (f"{NETWORK}embed_dim", heads * width),
        (f"{NETWORK}cond_token_dim", tokens - context % width),  # of whole heads
    ):
        if given[name] != value:
            raise _refused(name, given[name], repr(value))
    with quietly(), torch.device("meta"):
        network = StableAudioDiTModel(
            sample_size=given["sample_size"] // math.prod(strides),
            in_channels=given["model.io_channels"],
            out_channels=given["model.io_channels"],
            num_layers=given[f"{NETWORK}depth"],
            attention_head_dim=width,
            num_attention_heads=heads,
            num_key_value_attention_heads=context // width,
            cross_attention_dim=context,
            cross_attention_input_dim=tokens,
            time_proj_dim=given.get(f"{NETWORK}timestep_features_dim", 256),
            global_states_input_dim=given[f"{NETWORK}global_cond_dim"],
        )
        codec = AutoencoderOobleck(
            encoder_hidden_size=channels,
            downsampling_ratios=strides,
            channel_multiples=multiples,
            decoder_channels=given[f"{CODEC}decoder.config.channels"],
            decoder_input_channels=given[f"{CODEC}latent_dim"],
            audio_channels=given[f"{CODEC}io_channels"],
            sampling_rate=given["sample_rate"],
        )
        width = given["model.conditioning.cond_dim"]
        projection = StableAudioProjectionModel(text_width, width, *seconds)
    return {"transformer": network, "vae": codec, "projection_model": projection}


def _entries(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Each entry by its path; those of a conditioner by its id."""
    if name == "model.conditioning.configs" and isinstance(value, list):
        name = "model.conditioning"
        conditioners = [one for one in value if isinstance(one, Mapping)]
        value = {str(one.get("id")): {**one, "id": None} for one in conditioners}
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _entries(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _refused(name: str, value: Any, expected: str) -> UnsupportedPipeline:
    return UnsupportedPipeline(
        f"diffusers' StableAudioPipeline cannot express this model: expected {expected} for "
        f"'{name}' in model_config.json, got {value!r}; use a model of Stable Audio Open 1.0's kind"
    )
