"""Metrics of generated sound: similarity to the training set, with confidence intervals.

They take torch tensors or NumPy arrays, compute in float64, and return plain figures, always the
same.
"""

from anechoic.metrics.interval import Estimate, share_interval
from anechoic.metrics.paired import Paired, paired
from anechoic.metrics.similarity import Similarity, top1_summary

__all__ = [
    "Estimate",
    "Paired",
    "Similarity",
    "paired",
    "share_interval",
    "top1_summary",
]
