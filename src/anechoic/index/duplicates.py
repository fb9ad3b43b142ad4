"""Clips that occur more than once in a training set: models memorize them first."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from anechoic.errors import BadSetting
from anechoic.index.clips import Clip
from anechoic.index.training import EXACT, NEIGHBOURS, TrainingIndex

NEAR = 0.95  # the threshold for an index without one
BATCH = 256  # rows searched at once


@dataclass(frozen=True)
class Cluster:
    """Clips that are near duplicates of each other, directly or through other members."""

    clips: tuple[Clip, ...]  # one row of each clip, in the order of the index
    nearest: float  # the highest cosine between two members
    farthest: float  # the lowest cosine that joined two members

    @property
    def exact(self) -> bool:
        """Whether all are the same sound to the embedder."""
        return self.farthest >= EXACT

    @property
    def captions(self) -> tuple[str, ...]:
        """Each caption once."""
        return tuple(dict.fromkeys(clip.caption for clip in self.clips))


def duplicates(
    index: TrainingIndex,
    above: float | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Cluster]:
    """Find clusters of duplicates.

    Two clips are joined if a row of one is among the 16 nearest of a row of the other, and their
    cosine reaches a threshold. One window is enough: clips that share a stretch are joined.

    Args:
        index: the training set.
        above: the cosine that joins two clips; by default the index's threshold for copies, or
            0.95 if it has none.
        progress: called with the number of compared rows and the total.

    Returns:
        Clusters of two clips or more, the largest first.

    Raises:
        BadSetting: `above` is not a cosine.

    Source: deduplication before training is what Somepalli et al., 2023 (arXiv:2305.20086) and
    Carlini et al., 2023 (arXiv:2301.13188) recommend first.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    limit = index.thresholds.get("copy", NEAR) if above is None else above
    if not -1 <= limit <= 1:
        raise BadSetting(f"expected a cosine in [-1, 1], got {limit:g}")
    numbers, firsts = _numbered(index)
    left, right, cosines = [], [], []
    for start in range(0, len(index), BATCH):
        rows = torch.arange(start, min(start + BATCH, len(index)))
        found = index.search(index.vectors(rows), NEIGHBOURS + 1)
        one = numbers[rows.numpy()][:, None].repeat(found.rows.shape[1], 1)
        other, scores = numbers[found.rows.numpy()], found.scores.numpy()
        joined = (one != other) & (scores >= limit)
        left.append(one[joined])
        right.append(other[joined])
        cosines.append(scores[joined])
        progress(int(rows[-1]) + 1, len(index))
    a, b, score = map(np.concatenate, (left, right, cosines))
    graph = coo_array((np.ones(len(a)), (a, b)), shape=(len(firsts), len(firsts)))
    _, labels = connected_components(graph, directed=False)
    members: dict[int, list[int]] = {}
    sizes = np.bincount(labels)
    for number in np.flatnonzero(sizes[labels] > 1).tolist():
        members.setdefault(int(labels[number]), []).append(number)
    low, high = np.full(len(sizes), np.inf), np.full(len(sizes), -np.inf)
    np.minimum.at(low, labels[a], score)
    np.maximum.at(high, labels[a], score)
    clusters = [
        Cluster(
            tuple(index.clips[firsts[number]] for number in found),
            min(float(high[label]), 1.0),
            min(float(low[label]), 1.0),
        )
        for label, found in members.items()
    ]
    return sorted(clusters, key=lambda cluster: -len(cluster.clips))


@dataclass(frozen=True)
class RankedClip:
    """A clip of a training set, with what makes a model memorize it."""

    clip: Clip  # its first row
    seconds: float  # of all its rows; 0: not known
    copies: int  # clips that are the same or nearly so, itself among them
    sharing: int  # other clips under its caption, but for those

    @property
    def alone(self) -> bool:
        """Whether its caption is a key to it: no other clip has that caption."""
        return self.sharing == 0


def ranked(index: TrainingIndex, clusters: Sequence[Cluster]) -> list[RankedClip]:
    """All clips of a training set, those first that are probably memorized first.

    Repeated clips come first, the most often repeated at the top; then clips whose caption stands
    over no other clip; then short ones. It is an order, and no probability.

    Args:
        index: the training set.
        clusters: those of `duplicates`.

    Source: of copies and captions, Somepalli et al., 2023 (arXiv:2305.20086); that short clips
    follow is our own guess, as less of them is to be learnt.
    """
    found: dict[str, tuple[Clip, float]] = {}
    for row in index.clips:
        clip, seconds = found.get(row.id, (row, 0.0))
        found[row.id] = clip, max(seconds, row.start_s + row.seconds)
    cluster_of = {clip.id: number for number, one in enumerate(clusters) for clip in one.clips}
    clips = {id: cluster_of.get(id, -1) for id in found}
    under = Counter(clip.caption for clip, _ in found.values())
    within = Counter((clip.caption, clips[id]) for id, (clip, _) in found.items())
    ranks = [
        RankedClip(
            clip,
            seconds,
            1 if clips[id] < 0 else len(clusters[clips[id]].clips),
            under[clip.caption] - (1 if clips[id] < 0 else within[clip.caption, clips[id]]),
        )
        for id, (clip, seconds) in found.items()
    ]
    return sorted(ranks, key=lambda one: (-one.copies, one.sharing > 0, one.seconds or math.inf))


def _numbered(index: TrainingIndex) -> tuple[np.ndarray, list[int]]:
    """The number of each row's clip, [n], and the first row of each clip."""
    numbers, firsts, last = np.empty(len(index), np.int64), [], None
    for row, clip in enumerate(index.clips):  # the rows of a clip are consecutive
        if clip.id != last:
            firsts.append(row)
            last = clip.id
        numbers[row] = len(firsts) - 1
    return numbers, firsts
