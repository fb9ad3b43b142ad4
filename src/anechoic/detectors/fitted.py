"""Stores a fitted detector as one safetensors file of named tensors and settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from anechoic.errors import IndexMismatch, OutputExists
from anechoic.storage import whole_file


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
        raise OutputExists(f"'{path}' exists already; name another output or overwrite it")
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part:
        save_file(dict(tensors), part, {"detector": kind, "settings": json.dumps(dict(settings))})
    return path


def read(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file from `write`.

    Raises:
        IndexMismatch: the file does not exist, is damaged, or of another detector.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise IndexMismatch(
            f"'{path}' is not a fitted detector, or is damaged ({error}); fit it again"
        ) from error
    if about.get("detector") != kind:
        raise IndexMismatch(
            f"'{path}' was expected to hold a fitted '{kind}', got "
            f"'{about.get('detector', 'something else')}'; fit it again"
        )
    return tensors, json.loads(about["settings"])
