"""Tiny models of stable-audio-tools, as it is installed, or of the stand-in, and calls of them."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch

from support import stand_in

CAPTIONS = ("low cello note", "a dog barks")
ALL_CAPTIONS = [*CAPTIONS, "high flute note", "rain on the roof"]
INSTALLED = importlib.util.find_spec("stable_audio_tools") is not None
ASKED = ("clip", "cleanfid.inception_torchscript", "dctorch.functional", "jsonmerge", "kornia",
         "skimage", "torchdiffeq", "torchvision.transforms.functional")  # fmt: skip
MISSING = "stable-audio-tools is not installed: make test-engines"


@dataclass(frozen=True)
class Library:
    make: Callable[..., Any]  # a model: of an objective, a seed
    samplers: Callable[[str], list[str]]  # that an objective has
    rate: int
    installed: bool

    def call(self, model: Any, **settings: Any) -> torch.Tensor:
        """generate_diffusion_cond, in silence."""
        generate = model.generate  # which is it with the model as its first argument
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            return generate(**{"device": "cpu", "sample_size": 2 * self.rate, **settings})

    def generate(self, model, captions=CAPTIONS, sampler=None, seconds=1.0, **settings):
        """Sound [b, c, t] of captions, from the noise of a seed."""
        settings = {"steps": 4, "cfg_scale": 5.0, "seed": 3, **settings}
        return self.call(
            model,
            conditioning=rows(captions, seconds),
            batch_size=len(captions),
            sampler_type=sampler or self.samplers(model.diffusion_objective)[0],
            **settings,
        )


def rows(captions, seconds=1.0):
    """The conditioning of captions, of one length or of one for each."""
    lengths = seconds if isinstance(seconds, list) else [seconds] * len(captions)
    return [
        {"prompt": caption, "seconds_start": 0, "seconds_total": length}
        for caption, length in zip(captions, lengths, strict=True)
    ]


@cache
def tiny_t5(width: int = 64) -> str:
    """A folder with a random text encoder that has a token for each word of the captions."""
    from anechoic_lab.demo.model import make_tokenizer
    from transformers import T5Config, T5EncoderModel

    folder = tempfile.mkdtemp()
    tokenizer = make_tokenizer(ALL_CAPTIONS)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(11)
    settings = T5Config(
        vocab_size=len(tokenizer), d_model=width, d_kv=4, d_ff=16, num_layers=1, num_heads=2,
        pad_token_id=0, eos_token_id=1, dropout_rate=0.0,
    )  # fmt: skip
    T5EncoderModel(settings).save_pretrained(folder)
    return folder


def installed_config(objective: str, text: str) -> dict[str, Any]:
    """Like Stable Audio Open 1.0 (v), or like Small (a flow, one duration alone)."""
    number, width = {"min_val": 0, "max_val": 8}, 64
    codec = {"channels": 4, "c_mults": [1, 2], "strides": [2, 4], "use_snake": True}
    seconds = ["seconds_start", "seconds_total"] if objective == "v" else ["seconds_total"]
    encoded = {"t5_model_name": text, "max_length": 12}
    transformer = {
        "io_channels": 3, "embed_dim": 64, "depth": 2, "num_heads": 1, "cond_token_dim": width,
        "global_cond_dim": width * len(seconds), "project_cond_tokens": False,
        "transformer_type": "continuous_transformer",
        "attn_kwargs": {} if objective == "v" else {"qk_norm": "ln"},
    }  # fmt: skip
    autoencoder = {
        "encoder": {"type": "oobleck",
                    "config": {**codec, "channels": 6, "in_channels": 2, "latent_dim": 6}},
        "decoder": {"type": "oobleck",
                    "config": {**codec, "out_channels": 2, "latent_dim": 3, "final_tanh": False}},
        "bottleneck": {"type": "vae"}, "latent_dim": 3, "downsampling_ratio": 8, "io_channels": 2,
    }  # fmt: skip
    conditioners = [{"id": "prompt", "type": "t5", "config": encoded}]
    conditioners += [{"id": name, "type": "number", "config": number} for name in seconds]
    return {
        "model_type": "diffusion_cond", "sample_size": 4096, "sample_rate": 2048,
        "audio_channels": 2,
        "model": {
            "io_channels": 3,
            "pretransform": {"type": "autoencoder", "iterate_batch": True, "config": autoencoder},
            "conditioning": {"configs": conditioners, "cond_dim": width},
            "diffusion": {
                "type": "dit", "diffusion_objective": objective, "config": transformer,
                "cross_attention_cond_ids": ["prompt", *seconds], "global_cond_ids": seconds,
            },
        },
    }  # fmt: skip


def make_installed(
    objective: str = "v", seed: int = 0, *, inpaints: bool = False, **changes: Any
) -> Any:
    """A tiny random model; `changes` are settings of its transformer."""
    _import_k_diffusion()
    from stable_audio_tools.models import create_model_from_config
    from stable_audio_tools.models.conditioners import T5Conditioner

    text = tiny_t5()
    T5Conditioner.T5_MODELS = [text]
    T5Conditioner.T5_MODEL_DIMS = {text: 64}
    config = installed_config(objective, text)
    diffusion = config["model"]["diffusion"]
    if inpaints:
        config["model_type"] = "diffusion_cond_inpaint"
        diffusion["input_concat_ids"] = ["inpaint_mask", "inpaint_masked_input"]
        changes["input_concat_dim"] = 1 + diffusion["config"]["io_channels"]
    diffusion["config"] |= changes
    torch.manual_seed(seed)
    model = create_model_from_config(config).eval()
    model.conditioner.conditioners["prompt"].model.float()  # half precision sums in any order
    with torch.no_grad():
        for weight in model.model.parameters():
            if not weight.any():  # the output starts at zero, where every prompt is the same
                weight.normal_(std=0.3)
    return model


def _import_k_diffusion() -> None:
    """0.0.19 imports all of k-diffusion for its samplers; what the rest asks for is absent."""
    if "k_diffusion" in sys.modules or importlib.util.find_spec("k_diffusion") is None:
        return
    absent = [name for name in ASKED if importlib.util.find_spec(name.split(".")[0]) is None]
    parts = [".".join(name.split(".")[:end]) for name in absent for end in (1, 2, 3)]
    stubs = {name: MagicMock(__spec__=None) for name in parts}
    sys.modules.update(stubs)
    importlib.import_module("k_diffusion")
    for name in stubs:
        del sys.modules[name]


def installed_samplers(objective: str) -> list[str]:
    if objective != "v":
        return ["euler", "rk4", "dpmpp", "pingpong"]
    return [
        "dpmpp-2m", "dpmpp-2m-sde", "dpmpp-3m-sde", "k-heun", "k-lms", "k-dpm-2", "k-dpm-fast",
        "k-dpm-adaptive", "k-dpmpp-2s-ancestral", "v-ddim", "v-ddim-cfgpp",
    ]  # fmt: skip


LIBRARIES = {
    "stand-in": Library(stand_in.make, stand_in.samplers, stand_in.RATE, False),
    "installed": Library(make_installed, installed_samplers, 2048, True),
}
BOTH = [
    "stand-in",
    pytest.param(
        "installed",
        marks=[pytest.mark.engines, pytest.mark.skipif(not INSTALLED, reason=MISSING)],
    ),
]
