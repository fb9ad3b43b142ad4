"""Quality, adherence and diversity of generated sound, and fronts between two figures.

Torch tensors or NumPy arrays in; float64 inside; plain figures out, the same every time.
"""

from anechoic_lab.metrics.adherence import clap_score, cosine_per_pair, label_accuracy, label_hits
from anechoic_lab.metrics.background import background, leave_one_out
from anechoic_lab.metrics.bootstrap import (
    difference_interval,
    mean_interval,
    statistic_interval,
    warning,
)
from anechoic_lab.metrics.divergence import kl_of_means, kl_paired, kl_per_pair
from anechoic_lab.metrics.diversity import by_prompt, cosine_distance, vendi_score
from anechoic_lab.metrics.frechet import (
    Extrapolation,
    Gaussian,
    frechet_distance,
    frechet_distance_extrapolated,
)
from anechoic_lab.metrics.frontier import area_under_front, pareto_front, staircase
from anechoic_lab.metrics.kernel import KernelReference, kernel_distance
from anechoic_lab.metrics.rates import ConfidenceInterval, auc, true_positive_rate

__all__ = [
    "ConfidenceInterval",
    "Extrapolation",
    "Gaussian",
    "KernelReference",
    "area_under_front",
    "auc",
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
    "staircase",
    "statistic_interval",
    "true_positive_rate",
    "vendi_score",
    "warning",
]
