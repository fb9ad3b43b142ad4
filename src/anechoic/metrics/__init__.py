"""What is reported about generated sound: similarity, quality, adherence, diversity, and how sure.

Torch tensors or NumPy arrays in; float64 inside; plain figures out, the same every time.
"""

from anechoic.metrics.adherence import clap_score, cosine_per_pair, label_accuracy, label_hits
from anechoic.metrics.divergence import kl_of_means, kl_paired, kl_per_pair
from anechoic.metrics.diversity import by_prompt, cosine_distance, vendi_score
from anechoic.metrics.frechet import (
    Extrapolation,
    Gaussian,
    frechet_distance,
    frechet_distance_extrapolated,
)
from anechoic.metrics.frontier import area_under_front, pareto_front, staircase
from anechoic.metrics.interval import (
    Estimate,
    difference_interval,
    mean_interval,
    share_interval,
    statistic_interval,
    warning,
)
from anechoic.metrics.kernel import KernelReference, kernel_distance
from anechoic.metrics.similarity import Similarity, background, leave_one_out, top1_summary

__all__ = [
    "Estimate",
    "Extrapolation",
    "Gaussian",
    "KernelReference",
    "Similarity",
    "area_under_front",
    "background",
    "by_prompt",
    "clap_score",
    "cosine_distance",
    "cosine_per_pair",
    "difference_interval",
    "frechet_distance",
    "frechet_distance_extrapolated",
    "kernel_distance",
    "kl_of_means",
    "kl_paired",
    "kl_per_pair",
    "label_accuracy",
    "label_hits",
    "leave_one_out",
    "mean_interval",
    "pareto_front",
    "share_interval",
    "staircase",
    "statistic_interval",
    "top1_summary",
    "vendi_score",
    "warning",
]
