"""Checkpoints of stable-audio-tools, in which Stable Audio is trained: found, and read as data.

Nothing in a file is run: safetensors holds tensors alone, and a pickle is read by torch's reader
that knows tensors and plain containers, and nothing else.
"""

from __future__ import annotations

import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anechoic.diffusers.folder import reason
from anechoic.errors import UnsupportedPipeline
from anechoic.models import CHECKPOINTS
from anechoic.parsing import parse_object, read_file

CONFIG = "model_config.json"
AVERAGE, TRAINED = "diffusion_ema.ema_model.", "diffusion."  # of a training checkpoint
AGAIN = "fetch or export it again"


@dataclass(frozen=True)
class Checkpoint:
    """A file of weights, and the configuration of the model that they belong to."""

    weights: Path
    config: Path


def find_checkpoint(place: Path, config: Path | None = None) -> Checkpoint | None:
    """The checkpoint at a place; None: there is none.

    Args:
        place: a file of weights, or a folder that holds one and its model_config.json.
        config: the model_config.json, if it is not beside the weights.

    Raises:
        UnsupportedPipeline: only a part of it is there, or more than one.
    """
    weights = place
    if place.is_dir():
        if config is None and not (place / CONFIG).is_file():
            return None
        files = sorted(one for one in place.iterdir() if one.suffix in CHECKPOINTS)
        named = [one for one in files if one.stem == "model"]  # the published name, both formats
        if not files or (len(files) > 1 and not named):
            held = ", ".join(one.name for one in files) or "no weights"
            raise UnsupportedPipeline(
                f"'{place}' holds the {CONFIG} of stable-audio-tools and {held}; expected one "
                "file, .safetensors or .ckpt: give its name"
            )
        weights = (named or files)[-1]  # model.safetensors before model.ckpt
    elif weights.suffix not in CHECKPOINTS or not weights.is_file():
        return None
    config = config or weights.with_name(CONFIG)
    if not config.is_file():
        raise UnsupportedPipeline(
            f"'{weights}' needs the {CONFIG} that it was trained with, and '{config}' does not "
            "exist; put it there, or name it with 'anechoic convert --config'"
        )
    return Checkpoint(weights, config)


def read_config(file: Path) -> dict[str, Any]:
    """The content of a model_config.json.

    Raises:
        UnsupportedPipeline: it is damaged, or not such a file.
    """
    content = read_file(file, CONFIG, UnsupportedPipeline)
    return parse_object(content, f"'{file}'", UnsupportedPipeline)


def read_weights(file: Path) -> dict[str, Tensor]:
    """The weights of a model by name, as stable-audio-tools exports them.

    Of a training checkpoint, these are the averaged ones where it has them, as `unwrap_model.py`
    of stable-audio-tools takes them.

    Raises:
        UnsupportedPipeline: not such a file, damaged, with code inside, or an adapter alone.
    """
    content: Any = read_tensors(file) if file.suffix == ".safetensors" else _unpickled(file)
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not all(isinstance(one, Tensor) for one in state.values()):
        raise UnsupportedPipeline(f"'{file}' holds no weights by name; give a model's checkpoint")
    if any(".parametrizations." in name for name in state):
        raise UnsupportedPipeline(
            f"'{file}' holds an adapter (LoRA) and not the model; give the model's checkpoint, and "
            "this file as '--lora'"
        )
    if not any(name.startswith((AVERAGE, TRAINED)) for name in state):
        return state
    own = {name.removeprefix(TRAINED): v for name, v in state.items() if name.startswith(TRAINED)}
    averaged = {
        f"model.{name.removeprefix(AVERAGE)}": value
        for name, value in state.items()
        if name.startswith(AVERAGE)  # of the network alone
    }
    return own | averaged


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The content of a safetensors file.

    Raises:
        UnsupportedPipeline: it is not one, or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except SafetensorError as error:
        raise UnsupportedPipeline(
            f"'{file}' is no safetensors file, or damaged ({reason(error)}); {AGAIN}"
        ) from error


def _unpickled(file: Path) -> Any:
    try:
        if not zipfile.is_zipfile(file):  # as torch writes them since 1.6
            raise ValueError("not a zip archive")
        return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise UnsupportedPipeline(
            f"'{file}' holds more than weights, and reading that could run code; where you trust "
            "it, export it with 'unwrap_model.py --use-safetensors' of stable-audio-tools, and "
            "give that file"
        ) from error
    except (RuntimeError, EOFError, ValueError, LookupError, OSError) as error:
        raise UnsupportedPipeline(
            f"'{file}' is no checkpoint of torch, or damaged ({reason(error)}); {AGAIN}"
        ) from error
