"""What is reported about generated sound: similarity to the training set, and how sure.

Torch tensors or NumPy arrays in; float64 inside; plain figures out, the same every time.
"""

from anechoic.metrics.interval import (
    Estimate,
    difference_interval,
    mean_interval,
    share_interval,
    statistic_interval,
    warning,
)
from anechoic.metrics.similarity import Similarity, background, leave_one_out, top1_summary

__all__ = [
    "Estimate",
    "Similarity",
    "background",
    "difference_interval",
    "leave_one_out",
    "mean_interval",
    "share_interval",
    "statistic_interval",
    "top1_summary",
    "warning",
]
