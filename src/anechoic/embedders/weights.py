"""Finds, reads and identifies the weights of embedders.

A source is a folder, or a repository on huggingface.co: "laion/clap-htsat-unfused", or pinned to
a commit, a tag or a branch: "laion/clap-htsat-unfused@COMMIT". A location records the commit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from anechoic.errors import UnknownEmbedder


@dataclass(frozen=True)
class WeightsLocation:
    """A folder or repository with a model of some kind."""

    kind: str  # "CLAP", for error messages; in lower case the embedder's name
    path: str  # an absolute folder, or a repository
    commit: str | None = None  # commit of the repository
    pipeline: bool = False  # a whole diffusers pipeline, with a folder for each model

    def __str__(self) -> str:
        """The source that leads to exactly this location again."""
        return self.path if self.commit is None else f"{self.path}@{self.commit}"


def find(kind: str, source: str) -> WeightsLocation:
    """Resolve a source to a location; a repository is pinned to its current commit.

    Raises:
        UnknownEmbedder: the source is neither a folder nor a readable repository.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    folder = Path(source).expanduser()
    if folder.is_dir():
        # absolute, since an index records the path and may be opened from elsewhere
        pipeline = (folder / "model_index.json").is_file()
        return WeightsLocation(kind, str(folder.resolve()), None, pipeline)
    name, _, asked = source.partition("@")
    location = WeightsLocation(kind, name, asked or None)
    file: Any
    try:
        try:
            file = hf_hub_download(name, "config.json", revision=location.commit)
        except LocalEntryNotFoundError:  # offline or no answer: try a pipeline in the cache
            file = try_to_load_from_cache(name, "model_index.json", revision=location.commit)
            if not isinstance(file, str):
                raise
        except EntryNotFoundError:
            file = hf_hub_download(name, "model_index.json", revision=location.commit)
    except Exception as error:  # the hub's client also raises its HTTP library's errors
        raise UnknownEmbedder(why(location, error)) from error
    file = Path(file)  # .../snapshots/COMMIT/config.json
    return WeightsLocation(kind, name, file.parent.name, file.name == "model_index.json")


def read(location: WeightsLocation, part: Any, folder: str = "", **options: Any) -> Any:
    """Read a part of a model, of the transformers class `part`, from the location or a subfolder.

    Raises:
        UnknownEmbedder: a file is missing, damaged or of another model.
    """
    pin = {} if location.commit is None else {"revision": location.commit}
    try:
        with _quietly():
            return part.from_pretrained(location.path, subfolder=folder, **pin, **options)
    except Exception as error:  # each file format and the hub add classes of their own
        raise UnknownEmbedder(why(location, error)) from error


def read_model(location: WeightsLocation, part: Any, folder: str = "", **options: Any) -> Any:
    """Read a complete model in float32, frozen.

    Raises:
        UnknownEmbedder: see `read`; or weights are missing.
    """
    where = Path(location.path, folder)
    if where.is_dir() and not (where / "config.json").is_file():  # else a default is made up
        raise UnknownEmbedder(why(location, FileNotFoundError("config.json is missing")))
    model, info = read(
        location, part, folder, output_loading_info=True, dtype=torch.float32, **options
    )
    # transformers would fill them in at random. Integers are tables that the model makes itself.
    state = model.state_dict()
    missing = [key for key in info["missing_keys"] if state[key].is_floating_point()]
    if missing:
        raise UnknownEmbedder(
            f"expected all weights of a {location.kind}, got '{location}' without {len(missing)} "
            f"of them, {missing[0]} among them; it is another model or an incomplete copy: fetch "
            "it again"
        )
    return freeze(model)


@contextmanager
def _quietly() -> Iterator[None]:
    """Turn off progress bars and the report on weights of other towers."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def freeze(model: Any) -> Any:
    """Set a model to evaluation, without gradients of its weights."""
    return model.eval().requires_grad_(False)


def fingerprint(model: nn.Module) -> str:
    """A hash of the weights that does not depend on path, file format or number format.

    It covers the signs of all weights, which do not change in half precision, but not the names
    and the order of the layers, which depend on the library.

    >>> layer = nn.Linear(2, 1)
    >>> before = fingerprint(layer)
    >>> fingerprint(layer.half()) == before
    True
    >>> _ = layer.weight.data.neg_()
    >>> fingerprint(layer) == before
    False
    """
    each = []
    for value in model.state_dict().values():
        if value.is_floating_point():
            signs = np.packbits(torch.signbit(value).cpu().numpy())
            each.append(hashlib.sha256(str(tuple(value.shape)).encode() + signs.tobytes()).digest())
    return hashlib.sha256(b"".join(sorted(each))).hexdigest()[:16]


def why(location: WeightsLocation, error: Exception) -> str:
    """One sentence on why a model could not be read."""
    from huggingface_hub import constants, errors

    kind, path, name = location.kind, location.path, location.kind.lower()
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)

    def caused_by(*kinds: type[Exception]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    if Path(path).is_dir():
        return (
            f"expected config.json, model.safetensors and preprocessor_config.json of a {kind}, "
            f"got the folder {path!r} ({_first(error)}); write them with `save_pretrained` of "
            "model and preprocessor"
        )
    if caused_by(errors.GatedRepoError):
        return (
            f"expected {kind} weights that may be read, got the gated repository {path!r}; accept "
            f"its terms at {constants.ENDPOINT}/{path} and run 'hf auth login', or set HF_TOKEN"
        )
    if caused_by(errors.RevisionNotFoundError):
        return (
            f"expected a commit, tag or branch of {path!r}, got {location.commit!r}, which does "
            "not exist; correct it, or leave it out for the newest"
        )
    if caused_by(errors.RepositoryNotFoundError, errors.HFValidationError) or path.startswith(
        (".", "/", "~")
    ):
        return (
            f"expected a folder or a repository on huggingface.co with a {kind}, got {path!r}, "
            "which is neither; correct it, or run 'hf auth login' if it is private"
        )
    if caused_by(errors.RemoteEntryNotFoundError):
        return (
            f"expected a repository with a {kind}, got {path!r}, which lacks files of one; name "
            "another"
        )
    if constants.is_offline_mode():
        return (
            f"expected the weights of '{location}', got no whole copy of them in the hub's cache, "
            f"and HF_HUB_OFFLINE is set; unset it, run 'hf download {path}' where there is a "
            f"connection, or name a folder: '{name}:/path/to/weights'"
        )
    return (
        f"expected the weights of '{location}', got neither a local copy nor an answer of "
        f"huggingface.co ({_first(causes[-1])}); run 'hf download {path}' where there is a "
        f"connection, or name a folder: '{name}:/path/to/weights'"
    )


def _first(error: BaseException) -> str:
    """The first line of an error."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
