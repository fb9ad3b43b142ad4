"""Builds a pipeline from its small files, before gigabytes are read or downloaded.

The pipeline is built from diffusers' own classes on torch's meta device, where a module has its
configuration and shapes but no numbers. So every question about the pipeline itself can be
answered: is it supported, is its scheduler, what is its sample rate, how many weights?
"""

from __future__ import annotations

import hashlib
import inspect
import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from anechoic.diffusers.folder import (
    MODEL_INDEX,
    class_of,
    hub_sentence,
    listed_parts,
    quietly,
    reason,
    require_whole,
)
from anechoic.diffusers.loading import local_folder
from anechoic.diffusers.pipelines import adapter_for
from anechoic.errors import UnsupportedPipeline

SMALL = (MODEL_INDEX, "*/*.json", "*/*.txt", "*/*.model")
SIGN_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # the sign is the last byte's first bit
SIGNS = 1024  # read from each tensor, as in `anechoic.diffusers.fingerprint`


@dataclass(frozen=True, eq=False)
class Blueprint:
    """A pipeline without its weights."""

    name: str  # folder or hub id, as it was given
    folder: Path  # holds its small files, and its weights if they are downloaded
    pipe: Any  # an instance of diffusers' class, on the meta device
    weights: Mapping[str, tuple[Path, ...]]  # the files of each module; empty: not downloaded

    @property
    def class_name(self) -> str:
        return type(self.pipe).__name__

    @property
    def modules(self) -> dict[str, nn.Module]:
        parts = self.pipe.components.items()
        return {name: part for name, part in parts if isinstance(part, nn.Module)}

    @property
    def parameters(self) -> int:
        """Numbers that the modules hold in memory, buffers included."""
        return sum(
            tensor.numel()
            for part in self.modules.values()
            for tensor in (*part.parameters(), *part.buffers())  # shared tensors are counted once
        )

    @property
    def missing(self) -> list[str]:
        """Modules whose weights are not downloaded."""
        return [name for name, files in self.weights.items() if not files]


def read_blueprint(name: str | Path) -> Blueprint:
    """Read the blueprint of a saved pipeline; from the hub, only small files are downloaded.

    Args:
        name: the folder of a saved pipeline, a checkpoint of stable-audio-tools, which is
            converted, or an id on the Hugging Face hub.

    Raises:
        UnsupportedPipeline: the folder does not exist or holds no pipeline; the hub id is unknown,
            gated or unreachable; the pipeline cannot be guarded; a part is missing, damaged, or
            its library cannot build it.
    """
    folder = local_folder(str(name)) or _small_files(str(name))
    listed = listed_parts(folder / MODEL_INDEX, str(name))
    require_whole(folder, listed)
    parts = {part: _part(folder / part, *kind) for part, kind in listed.items()}
    content = json.loads((folder / MODEL_INDEX).read_text("utf-8"))
    pipeline = class_of("diffusers", content["_class_name"])
    names = inspect.signature(pipeline).parameters
    settings = {key: value for key, value in content.items() if key in names and key not in parts}
    given = {key: None if isinstance(value, list) else value for key, value in settings.items()}
    with quietly():
        pipe = pipeline(**parts, **given)
    weights = {
        part: tuple(sorted((folder / part).glob("*.safetensors")))
        for part, module in parts.items()
        if isinstance(module, nn.Module)
    }
    return Blueprint(str(name), folder, pipe, weights)


def _small_files(name: str) -> Path:
    """Download a pipeline's small files from the hub; returns their folder."""
    from huggingface_hub import hf_hub_download, snapshot_download

    try:
        listed_parts(Path(hf_hub_download(name, MODEL_INDEX)), name)
        return Path(snapshot_download(name, allow_patterns=list(SMALL)))
    except UnsupportedPipeline:
        raise
    except Exception as error:  # the hub's client also raises its HTTP library's errors
        raise UnsupportedPipeline(hub_sentence(name, error)) from error


def download_bytes(name: str) -> int | None:
    """Size of a pipeline's weights on the hub in bytes; None if the hub does not answer."""
    from huggingface_hub import HfApi

    try:
        files = HfApi().model_info(name, files_metadata=True).siblings or ()
    except Exception:  # see `_small_files`
        return None
    index = {
        file.rfilename.split("/")[0] for file in files if file.rfilename.endswith("config.json")
    }
    return sum(
        file.size or 0
        for file in files
        if file.rfilename.endswith(".safetensors") and file.rfilename.split("/")[0] in index
    )


def _part(folder: Path, library: str, name: str) -> Any:
    try:
        kind = class_of(library, name)
        if not issubclass(kind, nn.Module):  # tokenizers and schedulers are small
            return kind.from_pretrained(folder)
        with quietly(), torch.device("meta"):
            if library == "transformers":
                return kind(kind.config_class.from_pretrained(folder))
            return kind.from_config(kind.load_config(folder))
    except Exception as error:  # from either library, for any part that a folder can name
        raise UnsupportedPipeline(
            f"'{folder}' is not a {name} that {library} can build ({reason(error)}); fetch or "
            "save the whole pipeline again"
        ) from error


# ------------------------------------------------------------------------------- its fingerprint


def fingerprint_of_files(blueprint: Blueprint) -> str | None:
    """`anechoic.diffusers.fingerprint` of the network, from some bytes of its weights files.

    Returns:
        None if they are not downloaded, or in a number format without sign bits.
    """
    network = adapter_for(blueprint.pipe).adapter.network
    files = blueprint.weights[network]
    tensors = {name: tensor for file in files for name, tensor in _tensors(file)}
    known = blueprint.modules[network].state_dict()
    if tensors.keys() != known.keys():
        return None
    digest = hashlib.sha256()
    for name, (shape, signs) in sorted(tensors.items()):
        if signs is None:
            return None
        digest.update(f"{name}{shape}".encode() + signs.tobytes())
    return digest.hexdigest()[:16]


def _tensors(file: Path) -> Iterator[tuple[str, tuple[tuple[int, ...], np.ndarray | None]]]:
    """Name, shape and first signs of each tensor of a safetensors file."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            size = SIGN_BYTES.get(entry["dtype"])
            signs = None
            if size is not None:
                start, end = entry["data_offsets"]
                stream.seek(8 + length + start)
                raw = np.frombuffer(stream.read(min(end - start, size * SIGNS)), np.uint8)
                signs = raw[size - 1 :: size] >= 128
            yield name, (tuple(entry["shape"]), signs)
