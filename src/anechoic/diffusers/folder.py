"""What the folder of a saved pipeline tells by its small files, and what may be wrong with it."""

from __future__ import annotations

import importlib
import inspect
import logging
import math
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from anechoic.diffusers.pipelines import ADAPTERS, REFUSED, unsupported, usable_seconds
from anechoic.errors import UnsupportedPipeline
from anechoic.models import packages
from anechoic.parsing import parse_object, read_file

MODEL_INDEX = "model_index.json"


def listed_parts(model_index: Path, name: str) -> dict[str, tuple[str, str]]:
    """The parts that a pipeline is loaded from, and library and class of each.

    Raises:
        UnsupportedPipeline: it cannot be guarded, or its index is damaged.
    """
    again = "fetch or save the model again"
    content = read_file(model_index, MODEL_INDEX, UnsupportedPipeline)
    values = parse_object(content, f"'{name}': {MODEL_INDEX}", UnsupportedPipeline, again)
    if (class_name := values.get("_class_name")) is None:
        raise UnsupportedPipeline(f"'{name}' has a {MODEL_INDEX} that names no pipeline; {again}")
    if isinstance(class_name, str) and class_name in REFUSED:
        raise UnsupportedPipeline(f"'{name}': {unsupported(class_name)}")
    if not isinstance(class_name, str) or class_name not in ADAPTERS:
        own = class_name if isinstance(class_name, str) else "pipeline that brings its own code"
        raise UnsupportedPipeline(
            f"one of the pipelines {', '.join(ADAPTERS)} was expected, but '{name}' is a {own}, "
            "which cannot be guarded; use another model"
        )
    made = _made_by(class_of("diffusers", class_name))
    # settings of the pipeline stand beside [library, class], and [None, None] is a part left out
    lists = {part: value for part, value in values.items() if isinstance(value, list)}
    listed = {part: value for part, value in lists.items() if value not in ([], [None, None])}
    if odd := [part for part, value in listed.items() if not _is_class(value)]:
        raise UnsupportedPipeline(
            f"'{name}' has a {MODEL_INDEX} whose '{odd[0]}' is not a library and a class; {again}"
        )
    return {part: (one, other) for part, (one, other) in listed.items() if part not in made}


def _is_class(value: list[Any]) -> bool:
    return len(value) == 2 and all(isinstance(name, str) and name for name in value)


def _made_by(kind: Any) -> set[str]:
    """Parts that a class of pipelines makes by itself, saves nowhere and loads from nowhere: those
    with a default that are not said to be optional, as LongCat's scheduler."""
    defaults = {
        name
        for name, parameter in inspect.signature(kind).parameters.items()
        if parameter.default is None
    }
    return defaults - set(kind._optional_components)


def require_whole(folder: Path, parts: Iterable[str]) -> None:
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
            # safetensors would say that there is no such file; it saves files for their owner alone
            if not os.access(weights, os.R_OK):
                raise UnsupportedPipeline(
                    f"'{weights}' may not be read by this user; let everybody read it, as by "
                    f"'chmod -R a+rX {folder}'"
                )
            try:
                with safe_open(weights, "pt"):  # reads the header, and compares the file's length
                    pass
            except SafetensorError as error:
                raise UnsupportedPipeline(
                    f"'{weights}' is damaged or cut off ({reason(error)}); fetch or save it again"
                ) from error


def require_length(folder: Path, seconds: float | None) -> None:
    """Refuse longer sound than a saved pipeline makes, where its configurations tell.

    Raises:
        BadSetting: it is longer, or less than a sample.
        UnsupportedPipeline: a configuration is damaged.
    """
    parts = {}
    for file in folder.glob("*/config.json"):
        values = parse_object(read_file(file, file.name, UnsupportedPipeline), f"'{file}'",
                              UnsupportedPipeline)  # fmt: skip
        part = parts[file.parent.name] = SimpleNamespace(config=SimpleNamespace(**values))
        if isinstance(ratios := values.get("downsampling_ratios"), list):
            part.hop_length = math.prod(ratios)
    name = parse_object((folder / MODEL_INDEX).read_bytes(), MODEL_INDEX, UnsupportedPipeline)
    sound, saved = ADAPTERS[name["_class_name"]].sound, SimpleNamespace(**parts)
    if sound is not None:
        with suppress(AttributeError, TypeError):  # only the loaded model tells
            usable_seconds(seconds, sound.longest_s(saved), sound.sample_rate(saved))


def class_of(library: str, name: str) -> Any:
    """A class as a model index names it: of a library, or of a pipeline's own module."""
    with quietly():
        pipelines = importlib.import_module("diffusers.pipelines")
        place = getattr(pipelines, library, None) or importlib.import_module(library)
        return getattr(place, name)


def hub_sentence(name: str, error: Exception) -> str:
    """What keeps a pipeline on the hub from us, and how to fix it."""
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
            f"model '{name}' on the hub has no {MODEL_INDEX}, so it is not a diffusers pipeline; "
            "use another model"
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
        f"({reason(cause.__cause__ or cause)}); check the network and try again, or set "
        "HF_HUB_OFFLINE=1 if it was fetched before"
    )


NEEDS_TORCHVISION = re.compile(r"`\w+` requires torchvision \(not installed\)")  # no guard does
FOREIGN_PART = re.compile(r"Expected types for .* got <class '(\w+)\.")  # of a registered model


@contextmanager
def quietly(*, report: bool = True) -> Iterator[None]:
    """Without a bar for each part, the libraries' own deprecations, and what is no concern here.

    Without `report`, also without transformers' list of weights that are missing or left over.
    """
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    def is_ours(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        foreign = FOREIGN_PART.match(message)
        if not report and "LOAD REPORT" in message:
            return False
        return not (NEEDS_TORCHVISION.match(message) or (foreign and foreign[1] in registered))

    registered = packages()
    loggers = (
        diffusers_logging.get_logger("diffusers.pipelines.pipeline_utils"),
        transformers_logging.get_logger("transformers.utils.import_utils"),
        transformers_logging.get_logger("transformers.modeling_utils"),
    )
    bars = [
        log for log in (diffusers_logging, transformers_logging) if log.is_progress_bar_enabled()
    ]
    for log in bars:
        log.disable_progress_bar()
    for logger in loggers:
        logger.addFilter(is_ours)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_ours)
        for log in bars:
            log.enable_progress_bar()


def reason(error: BaseException) -> str:
    """The first sentence of an error."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words.split(". ")[0].rstrip(".")
