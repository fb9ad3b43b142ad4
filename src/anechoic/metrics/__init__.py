"""What is reported about generated sound: similarity to the training set, and how sure.

Torch tensors or NumPy arrays in; float64 inside; plain figures out, the same every time.
"""

from anechoic.metrics.interval import Estimate, share_interval
from anechoic.metrics.similarity import Similarity, top1_summary

__all__ = [
    "Estimate",
    "Similarity",
    "share_interval",
    "top1_summary",
]
