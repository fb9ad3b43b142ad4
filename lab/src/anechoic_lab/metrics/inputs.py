"""Inputs of the metrics that compare sets of embeddings, checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from anechoic.errors import BadSetting
from anechoic.metrics.inputs import Array, Floats, checked, float64

NO_DIRECTION = 1e-12  # a norm below this is rounding


CELLS = 2**23  # of a matrix of pairs, so many are held at once: 64 MB


def rows(x: Array | Sequence[Any], what: str, least: int = 1) -> Floats:
    """Embeddings or probabilities [n, d] as float64, n at least `least`, all finite.

    Raises:
        BadSetting: another shape, too few rows, NaN or infinite values.
    """
    array = float64(x)
    if array.ndim != 2 or array.shape[1] == 0:
        raise BadSetting(
            f"expected {what} as [n, d], got shape {list(array.shape)}; stack them, one a row"
        )
    return checked(array, what, least)


def same_width(a: Floats, b: Floats, what: str, other: str) -> None:
    """Raise `BadSetting` unless the rows of both have the same number of dimensions."""
    if a.shape[1] != b.shape[1]:
        raise BadSetting(
            f"expected {what} and {other} of one embedder, got {a.shape[1]} and {b.shape[1]} "
            "dimensions; embed both with the same"
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
    scaled: Floats = array / norms
    return scaled


def blocks(x: Floats, width: int) -> Iterator[slice]:
    """Slices of rows such that each against `width` others is a matrix of bounded size."""
    step = max(1, CELLS // width)
    return (slice(i, i + step) for i in range(0, len(x), step))
