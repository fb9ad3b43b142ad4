"""The T5 encoder of a model of stable-audio-tools, which its checkpoint does not hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from anechoic.diffusers.folder import quietly, reason
from anechoic.errors import UnsupportedPipeline

WORDS = ("tokenizer.json", "spiece.model")  # one of them holds a tokenizer's vocabulary


def named(config: Mapping[str, Any]) -> str:
    """The folder or hub id of the encoder that a model_config.json names."""
    folder = _settings(config).get("model_path")
    if folder and Path(folder).is_dir():
        return str(folder)
    return str(_settings(config).get("t5_model_name", "t5-base"))


def trained(config: Mapping[str, Any], encoder: Any) -> list[str]:
    """The names of its weights, if it was trained along and the checkpoint holds them."""
    return list(encoder.state_dict()) if _settings(config).get("enable_grad") else []


def place(name: str | Path) -> Path:
    """The folder of an encoder on this machine: its own, or in the hub's cache.

    Raises:
        UnsupportedPipeline: it is in neither.
    """
    from huggingface_hub import snapshot_download

    if Path(name).is_dir():
        return Path(name)
    for repository in (str(name), f"google-t5/{name}"):  # T5's own have two names on the hub
        try:
            return Path(snapshot_download(repository, local_files_only=True))
        except Exception:  # the hub's client raises classes of its own
            continue
    raise UnsupportedPipeline(
        f"text encoder '{name}' is neither a folder nor in the hub's cache; fetch it with 'hf "
        f'download {name} --include "*.json" "*.model" "model*.safetensors"\', or name its '
        "folder with 'anechoic convert --text-encoder'"
    )


def read_tokenizer(name: str | Path, config: Mapping[str, Any]) -> Any:
    """The tokenizer of an encoder, which cuts text where stable-audio-tools does.

    Raises:
        UnsupportedPipeline: it is not on this machine, or damaged.
    """
    from transformers import AutoTokenizer

    folder, longest = place(name), _settings(config).get("max_length", 128)
    try:
        if not any((folder / file).is_file() for file in WORDS):
            raise FileNotFoundError(f"{' and '.join(WORDS)} are missing")  # it would know no words
        with quietly():
            return AutoTokenizer.from_pretrained(
                folder, model_max_length=longest, local_files_only=True
            )
    except Exception as error:  # of two libraries and any file
        raise UnsupportedPipeline(
            f"'{folder}' has no tokenizer that can be read ({reason(error)}); fetch it again"
        ) from error


def read(name: str | Path) -> Any:
    """An encoder, in float32.

    Raises:
        UnsupportedPipeline: it is not on this machine, damaged, or incomplete.
    """
    from transformers import T5EncoderModel

    folder = place(name)
    try:
        if not (folder / "config.json").is_file():  # transformers would make one up
            raise FileNotFoundError("config.json is missing")
        with quietly(report=False):
            encoder, found = T5EncoderModel.from_pretrained(
                folder,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
    except Exception as error:  # of two libraries and any file
        raise UnsupportedPipeline(
            f"'{folder}' is no T5 encoder that can be read ({reason(error)}); fetch it again, with "
            "its weights as safetensors"
        ) from error
    if missing := found["missing_keys"]:  # they would be random numbers
        raise UnsupportedPipeline(
            f"'{folder}' lacks weights of a T5 encoder, '{min(missing)}' among them; fetch it again"
        )
    return encoder.eval()


def _settings(config: Mapping[str, Any]) -> Mapping[str, Any]:
    conditioners = config["model"]["conditioning"]["configs"]
    by_id = {str(one.get("id")): one for one in conditioners if isinstance(one, Mapping)}
    return by_id["prompt"].get("config") or {}
