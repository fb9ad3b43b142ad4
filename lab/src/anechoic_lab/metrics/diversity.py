"""Diversity among the generations of one prompt: one that replicates gives the same each time."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np

from anechoic.metrics.inputs import Array, numbered
from anechoic_lab.metrics.inputs import rows, unit


def cosine_distance(embeddings: Array) -> float:
    """Mean cosine distance of two different generations, 1 - cosine.

        (1 / n(n - 1)) * sum_{i != j} (1 - <e_i, e_j>)

    Args:
        embeddings: of the generations of one prompt under different seeds, [n, d].

    Returns:
        0 where all point one way, 1 where they are orthogonal; n / (n - 1) at most.

    Raises:
        BadSetting: fewer than two rows, NaN, or an embedding of norm 0.

    >>> round(cosine_distance(np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 0.0]])), 6)
    0.666667
    """
    e = unit(embeddings, "embeddings of one prompt", least=2)
    n = len(e)
    total = e.sum(0)  # the sum of all cosines, each clip with itself included, is |total|^2
    return float(max(0.0, (n * n - total @ total) / (n * (n - 1))))


def vendi_score(embeddings: Array) -> float:
    """Vendi score: the effective number of different generations.

        exp( -sum_i l_i log l_i ),   l the eigenvalues of K / n,  K_ij = <e_i, e_j>

    Args:
        embeddings: of the generations of one prompt under different seeds, [n, d].

    Returns:
        1 where all point one way, min(n, d) where they spread evenly over as many directions.

    Raises:
        BadSetting: fewer than two rows, NaN, or an embedding of norm 0.

    Source: Friedman and Dieng, 2022 (arXiv:2210.02410), order 1, cosine kernel.

    >>> round(vendi_score(np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 1.0], [3.0, 0.0]])), 6)
    2.0
    """
    from scipy.special import entr

    e = unit(embeddings, "embeddings of one prompt", least=2)
    shares = np.linalg.svd(e, compute_uv=False) ** 2 / len(e)
    return float(np.exp(entr(shares).sum()))


def by_prompt(
    metric: Callable[[Array], float], embeddings: Array, prompts: Sequence[Hashable]
) -> dict[Hashable, float]:
    """A diversity for each prompt, from the embeddings of all.

    Args:
        metric: `cosine_distance` or `vendi_score`.
        embeddings: of all generations, [n, d].
        prompts: the prompt of each, [n]; each has two or more generations.

    >>> by_prompt(cosine_distance, np.eye(4), ["dog", "dog", "cat", "cat"])
    {'dog': 1.0, 'cat': 1.0}
    """
    e = rows(embeddings, "embeddings", least=2)
    group = numbered(prompts, len(e), "prompts")
    return {prompts[int((group == g).argmax())]: metric(e[group == g]) for g in np.unique(group)}
