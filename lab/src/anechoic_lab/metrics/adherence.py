"""Adherence: does a generation sound as its prompt says?"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from anechoic.metrics.inputs import Array, Floats, same_length, values
from anechoic_lab.metrics.inputs import same_width, unit


def cosine_per_pair(text: Array, audio: Array) -> Floats:
    """Cosine of each prompt's embedding with that of its generation, [n], in [-1, 1].

    Args:
        text: embeddings of the prompts [n, d]; each prompt once for each of its generations.
        audio: embeddings of the generations [n, d], by the same model of text and audio.

    Raises:
        BadSetting: different shapes, NaN, no rows, or an embedding of norm 0.
    """
    first, second = unit(text, "text embeddings"), unit(audio, "audio embeddings")
    same_width(first, second, "text", "audio")
    same_length(first, second, "text embeddings", "audio embeddings")
    cosines: Floats = np.clip((first * second).sum(1), -1.0, 1.0)
    return cosines


def clap_score(text: Array, audio: Array) -> float:
    """Mean cosine of prompt and generation under CLAP: the plain cosine, neither clipped at 0 nor
    scaled to [0, 1] or by 100, as some do.

        mean_i <t_i, a_i> / (|t_i| |a_i|)

    Args, Raises:
        As `cosine_per_pair`.

    Source: Wu et al., 2023 (LAION-CLAP, arXiv:2211.06687); Huang et al., 2023 (arXiv:2301.12661).

    >>> clap_score(np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([[3.0, 4.0], [0.0, 1.0]]))
    0.8
    """
    return float(cosine_per_pair(text, audio).mean())


def label_hits(predicted: Sequence[Hashable], wanted: Sequence[Hashable]) -> Floats:
    """1.0 where a classifier finds what the prompt asked for, 0.0 elsewhere, [n].

    Raises:
        BadSetting: no labels, or not as many of both.

    >>> label_hits(["dog", "cat"], ["dog", "dog"])
    array([1., 0.])
    """
    same_length(predicted, wanted, "predicted labels", "wanted labels")
    pairs = zip(predicted, wanted, strict=True)
    return values([float(found == asked) for found, asked in pairs], "labels")


def label_accuracy(predicted: Sequence[Hashable], wanted: Sequence[Hashable]) -> float:
    """Share of the generations in which a classifier finds what the prompt asked for.

    >>> label_accuracy(["dog", "cat"], ["dog", "dog"])
    0.5
    """
    return float(label_hits(predicted, wanted).mean())
