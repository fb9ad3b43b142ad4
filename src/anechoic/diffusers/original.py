"""Checkpoints of stable-audio-tools, in which Stable Audio is trained: told apart, not loaded.

diffusers 0.42.1 reads none: its single-file loaders have no Stable Audio. It has a script that
converts them, outside of the package; docs/how-to/stable-audio-open.md shows how it is run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anechoic.errors import UnsupportedPipeline
from anechoic.parsing import parse_object

CONFIG = "model_config.json"
CONDITIONERS = {"prompt": "t5", "seconds_start": "number", "seconds_total": "number"}


def original_checkpoint(folder: Path) -> str | None:
    """What to do with a folder that holds a checkpoint of stable-audio-tools; None: it holds none.

    Args:
        folder: with model_config.json, and without the model_index.json of a diffusers pipeline.
    """
    weights = sorted(
        path.name for kind in ("*.ckpt", "*.safetensors") for path in folder.glob(kind)
    )
    try:
        config = parse_object((folder / CONFIG).read_bytes(), CONFIG, UnsupportedPipeline)
    except (OSError, UnsupportedPipeline):
        return None
    if "model_type" not in config:
        return None
    held = f"'{folder}' holds a checkpoint of stable-audio-tools ({', '.join([CONFIG, *weights])})"
    if not weights:
        return f"{held} without its weights; fetch model.safetensors or model.ckpt, too"
    if reason := _unconvertible(config):
        return (
            f"{held}, and {reason}, which diffusers has no pipeline for; use a model of Stable "
            "Audio Open's kind"
        )
    return (
        f"{held}, which diffusers does not load; convert it with diffusers' script "
        "convert_stable_audio.py, as docs/how-to/stable-audio-open.md shows, and give the folder "
        "it writes"
    )


def _unconvertible(config: dict[str, Any]) -> str | None:
    """Why diffusers' script cannot convert it, or None."""
    if config["model_type"] != "diffusion_cond":
        return f"it is of type {config['model_type']!r}, not 'diffusion_cond'"
    try:
        conditioners = {c["id"]: c["type"] for c in config["model"]["conditioning"]["configs"]}
        codec = config["model"]["pretransform"]["config"]["encoder"]
        kinds = (config["model"]["diffusion"]["type"], codec["type"])
        layers = len(codec["config"]["strides"])
    except (KeyError, TypeError):
        return f"its {CONFIG} is not laid out as Stable Audio Open's"
    if conditioners != CONDITIONERS:
        told = ", ".join(f"{name} ({kind})" for name, kind in conditioners.items())
        return f"it is conditioned by {told}, not by {', '.join(CONDITIONERS)}"
    if kinds != ("dit", "oobleck") or layers != 5:
        return f"its network is {kinds[0]!r} and its codec {kinds[1]!r} of {layers} blocks"
    return None
