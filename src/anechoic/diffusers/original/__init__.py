"""Models of stable-audio-tools, in which Stable Audio is trained, as diffusers' folders, and back.

Nothing is downloaded, and stable-audio-tools is not needed.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from anechoic.cache import identity
from anechoic.diffusers.folder import MODEL_INDEX, quietly
from anechoic.diffusers.original.checkpoint import (
    CONFIG,
    Checkpoint,
    read_config,
    read_tensors,
    read_weights,
)
from anechoic.diffusers.original.components import components
from anechoic.diffusers.original.names import PROJECTION, names, to_diffusers, to_original
from anechoic.diffusers.original.text_encoder import named, place, read, read_tokenizer, trained
from anechoic.errors import CannotWrite, OutputExists, UnsupportedPipeline
from anechoic.storage import locked, whole_file, whole_folder, write_whole

VERSION = 1  # of a converted folder; what the cache holds of another one is converted again


def to_folder(found: Checkpoint, folder: Path, text_encoder: str | None = None) -> None:
    """Convert a checkpoint of stable-audio-tools to the folder of a diffusers pipeline.

    The folder gets the model_config.json as well, which the way back needs.

    Args:
        found: the checkpoint.
        folder: written whole or not at all; one that is there is replaced.
        text_encoder: folder or hub id of its T5 encoder; None: the one that its model_config.json
            names. It is read from this machine alone.

    Raises:
        UnsupportedPipeline: diffusers cannot express the model, its files are damaged or do not
            belong together, or the text encoder is not here.
    """
    from diffusers import CosineDPMSolverMultistepScheduler, StableAudioPipeline

    config = _expressible(found)  # before gigabytes are read
    source = text_encoder or named(config)
    encoder, tokenizer = read(source), read_tokenizer(source, config)
    state = read_weights(found.weights)
    width, projected = encoder.config.d_model, PROJECTION in state
    own = config["model"]["conditioning"]["cond_dim"]
    takes = state[PROJECTION].shape[-1] if projected else own
    if takes != width:
        raise UnsupportedPipeline(
            f"'{found.weights}' takes {takes} numbers for each token of its text, and text encoder "
            f"'{source}' gives {width}; name its own with 'anechoic convert --text-encoder'"
        )
    if projected and width == own:
        raise UnsupportedPipeline(
            f"'{found.weights}' has a projection of its text at equal widths ('project_out' in "
            f"{CONFIG}), which diffusers' StableAudioPipeline cannot express"
        )
    made = components(config, width) | {"text_encoder": encoder}
    rows = names(config, projected, trained(config, encoder))
    for part, weights in to_diffusers(rows, state, made).items():
        made[part].load_state_dict(weights, strict=part != "text_encoder", assign=True)
    with quietly(), whole_folder(folder) as unfinished:
        StableAudioPipeline(
            **made,
            tokenizer=tokenizer,
            scheduler=CosineDPMSolverMultistepScheduler(  # the published model's own
                sigma_min=0.3, sigma_max=500, solver_order=2, prediction_type="v_prediction",
                sigma_data=1.0, sigma_schedule="exponential",
            ),
        ).save_pretrained(unfinished)  # fmt: skip
        (unfinished / CONFIG).write_bytes(found.config.read_bytes())


def to_file(
    folder: Path, file: Path, config: Path | None = None, *, overwrite: bool = False
) -> None:
    """Convert the folder of a diffusers pipeline to a checkpoint of stable-audio-tools.

    Args:
        folder: a saved StableAudioPipeline.
        file: a .safetensors file, written whole or not at all; its model_config.json goes beside.
        config: the model_config.json; None: the one in the folder.
        overwrite: replace what is there.

    Raises:
        UnsupportedPipeline: there is no model_config.json, or it does not belong to the folder, or
            files are damaged.
        OutputExists: the file is there, or another model_config.json beside it.
    """
    from safetensors.torch import save_file

    source, beside = config or folder / CONFIG, file.with_name(CONFIG)
    if not source.is_file():
        raise UnsupportedPipeline(
            f"the way back needs the {CONFIG} of the model, and '{source}' does not exist; name "
            "it with '--config'"
        )
    about = source.read_bytes()
    if not overwrite:
        if file.exists():
            raise OutputExists.at(file)
        if beside.exists() and beside.read_bytes() != about:
            raise OutputExists.at(beside)
    values = read_config(source)
    encoder = read(folder / "text_encoder")
    made = components(values, encoder.config.d_model) | {"text_encoder": encoder}
    parts = {
        part: {name: tensor for one in sorted((folder / part).glob("*.safetensors"))
               for name, tensor in read_tensors(one).items()}
        for part in made if part != "text_encoder"
    }  # fmt: skip
    # copies, since its embedding has two names
    text = {name: value.clone() for name, value in encoder.state_dict().items()}
    projected = "text_projection.weight" in parts["projection_model"]
    rows = names(values, projected, trained(values, encoder))
    state = to_original(rows, parts | {"text_encoder": text}, made)
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file, alone=True) as unfinished:  # over what a killed one left
        save_file(state, unfinished, metadata={"format": "pt"})
        write_whole(beside, about, alone=True)


def converted(found: Checkpoint) -> Path:
    """The folder of a checkpoint in the cache, where it is converted once.

    It is named by the contents of its files, in the hub's folder of assets (HF_ASSETS_CACHE).

    Raises:
        UnsupportedPipeline: as `to_folder`.
        CannotWrite: another process is converting it.
    """
    from huggingface_hub import cached_assets_path, constants

    config = _expressible(found)
    with found.weights.open("rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()
    text = place(named(config))
    stats = sorted((one.name, one.stat().st_size, one.stat().st_mtime_ns) for one in text.iterdir())
    name = identity(VERSION, weights, config, str(text), stats)
    folder: Path = (
        cached_assets_path("anechoic", "models", "converted", assets_dir=constants.HF_ASSETS_CACHE)
        / name
    )
    busy = CannotWrite(f"another process is converting '{found.weights}'; wait for it")
    if not (folder / MODEL_INDEX).is_file():
        with locked(folder.with_suffix(".lock"), busy):
            to_folder(found, folder)
    return folder


def _expressible(found: Checkpoint) -> dict[str, Any]:
    """Its configuration, unless diffusers cannot express the model."""
    components(config := read_config(found.config), text_width=1)
    return config
