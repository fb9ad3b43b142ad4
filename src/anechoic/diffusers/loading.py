"""Stock pipelines by folder or hub id, refused in one sentence where they cannot be guarded.

All that can be known from small files is checked before gigabytes are read or downloaded.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from anechoic.diffusers import lora
from anechoic.diffusers.folder import (
    MODEL_INDEX,
    hub_sentence,
    listed_parts,
    quietly,
    reason,
    require_length,
    require_whole,
)
from anechoic.diffusers.original import converted
from anechoic.diffusers.original.checkpoint import find_checkpoint
from anechoic.errors import BadSetting, UnsupportedPipeline
from anechoic.models import find, model_place, packages

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_pipeline(
    name: str | Path,
    device: str | None = None,
    dtype: str = "float32",
    seconds: float | None = None,
    loras: Sequence[str] = (),
) -> Any:
    """Load a stock diffusers pipeline that `guard` knows, ready to generate.

    Args:
        name: the folder of a saved pipeline; a checkpoint of stable-audio-tools, which is converted
            once (`anechoic.diffusers.original`); an id on the Hugging Face hub; or a model that an
            installed package registers (`anechoic.models`).
        device: where it runs; by default a GPU if there is one, or the CPU.
        dtype: "float32", "bfloat16" or "float16", whatever the weights were saved in.
        seconds: the length of sound that will be asked for; None: the model's longest.
        loras: adapters, FILE or FILE:WEIGHT, which are fused (`anechoic.diffusers.lora`); after
            those that a registered model has.

    Returns:
        The pipeline, with its weights frozen.

    Raises:
        UnsupportedPipeline: no such folder, or no pipeline in it; a hub id that is not known,
            gated or out of reach; a pipeline that cannot be guarded; weights that are missing,
            damaged or pickled.
        BadSetting: a device that is not here, an unknown dtype, or longer sound than the files of
            the pipeline say that it makes; an adapter that cannot be applied.
    """
    known = find(str(name))
    source, loras = known.pipeline, (*known.loras, *loras)
    lora.read_all(loras)  # before gigabytes
    number, target = usable_dtype(dtype), usable_device(device)
    folder = local_folder(source) or _download(source)
    require_whole(folder, listed_parts(folder / MODEL_INDEX, source))
    require_length(folder, seconds)
    pipe = _read(folder, number).to(target)
    for module in pipe.components.values():
        if isinstance(module, nn.Module):
            # a guard's gradient is of the latents; one of the weights would only hold memory
            module.requires_grad_(False)
    lora.apply_all(pipe, loras)
    return pipe


def local_folder(name: str) -> Path | None:
    """The folder of a saved pipeline on this machine; a checkpoint's is in the cache.

    Returns:
        None where there is no such path, and the name can be a hub id.

    Raises:
        UnsupportedPipeline: it is neither on this machine nor a hub id; no pipeline is in it; or a
            checkpoint that cannot be converted.
    """
    place = model_place(name)
    if place is None or (place / MODEL_INDEX).is_file():
        return place
    if found := find_checkpoint(place):
        return converted(found)
    raise UnsupportedPipeline(
        f"'{name}' has no {MODEL_INDEX}, so it is not a diffusers pipeline; give the folder that "
        "'save_pretrained' of a whole pipeline wrote, or a checkpoint of stable-audio-tools with "
        "its model_config.json"
    )


def usable_dtype(name: str) -> torch.dtype:
    """A number format by its name.

    Raises:
        BadSetting: it is not one of `DTYPES`.
    """
    if name not in DTYPES:
        raise BadSetting(f"dtype is one of {', '.join(DTYPES)}, got {name!r}")
    return DTYPES[name]


def usable_device(name: str | None) -> torch.device:
    """A device by its name; None: a GPU if there is one, or the CPU.

    Raises:
        BadSetting: it is not here.
    """
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # the latter: a build without CUDA
        raise BadSetting(
            f"device {name!r} cannot be used here ({reason(error)}); 'cpu' always can"
        ) from error


def _download(name: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        listed_parts(Path(hf_hub_download(name, MODEL_INDEX)), name)  # before gigabytes
        from diffusers import DiffusionPipeline

        folder = DiffusionPipeline.download(name, use_safetensors=True)
    except UnsupportedPipeline:
        raise
    # the hub's client and diffusers raise what their HTTP libraries do, and these change
    except Exception as error:
        raise UnsupportedPipeline(hub_sentence(name, error)) from error
    return Path(folder)


def _import_model_packages(folder: Path) -> None:
    """Import the installed packages of models that a folder's parts come from: diffusers takes a
    class from a package only if it is imported already."""
    named = {library for library, _ in listed_parts(folder / MODEL_INDEX, str(folder)).values()}
    for package in packages() & named:
        importlib.import_module(package)


def _read(folder: Path, dtype: torch.dtype) -> Any:
    from diffusers import DiffusionPipeline

    _import_model_packages(folder)
    try:
        with quietly():
            # the dtype always: left out, diffusers' parts take float32 and transformers' their own
            return DiffusionPipeline.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, local_files_only=True
            )
    except Exception as error:  # of two libraries and all the parts that a folder can name
        raise UnsupportedPipeline(
            f"'{folder}' cannot be loaded ({reason(error)}); fetch or save the whole pipeline "
            "again, with its weights as safetensors"
        ) from error
