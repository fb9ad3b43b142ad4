"""Turns rows into figures, each with a 95 % interval from resampling prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anechoic.metrics import Estimate, share_interval
from anechoic_lab.bench.task import SampleScore
from anechoic_lab.metrics import (
    Gaussian,
    KernelReference,
    frechet_distance,
    kernel_distance,
    mean_interval,
    statistic_interval,
)

RESAMPLES = 300  # for FAD and KAD, which are slow


@dataclass(frozen=True)
class Figure:
    """A measured value; its interval is None if there is only one prompt."""

    value: float
    low: float | None
    high: float | None
    prompts: int
    clips: int


@dataclass(frozen=True)
class Statistic:
    """How a figure and its interval are computed from one value per clip."""

    point: Callable[[Any], float]
    interval: Callable[..., Estimate]  # (values, clusters)

    def of(self, values: Any, clusters: Sequence[Any]) -> Figure | None:
        """The figure of values [n, ...] for clips of prompts [n]; None without clips."""
        prompts, clips = len(set(clusters)), len(clusters)
        if not clips:
            return None
        array = np.asarray(values, dtype=np.float64)
        if prompts < 2:
            return Figure(float(self.point(array)), None, None, prompts, clips)
        found = self.interval(array, clusters=clusters)
        return Figure(found.value, found.low, found.high, prompts, clips)


def _percentile95(values: NDArray[Any]) -> float:
    return float(np.percentile(values, 95))


MEAN = Statistic(np.mean, mean_interval)
SHARE = Statistic(np.mean, share_interval)
P95 = Statistic(_percentile95, partial(statistic_interval, _percentile95))


def fad(reference: Gaussian, rows: Sequence[SampleScore]) -> Figure | None:
    """Fréchet distance of the clips' quality embeddings to a reference; None below two clips."""
    if len(rows) < 2:
        return None
    made = np.array([row.quality for row in rows])
    inner, coordinates, rest = in_span(reference, made)
    figure = _distance(partial(frechet_distance, inner)).of(coordinates, _prompts(rows))
    assert figure is not None  # there are rows
    low, high = (None if bound is None else bound + rest for bound in (figure.low, figure.high))
    return replace(figure, value=figure.value + rest, low=low, high=high)


def kad(reference: KernelReference, rows: Sequence[SampleScore]) -> Figure | None:
    """Kernel distance of the clips' quality embeddings to a reference; None below two clips."""
    if len(rows) < 2:
        return None
    made = np.array([row.quality for row in rows])
    return _distance(partial(kernel_distance, reference)).of(made, _prompts(rows))


def mean(rows: Sequence[SampleScore], values: Sequence[float | None]) -> Figure | None:
    """The mean over the clips that were measured; None without any."""
    return _of_known(MEAN, rows, values)


def share(rows: Sequence[SampleScore], values: Sequence[float | None]) -> Figure | None:
    """The share of the clips for which something is true."""
    return _of_known(SHARE, rows, values)


def percentile95(rows: Sequence[SampleScore], values: Sequence[float | None]) -> Figure | None:
    """The 95th percentile of one cosine per clip, with its interval cut to [-1, 1]."""
    return bounded(_of_known(P95, rows, values))


def bounded(figure: Figure | None) -> Figure | None:
    """A figure of cosines with its interval cut to [-1, 1]: `statistic_interval` shifts its draws.

    >>> bounded(Figure(0.95, 0.62, 1.06, 4, 8))
    Figure(value=0.95, low=0.62, high=1.0, prompts=4, clips=8)
    """
    if figure is None or figure.low is None or figure.high is None:
        return figure
    return replace(figure, low=max(figure.low, -1.0), high=min(figure.high, 1.0))


def in_span(
    reference: Gaussian, made: NDArray[np.float64]
) -> tuple[Gaussian, NDArray[np.float64], float]:
    """The same Fréchet distance, in at most as many dimensions as there are clips.

    A resample of n clips lies in their span from the reference's mean. The part of the reference's
    variance outside that span adds a constant to the distance.

    Args:
        reference: a Gaussian in d dimensions.
        made: embeddings [n, d].

    Returns:
        The reference and the embeddings in the span, and the constant to add to their distance.
    """
    shifted = made - reference.mean
    basis = np.linalg.qr(shifted.T)[0]
    root = reference.root @ basis
    rest = float((reference.root**2).sum() - (root**2).sum())
    if len(root) > root.shape[1]:
        root = np.linalg.qr(root, mode="r")
    return Gaussian(np.zeros(basis.shape[1]), root), shifted @ basis, rest


def _of_known(
    statistic: Statistic, rows: Sequence[SampleScore], values: Sequence[float | None]
) -> Figure | None:
    known = [(value, row.prompt) for value, row in zip(values, rows, strict=True)
             if value is not None]  # fmt: skip
    return statistic.of([value for value, _ in known], [prompt for _, prompt in known])


def _distance(distance: Callable[..., float]) -> Statistic:
    return Statistic(distance, partial(statistic_interval, distance, resamples=RESAMPLES))


def _prompts(rows: Sequence[SampleScore]) -> list[str]:
    return [row.prompt for row in rows]
