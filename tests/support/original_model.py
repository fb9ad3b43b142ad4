"""A tiny model of stable-audio-tools, of Stable Audio Open's architecture, and what it sounds like.

Its weights follow from their names and shapes, so that they need not be stored. The names, the
shapes and a sound are the original code's: `scripts/original_reference.py` made
tests/data/original_reference.safetensors where stable-audio-tools 0.0.20 is installed.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from support.pipelines import t5_encoder, words

REFERENCE = Path(__file__).parents[1] / "data/original_reference.safetensors"
CAPTION, SECONDS, STEPS, SCALE = "low cello note", 0.25, 8, 5.0
RATE, HOP, LATENT, WORDS = 4000, 16, 8, 12
SIGMAS = (0.3, 500.0)  # of the published model's scheduler in diffusers


def config(text_width: int = 64) -> dict[str, Any]:
    """The content of its model_config.json."""
    strides = {"c_mults": [1, 2], "strides": [2, 8], "use_snake": True}
    number = {"type": "number", "config": {"min_val": 0, "max_val": 8}}
    return {
        "model_type": "diffusion_cond",
        "sample_size": 1024,
        "sample_rate": RATE,
        "audio_channels": 2,
        "model": {
            "io_channels": LATENT,
            "pretransform": {
                "type": "autoencoder",
                "iterate_batch": True,
                "config": {
                    "encoder": {
                        "type": "oobleck",
                        "requires_grad": False,
                        "config": {"in_channels": 2, "channels": 16, "latent_dim": 16, **strides},
                    },
                    "decoder": {
                        "type": "oobleck",
                        "config": {"out_channels": 2, "channels": 4, "latent_dim": LATENT,
                                   "final_tanh": False, **strides},
                    },
                    "bottleneck": {"type": "vae"},
                    "latent_dim": LATENT,
                    "downsampling_ratio": HOP,
                    "io_channels": 2,
                },
            },
            "conditioning": {
                "configs": [
                    {"id": "prompt", "type": "t5",
                     "config": {"t5_model_name": "t5-small", "max_length": WORDS}},
                    {"id": "seconds_start", **number},
                    {"id": "seconds_total", **copy.deepcopy(number)},
                ],
                "cond_dim": text_width,
            },
            "diffusion": {
                "type": "dit",
                "cross_attention_cond_ids": ["prompt", "seconds_start", "seconds_total"],
                "global_cond_ids": ["seconds_start", "seconds_total"],
                "config": {
                    "io_channels": LATENT, "embed_dim": 64, "depth": 2, "num_heads": 1,
                    "cond_token_dim": text_width, "global_cond_dim": 2 * text_width,
                    "project_cond_tokens": False, "transformer_type": "continuous_transformer",
                },
            },
        },
        "training": {"use_ema": True},
    }  # fmt: skip


def weights(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """A weight for each name and shape, the same on each machine."""
    made = {}
    for name, shape in shapes.items():
        # the legacy generator of NumPy gives the same numbers in each version
        value = np.random.RandomState(crc32(name.encode())).standard_normal(shape)
        if name.endswith(("gamma", "weight_g")) or "norm.weight" in name:
            value = 1 + 0.1 * value
        elif name.endswith(("inv_freq", "timestep_features.weight", "0.weights")):
            value = value * 4
        elif len(shape) > 1:
            value = value / math.sqrt(math.prod(shape[1:]))
        else:
            value = 0.1 * value
        made[name] = torch.from_numpy(np.asarray(value, np.float32)).reshape(tuple(shape))
    return made


def save_text_encoder(folder: Path, width: int = 64) -> Path:
    """A T5 encoder and its tokenizer."""
    encoder = t5_encoder(width)
    shapes = {name: tuple(value.shape) for name, value in encoder.state_dict().items()}
    # the original code holds it in half precision: these numbers are the same there
    encoder.load_state_dict({name: value.half() for name, value in weights(shapes).items()})
    encoder.save_pretrained(folder)
    words().save_pretrained(folder)
    return folder


@cache
def reference() -> tuple[dict[str, Tensor], dict[str, str]]:
    """The stored tensors, and what is said of them."""
    from safetensors import safe_open

    with safe_open(REFERENCE, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def reference_state() -> dict[str, Tensor]:
    """The model's weights, as the original code names them."""
    tensors, about = reference()
    made = weights(json.loads(about["shapes"]))
    rotary = "model.model.transformer.rotary_pos_emb.inv_freq"
    return made | {rotary: tensors[rotary]}


def save_checkpoint(
    folder: Path, *, state: Mapping[str, Tensor] = {}, text_width: int = 64, **changes: Any
) -> Path:
    """A folder as stable-audio-tools exports one, and its text encoder beside it.

    Args:
        folder: to make.
        state: weights in place of the reference's, or more of them.
        text_width: of its text encoder.
        changes: entries of model_config.json by path, with __ for a dot.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    content = config()
    text = save_text_encoder(folder.parent / "t5", text_width)
    change(content, model__conditioning__configs__0__config__model_path=str(text), **changes)
    (folder / "model_config.json").write_text(json.dumps(content))
    save_file(reference_state() | dict(state), folder / "model.safetensors")
    return folder


def change(content: Any, **changes: Any) -> None:
    """Set entries by path, with __ for a dot."""
    for path, value in changes.items():
        *outer, last = (int(name) if name.isdecimal() else name for name in path.split("__"))
        inner = content
        for name in outer:
            inner = inner[name] if isinstance(inner, list) else inner.setdefault(name, {})
        inner[last] = value
