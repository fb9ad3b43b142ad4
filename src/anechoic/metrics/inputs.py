"""Inputs of metrics: torch tensors or NumPy arrays in, checked float64 out."""

from __future__ import annotations

from collections.abc import Hashable, Sequence, Sized
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from anechoic.errors import BadSetting

Array = Tensor | NDArray[Any]
Floats = NDArray[np.float64]
Labels = Sequence[Hashable] | Tensor | NDArray[Any]


def values(x: Array | Sequence[float], what: str, least: int = 1) -> Floats:
    """Figures [n] as float64, n at least `least`, all finite.

    Raises:
        BadSetting: another shape, too few figures, NaN or infinite ones.
    """
    array = float64(x)
    if array.ndim != 1:
        raise BadSetting(
            f"expected {what} as [n], got shape {list(array.shape)}; give one figure a clip"
        )
    return checked(array, what, least)


def float64(x: Array | Sequence[Any]) -> Floats:
    if isinstance(x, Tensor):
        return x.detach().cpu().double().numpy()
    return np.asarray(x, dtype=np.float64)


def checked(array: Floats, what: str, least: int) -> Floats:
    if len(array) < least:
        raise BadSetting(
            f"expected {least} or more {what}, got {len(array)}; a figure cannot be had from fewer"
        )
    bad = ~np.isfinite(array.reshape(len(array), -1)).all(1)
    if bad.any():
        raise BadSetting(
            f"expected finite {what}, got NaN or infinity in {bad.sum()} of {len(array)}, first in "
            f"number {bad.argmax()}; compute them again"
        )
    return array


def same_length(a: Sized, b: Sized, what: str, other: str) -> None:
    """Raise `BadSetting` unless both have the same length."""
    if len(a) != len(b):
        raise BadSetting(
            f"expected as many {what} as {other}, got {len(a)} and {len(b)}; give one for each"
        )


def numbered(labels: Labels, n: int, what: str) -> NDArray[np.int64]:
    """The groups of labels [n] as numbers 0, 1, ..., in the order in which they first occur.

    >>> numbered(["dog", "cat", "dog"], 3, "prompts")
    array([0, 1, 0])
    """
    plain = list(labels) if isinstance(labels, Sequence) else labels.tolist()
    same_length(plain, range(n), what, "rows")
    order: dict[Hashable, int] = {}
    return np.array([order.setdefault(label, len(order)) for label in plain], dtype=np.int64)
