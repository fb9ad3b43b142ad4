"""What every metric takes: torch tensors or NumPy arrays in, checked float64 out."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence, Sized
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from anechoic.errors import BadSetting

Array = Tensor | NDArray[Any]
Floats = NDArray[np.float64]
Labels = Sequence[Hashable] | Tensor | NDArray[Any]

NO_DIRECTION = 1e-12  # a norm below this is rounding
CELLS = 2**23  # of a matrix of pairs, so many are held at once: 64 MB


def rows(x: Array | Sequence[Any], what: str, least: int = 1) -> Floats:
    """Embeddings or probabilities [n, d] as float64, n at least `least`, all finite.

    Raises:
        BadSetting: another shape, too few rows, NaN or infinite values.
    """
    array = _float64(x)
    if array.ndim != 2 or array.shape[1] == 0:
        raise BadSetting(
            f"expected {what} as [n, d], got shape {list(array.shape)}; stack them, one a row"
        )
    return _checked(array, what, least)


def values(x: Array | Sequence[float], what: str, least: int = 1) -> Floats:
    """Figures [n] as float64, n at least `least`, all finite.

    Raises:
        BadSetting: another shape, too few figures, NaN or infinite ones.
    """
    array = _float64(x)
    if array.ndim != 1:
        raise BadSetting(
            f"expected {what} as [n], got shape {list(array.shape)}; give one figure a clip"
        )
    return _checked(array, what, least)


def _float64(x: Array | Sequence[Any]) -> Floats:
    if isinstance(x, Tensor):
        return x.detach().cpu().double().numpy()
    return np.asarray(x, dtype=np.float64)


def _checked(array: Floats, what: str, least: int) -> Floats:
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


def same_width(a: Floats, b: Floats, what: str, other: str) -> None:
    """Raise `BadSetting` unless the rows of both have the same number of dimensions."""
    if a.shape[1] != b.shape[1]:
        raise BadSetting(
            f"expected {what} and {other} of one embedder, got {a.shape[1]} and {b.shape[1]} "
            "dimensions; embed both with the same"
        )


def same_length(a: Sized, b: Sized, what: str, other: str) -> None:
    """Raise `BadSetting` unless there are as many of both."""
    if len(a) != len(b):
        raise BadSetting(
            f"expected as many {what} as {other}, got {len(a)} and {len(b)}; give one for each"
        )


def unit(x: Array, what: str, least: int = 1) -> Floats:
    """Rows [n, d] scaled to norm 1.

    Raises:
        BadSetting: as `rows`, or a row that has no direction.
    """
    array = rows(x, what, least)
    norms = np.linalg.norm(array, axis=1, keepdims=True)
    if (norms < NO_DIRECTION).any():
        raise BadSetting(
            f"expected {what} that have a direction, got norm 0 in number "
            f"{int(norms.argmin())}; a cosine is not defined for it: leave it out"
        )
    return array / norms


def blocks(x: Floats, width: int) -> Iterator[slice]:
    """Slices of rows such that each against `width` others is a matrix of bounded size."""
    step = max(1, CELLS // width)
    return (slice(i, i + step) for i in range(0, len(x), step))


def numbered(labels: Labels, n: int, what: str) -> NDArray[np.int64]:
    """The groups of labels [n] as numbers 0, 1, ..., in the order in which they first occur.

    >>> numbered(["dog", "cat", "dog"], 3, "prompts")
    array([0, 1, 0])
    """
    plain = list(labels) if isinstance(labels, Sequence) else labels.tolist()
    same_length(plain, range(n), what, "rows")
    order: dict[Hashable, int] = {}
    return np.array([order.setdefault(label, len(order)) for label in plain], dtype=np.int64)
