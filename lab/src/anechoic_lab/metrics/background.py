"""How near training clips are to each other: the background of a similarity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anechoic.errors import BadSetting
from anechoic.metrics.inputs import (
    Array,
    Floats,
    Labels,
    numbered,
)
from anechoic.metrics.similarity import Similarity, top1_summary
from anechoic_lab.metrics.inputs import blocks, unit


def background(
    training: Array,
    thresholds: Sequence[float] = (),
    *,
    groups: Labels | None = None,
    copies_over: float | None = None,
) -> Similarity:
    """The same figures for training clip against training clip: what is near without copying.

    A generation no nearer to a training clip than training clips are to each other does not suggest
    replication.

    Args, Raises:
        As `leave_one_out` and `top1_summary`.

    Source: Somepalli et al., 2023 (arXiv:2212.03860).

    >>> background(np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]), thresholds=(0.7,)).over
    {0.7: 0.6666666666666666}
    """
    return top1_summary(leave_one_out(training, groups=groups, copies_over=copies_over), thresholds)


def leave_one_out(
    training: Array,
    *,
    groups: Labels | None = None,
    copies_over: float | None = None,
) -> Floats:
    """Cosine of each training clip to the nearest other one, [n].

    Compared in blocks of 64 MB, so the memory is that of the embeddings.

    Args:
        training: embeddings as the index compares them (`project`ed, if it is centred), [n, d].
        groups: a label for each row, [n]; rows of one label are not compared: windows of one
            file, clips of one recording.
        copies_over: a neighbour at a cosine over this is the same clip once more, and is left
            out; 0.9999, say, for exact duplicates. By default it counts.

    Raises:
        BadSetting: fewer than two rows, NaN, an embedding of norm 0, or a clip for which nothing
            is left to compare with.

    >>> leave_one_out(np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]))
    array([0.8, 0.8, 0.6])
    """
    e = unit(training, "training embeddings", least=2)
    group = numbered(groups if groups is not None else range(len(e)), len(e), "groups")
    limit = np.inf if copies_over is None else float(copies_over)
    nearest = np.empty(len(e))
    for block in blocks(e, len(e)):
        cosines = e[block] @ e.T
        cosines[(group[block, None] == group) | (cosines > limit)] = -np.inf
        nearest[block] = cosines.max(1)
    alone = np.isneginf(nearest)
    if alone.any():
        raise BadSetting(
            f"expected another clip for each training clip to be compared with, got none for "
            f"{alone.sum()} of {len(e)}, first number {alone.argmax()}; its group, or what counts "
            "as a copy, covers all the others: make it narrower"
        )
    return np.clip(nearest, -1.0, 1.0)
