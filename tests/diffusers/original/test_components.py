"""What diffusers' classes cannot express of a model is refused, by the entry that says it."""

from __future__ import annotations

from inspect import signature
from typing import Any

import pytest
from support import original_model as tiny

from anechoic.diffusers.original.components import components
from anechoic.errors import UnsupportedPipeline

NET, CODEC = "model__diffusion__config__", "model__pretransform__config__"
PROMPT = "model__conditioning__configs__0__"
UNLIKE: dict[str, tuple[str, Any, str, str]] = {
    "of sound alone": ("model_type", "diffusion_uncond", "model_type", "'diffusion_cond'"),
    "inpainting": ("model_type", "diffusion_cond_inpaint", "model_type", "'diffusion_cond'"),
    "rectified flow": ("model__diffusion__diffusion_objective", "rectified_flow",
                       "model.diffusion.diffusion_objective", "'v'"),
    "a U-Net": ("model__diffusion__type", "adp_1d", "model.diffusion.type", "'dit'"),
    "norms of queries and keys": (f"{NET}attn_kwargs", {"qk_norm": "ln"},
                                  "model.diffusion.config.attn_kwargs.qk_norm", "'none'"),
    "differential attention": (f"{NET}attn_kwargs", {"differential": True},
                               "model.diffusion.config.attn_kwargs.differential", "None"),
    "adaptive norms": (f"{NET}global_cond_type", "adaLN",
                       "model.diffusion.config.global_cond_type", "'prepend'"),
    "patches": (f"{NET}patch_size", 2, "model.diffusion.config.patch_size", "1"),
    "memory": (f"{NET}num_memory_tokens", 64, "model.diffusion.config.num_memory_tokens", "None"),
    "an option of the future": (f"{NET}sparkle", "much", "model.diffusion.config.sparkle", "None"),
    "narrow heads": (f"{NET}num_heads", 2, "model.diffusion.config.embed_dim", "128"),
    "half a head of context": (f"{NET}cond_token_dim", 96,
                               "model.diffusion.config.cond_token_dim", "64"),
    "inpainting's inputs": ("model__diffusion__input_concat_ids", ["inpaint_mask"],
                            "model.diffusion.input_concat_ids", "None"),
    "seconds alone": ("model__diffusion__global_cond_ids", ["seconds_total"],
                      "model.diffusion.global_cond_ids", "['seconds_start', 'seconds_total']"),
    "captions by CLAP": (f"{PROMPT}type", "clap_text", "model.conditioning.prompt.type", "'t5'"),
    "a padding that was learned": (f"{PROMPT}config__padding_mode", "learned",
                                   "model.conditioning.prompt.config.padding_mode", "'zero'"),
    "two ranges of seconds": ("model__conditioning__configs__2__config__max_val", 9,
                              "model.conditioning.seconds_total.config.max_val", "8"),
    "another encoder width": (f"{CODEC}encoder__config__channels", 32,
                              "model.pretransform.config.encoder.config.latent_dim", "32"),
    "a codec that clips": (f"{CODEC}decoder__config__final_tanh", True,
                           "model.pretransform.config.decoder.config.final_tanh", "False"),
    "another activation": (f"{CODEC}encoder__config__use_snake", False,
                           "model.pretransform.config.encoder.config.use_snake", "True"),
    "another codec": (f"{CODEC}encoder__type", "dac",
                      "model.pretransform.config.encoder.type", "'oobleck'"),
    "scaled latents": ("model__pretransform__scale", 2.0, "model.pretransform.scale", "1"),
    "a quantizer": (f"{CODEC}bottleneck__type", "rvq",
                    "model.pretransform.config.bottleneck.type", "'vae'"),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNLIKE)
def test_a_model_of_another_kind_is_refused_by_its_entry(kind: str) -> None:
    path, value, entry, expected = UNLIKE[kind]
    content = tiny.config()
    tiny.change(content, **{path: value})
    with pytest.raises(UnsupportedPipeline) as error:
        components(content, 64)
    assert str(error.value).startswith(
        "diffusers' StableAudioPipeline cannot express this model: expected "
        f"{expected} for '{entry}' in model_config.json, got "
    )


@pytest.mark.parametrize("value", [None, "many", -1, 0, True, ["2"], {}])
@pytest.mark.parametrize(
    "path",
    [f"{NET}embed_dim", f"{NET}depth", f"{CODEC}encoder__config__strides", "sample_rate",
     f"{CODEC}latent_dim", "model__conditioning__cond_dim", "model__diffusion__config",
     f"{CODEC}encoder", "model__conditioning__configs", "model", f"{PROMPT}id"],
)  # fmt: skip
def test_a_damaged_entry_is_one_sentence(path: str, value: Any) -> None:
    content = tiny.config()
    tiny.change(content, **{path: value})
    with pytest.raises(UnsupportedPipeline, match=r"model_config\.json") as error:
        components(content, 64)
    assert "\n" not in str(error.value)


def test_entries_of_the_training_and_of_the_sampler_change_nothing() -> None:
    content = tiny.config()
    tiny.change(
        content,
        training__anything=[1],
        model__diffusion__distribution_shift_options={"type": "flux"},
        model__diffusion__config__attn_kwargs={"qk_norm": "none"},
        model__diffusion__config__num_memory_tokens=0,
        model__pretransform__model_half=True,
    )
    assert components(content, 64).keys() == {"transformer", "vae", "projection_model"}


def test_the_published_model_has_its_published_size() -> None:
    content = tiny.config(text_width=768)
    sizes = {"channels": 128, "c_mults": [1, 2, 4, 8, 16], "strides": [2, 4, 4, 8, 8]}
    codec = content["model"]["pretransform"]["config"]
    for side, width in (("encoder", 128), ("decoder", 64)):
        codec[side]["config"] |= {**sizes, "latent_dim": width}
    tiny.change(
        content,
        sample_size=2097152,
        model__io_channels=64,
        model__pretransform__config__latent_dim=64,
        model__diffusion__config__io_channels=64,
        model__diffusion__config__embed_dim=1536,
        model__diffusion__config__depth=24,
        model__diffusion__config__num_heads=24,
    )
    made = components(content, 768)
    published = signature(type(made["transformer"])).parameters
    defaults = {name: each.default for name, each in published.items()}
    assert {name: made["transformer"].config[name] for name in defaults} == defaults
    numbers = {name: sum(one.numel() for one in part.parameters()) for name, part in made.items()}
    assert (numbers["transformer"], numbers["vae"]) == (1_056_939_136, 156_112_514)
