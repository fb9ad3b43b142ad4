"""Stores a fitted detector as one safetensors file of named tensors and settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from torch import Tensor

from anechoic.errors import IndexMismatch, OutputExists
from anechoic.parsing import parse_object
from anechoic.storage import whole_file

ANEW = "fit it again"
T = TypeVar("T")


class FittedTensors:
    """A fitted detector, a dataclass of tensors, whose `name` holds every other setting."""

    name: ClassVar[str]

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the fitted detector as one file.

        Raises:
            OutputExists: the file exists, and `overwrite` is off.
        """
        assert is_dataclass(self)
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        return write(path, self.name, tensors, {}, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file from `save`.

        Raises:
            IndexMismatch: the file does not exist, is damaged, or of another detector or settings.
        """
        return read(path, cls.name, cls)


def write(
    path: str | Path,
    kind: str,
    tensors: Mapping[str, Tensor],
    settings: Mapping[str, Any],
    *,
    overwrite: bool = False,
) -> Path:
    """Write a fitted detector, whole or not at all.

    Raises:
        OutputExists: the file exists, and `overwrite` is off.
    """
    from safetensors.torch import save_file

    path = Path(path)
    if path.exists() and not overwrite:
        raise OutputExists.at(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"detector": kind, "settings": json.dumps(dict(settings))}
    with whole_file(path) as part:
        save_file(dict(tensors), part, {**about, "sha256": _digest(about, tensors)})
    return path


def read(path: str | Path, kind: str, make: Callable[..., T]) -> T:
    """Read a file from `write`; return `make(**tensors, **settings)`.

    Raises:
        IndexMismatch: the file does not exist, is damaged, or of another detector.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if (found := about.get("detector", "something else")) != kind:
            raise IndexMismatch(
                f"'{path}' was expected to hold a fitted '{kind}', got '{found}'; {ANEW}"
            )
        if about.pop("sha256", "") != _digest(about, tensors):
            raise ValueError("its hash is not that of what was written")
        settings = parse_object(about["settings"], f"'{path}': its settings", IndexMismatch, ANEW)
        return make(**tensors, **settings)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise IndexMismatch(
            f"'{path}' is not a fitted detector, or is damaged ({error}); {ANEW}"
        ) from error


def _digest(about: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    digest = sha256(json.dumps(about, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().numpy().data)
    return digest.hexdigest()
