"""The algebra of one noise level: x = alpha * x0 + sigma * eps.

Everything inside anechoic speaks x0; the network's own prediction is converted at the edge.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Prediction = Literal["epsilon", "v_prediction", "sample", "flow", "reverse_flow"]

PURE_NOISE = 1e-3  # the least signal a flow level counts with: sigma/alpha is at most 1000


@dataclass(frozen=True)
class NoiseLevel:
    """How much signal and how much noise the network's input holds.

    For epsilon and v models it is variance preserving, `alpha**2 + sigma**2 == 1`; for flow
    models `alpha == 1 - sigma`, and the network predicts the velocity `eps - x0` ("flow") or its
    opposite ("reverse_flow").

    >>> NoiseLevel.from_ratio(1.0)
    NoiseLevel(alpha=0.7071067811865475, sigma=0.7071067811865475)
    """

    alpha: float
    sigma: float

    @classmethod
    def from_ratio(cls, ratio: float) -> NoiseLevel:
        """The variance-preserving level of a given sigma / alpha (Karras' sigma)."""
        alpha = 1.0 / math.sqrt(1.0 + ratio * ratio)
        return cls(alpha, ratio * alpha)

    @classmethod
    def flow(cls, sigma: float) -> NoiseLevel:
        """The level of a flow model, x = (1 - sigma)*x0 + sigma*eps.

        Its schedules start at sigma = 1, where sigma/alpha is infinite and every factor made of
        it, too. So pure noise counts as a thousandth of signal, as it does where a schedule of a
        thousand training steps starts. The conversions to and from x0 need no alpha and are exact.

        >>> NoiseLevel.flow(0.75)
        NoiseLevel(alpha=0.25, sigma=0.75)
        """
        return cls(max(1.0 - sigma, PURE_NOISE), sigma)

    @property
    def abar(self) -> float:
        """The papers' cumulated alpha: alpha squared, of the variance-preserving variable."""
        return self.alpha**2 / (self.alpha**2 + self.sigma**2)

    @property
    def prior_gain(self) -> float:
        """d x0 / d x of the best estimate under a unit Gaussian prior."""
        return self.alpha / (self.alpha**2 + self.sigma**2)

    @property
    def ratio(self) -> float:
        """sigma / alpha: the noise level of the variance-exploding variable x / alpha."""
        return self.sigma / self.alpha

    @property
    def log_snr(self) -> float:
        """log(alpha^2 / sigma^2); it rises along the generation."""
        return 2.0 * math.log(self.alpha / self.sigma)

    def to_x0(self, x: Tensor, prediction: Tensor, kind: Prediction) -> Tensor:
        """The x0 estimate that `prediction` stands for."""
        if kind == "epsilon":
            return (x - self.sigma * prediction) / self.alpha
        if kind == "v_prediction":
            return self.alpha * x - self.sigma * prediction
        if kind == "sample":
            return prediction
        if kind == "reverse_flow":
            return x + self.sigma * prediction
        return x - self.sigma * prediction

    def from_x0(self, x: Tensor, x0: Tensor, kind: Prediction) -> Tensor:
        """The prediction that stands for the estimate `x0`."""
        if kind == "epsilon":
            return (x - self.alpha * x0) / self.sigma
        if kind == "v_prediction":
            return (self.alpha * x - x0) / self.sigma
        if kind == "sample":
            return x0
        if kind == "reverse_flow":
            return (x0 - x) / self.sigma
        return (x - x0) / self.sigma

    def eps_gain(self, kind: Prediction) -> float:
        """By how much eps changes where the prediction does: d eps / d prediction, its size."""
        if kind == "epsilon":
            return 1.0
        return 1.0 / self.ratio if kind == "sample" else self.alpha

    def x0_step(self, delta: Tensor, kind: Prediction) -> Tensor:
        """The change of the prediction that changes x0 by `delta`."""
        if kind == "epsilon":
            return delta * (-self.alpha / self.sigma)
        if kind == "sample":
            return delta
        return delta * ((1.0 if kind == "reverse_flow" else -1.0) / self.sigma)
