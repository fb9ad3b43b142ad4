"""Stock pipelines by folder or hub id, refused in one sentence where they cannot be guarded.

All that can be known from small files is checked before gigabytes are read or downloaded.
"""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from anechoic.errors import BadSetting, UnsupportedPipeline
from anechoic.hf.original import original_checkpoint
from anechoic.hf.pipelines import ADAPTERS, REFUSED, unsupported

MODEL_INDEX = "model_index.json"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def load_pipeline(name: str | Path, device: str | None = None, dtype: str = "float32") -> Any:
    """Load a stock diffusers pipeline that `guard` knows, ready to generate.

    Args:
        name: the folder of a saved pipeline, or its id on the Hugging Face hub.
        device: where it runs; by default a GPU if there is one, or the CPU.
        dtype: "float32", "bfloat16" or "float16", whatever the weights were saved in.

    Returns:
        The pipeline, with its weights frozen.

    Raises:
        UnsupportedPipeline: no such folder, or no pipeline in it; a hub id that is not known,
            gated or out of reach; a pipeline that cannot be guarded; weights that are missing,
            damaged or pickled.
        BadSetting: a device that is not here, or an unknown dtype.
    """
    if dtype not in DTYPES:
        raise BadSetting(f"dtype is one of {', '.join(DTYPES)}, got {dtype!r}")
    target = _usable_device(device)
    folder = _find(str(name))
    parts = _parts(folder / MODEL_INDEX, str(name))
    _require_whole(folder, parts)
    pipe = _read(folder, DTYPES[dtype]).to(target)
    for module in pipe.components.values():
        if isinstance(module, nn.Module):
            # a guard's gradient is of the latents; one of the weights would only hold memory
            module.requires_grad_(False)
    return pipe


def _usable_device(name: str | None) -> torch.device:
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # the latter: a build without CUDA
        raise BadSetting(
            f"device {name!r} cannot be used here ({_reason(error)}); 'cpu' always can"
        ) from error


def _find(name: str) -> Path:
    """The folder of a pipeline that can be guarded, downloaded if it is on the hub."""
    folder = Path(name)
    if not folder.is_dir():
        if not folder.exists() and HUB_ID.fullmatch(name):
            return _download(name)
        raise UnsupportedPipeline(
            f"'{name}' is no folder; give the folder of a saved diffusers pipeline, or a hub id "
            "such as 'stabilityai/stable-audio-open-1.0'"
        )
    if not (folder / MODEL_INDEX).is_file():
        if sentence := original_checkpoint(folder):
            raise UnsupportedPipeline(sentence)
        raise UnsupportedPipeline(
            f"'{name}' has no {MODEL_INDEX}, so it is no diffusers pipeline; give the folder that "
            "'save_pretrained' of a whole pipeline wrote"
        )
    return folder


def _parts(model_index: Path, name: str) -> dict[str, str]:
    """The parts of a pipeline that can be guarded, and the library of each.

    Raises:
        UnsupportedPipeline: it cannot, or its index is damaged.
    """
    try:
        content = json.loads(model_index.read_text("utf-8"))
        class_name, values = content["_class_name"], content.items()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnsupportedPipeline(
            f"'{name}' has a {MODEL_INDEX} that is damaged or names no pipeline; fetch or save it "
            "again"
        ) from error
    if isinstance(class_name, str) and class_name in REFUSED:
        raise UnsupportedPipeline(f"'{name}': {unsupported(class_name)}")
    if not isinstance(class_name, str) or class_name not in ADAPTERS:
        own = class_name if isinstance(class_name, str) else "pipeline that brings its own code"
        raise UnsupportedPipeline(
            f"one of the pipelines {', '.join(ADAPTERS)} was expected, but '{name}' is a {own}, "
            "which cannot be guarded; use another model"
        )
    # settings of the pipeline stand beside [library, class], and [None, None] is a part left out
    lists = {part: value for part, value in values if isinstance(value, list)}
    return {part: value[0] for part, value in lists.items() if value and value[0]}


def _require_whole(folder: Path, parts: Iterable[str]) -> None:
    """Refuse a folder in which a part is missing or a weights file is not whole.

    Raises:
        UnsupportedPipeline: it is such a folder.
    """
    from safetensors import SafetensorError, safe_open

    for part in parts:
        # without its folder a tokenizer loads all the same, and knows no words
        if not (folder / part).is_dir():
            raise UnsupportedPipeline(
                f"'{folder}' has no folder '{part}', which its {MODEL_INDEX} names; fetch or save "
                "the whole pipeline again"
            )
        for weights in sorted((folder / part).glob("*.safetensors")):
            try:
                with safe_open(weights, "pt"):  # reads the header, and compares the file's length
                    pass
            except SafetensorError as error:
                raise UnsupportedPipeline(
                    f"'{weights}' is damaged or cut off ({_reason(error)}); fetch or save it again"
                ) from error


def _download(name: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        _parts(Path(hf_hub_download(name, MODEL_INDEX)), name)  # before gigabytes
        from diffusers import DiffusionPipeline

        folder = DiffusionPipeline.download(name, use_safetensors=True)
    except UnsupportedPipeline:
        raise
    # the hub's client and diffusers raise what their HTTP libraries do, and these change
    except Exception as error:
        raise UnsupportedPipeline(_hub_sentence(name, error)) from error
    return Path(folder)


def _hub_sentence(name: str, error: Exception) -> str:
    """What keeps a pipeline on the hub from us, and the mend."""
    from huggingface_hub import constants, errors

    # diffusers wraps the error of its first question into an OSError
    cause = error.__cause__ if type(error) is OSError and error.__cause__ else error
    if isinstance(cause, errors.GatedRepoError):
        return (
            f"model '{name}' is gated; accept its terms at {constants.ENDPOINT}/{name} and log in "
            "with 'hf auth login', or set HF_TOKEN"
        )
    status = cause.response.status_code if isinstance(cause, errors.HfHubHTTPError) else None
    if status == 401 or isinstance(cause, errors.RepositoryNotFoundError):
        return (
            f"there is no folder '{name}' here, and no model '{name}' on the hub that you may see; "
            "check the name, or log in with 'hf auth login' if it is private"
        )
    if isinstance(cause, errors.RemoteEntryNotFoundError):
        return (
            f"model '{name}' on the hub has no {MODEL_INDEX}, so it is no diffusers pipeline; use "
            "another model"
        )
    if isinstance(cause, errors.HFValidationError):
        return f"'{name}' is neither a folder here nor a valid hub id; check the name"
    if constants.is_offline_mode():
        return (
            f"there is no folder '{name}' here, and no whole copy of a model '{name}' in the hub's "
            "cache, and HF_HUB_OFFLINE is set; unset it, or give the folder of a saved pipeline"
        )
    return (
        f"there is no folder '{name}' here, and model '{name}' cannot be fetched from the hub "
        f"({_reason(cause.__cause__ or cause)}); check the network and try again, or set "
        "HF_HUB_OFFLINE=1 if it was fetched before"
    )


def _read(folder: Path, dtype: torch.dtype) -> Any:
    from diffusers import DiffusionPipeline

    try:
        with _quietly():
            # the dtype always: left out, diffusers' parts take float32 and transformers' their own
            return DiffusionPipeline.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, local_files_only=True
            )
    except Exception as error:  # of two libraries and all the parts that a folder can name
        raise UnsupportedPipeline(
            f"'{folder}' cannot be loaded ({_reason(error)}); fetch or save the whole pipeline "
            "again, with its weights as safetensors"
        ) from error


@contextmanager
def _quietly() -> Iterator[None]:
    """Without a bar for each part, the libraries' own deprecations, and wonder at our codec."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    def not_ours(record: logging.LogRecord) -> bool:
        return not re.match(r"Expected types for .* got <class 'anechoic\.", record.getMessage())

    logger = diffusers_logging.get_logger("diffusers.pipelines.pipeline_utils")
    bars = [
        log for log in (diffusers_logging, transformers_logging) if log.is_progress_bar_enabled()
    ]
    for log in bars:
        log.disable_progress_bar()
    logger.addFilter(not_ours)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logger.removeFilter(not_ours)
        for log in bars:
            log.enable_progress_bar()


def _reason(error: BaseException) -> str:
    """The first sentence of an error."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words.split(". ")[0].rstrip(".")
