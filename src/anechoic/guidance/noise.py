"""The algebra of one noise level: x = alpha * x0 + sigma * eps.

All of anechoic works with x0; the network's own prediction is converted where it is called.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Generic, Literal

import torch
from torch import Tensor
from typing_extensions import TypeVar

Prediction = Literal["epsilon", "v_prediction", "sample", "flow", "reverse_flow"]
Number = TypeVar("Number", float, Tensor, default=float)

PURE_NOISE = 1e-3  # pure noise counts as this much signal, so sigma/alpha is 1000 there


@dataclass(frozen=True)
class NoiseLevel(Generic[Number]):
    """How much signal and how much noise the network's input holds.

    Epsilon and v models are variance preserving, `alpha**2 + sigma**2 == 1`. In flow models
    `alpha == 1 - sigma`, and the network predicts the velocity `eps - x0` ("flow") or its
    opposite ("reverse_flow").

    `alpha` and `sigma` are plain numbers, or tensors [b] if an engine gives each sample its own
    level. A guidance sees plain numbers: samples of one level are guided together.

    >>> NoiseLevel.from_ratio(1.0)
    NoiseLevel(alpha=0.7071067811865475, sigma=0.7071067811865475)
    """

    alpha: Number
    sigma: Number

    @classmethod
    def from_ratio(cls, ratio: Number) -> NoiseLevel[Number]:
        """The variance-preserving level at a given sigma / alpha (Karras' sigma)."""
        if isinstance(ratio, Tensor):
            alpha = (1.0 + ratio * ratio).rsqrt()
            return NoiseLevel(alpha, ratio * alpha)
        if ratio == math.inf:
            return cls.of_abar(0.0)
        number = 1.0 / math.sqrt(1.0 + ratio * ratio)
        return NoiseLevel(number, ratio * number)

    @staticmethod
    def of_abar(abar: float) -> NoiseLevel:
        """The variance-preserving level at a cumulative alpha, `alpha**2`.

        A schedule of zero terminal SNR starts at 0: see `flow` for how pure noise counts.
        """
        return NoiseLevel(max(abar**0.5, PURE_NOISE), (1 - abar) ** 0.5)

    @classmethod
    def flow(cls, sigma: Number) -> NoiseLevel[Number]:
        """The level of a flow model, x = (1 - sigma)*x0 + sigma*eps.

        Its schedules start at sigma = 1, where sigma/alpha would be infinite. So pure noise counts
        as a thousandth of signal, which is where a schedule of a thousand training steps starts.
        The conversions to and from x0 need no alpha and are exact.

        >>> NoiseLevel.flow(0.75)
        NoiseLevel(alpha=0.25, sigma=0.75)
        """
        if isinstance(sigma, Tensor):
            return NoiseLevel((1.0 - sigma).clamp_min(PURE_NOISE), sigma)
        return NoiseLevel(max(1.0 - sigma, PURE_NOISE), sigma)

    @property
    def abar(self) -> Number:
        """The papers' cumulative alpha: alpha squared of the variance-preserving variable."""
        return self.alpha**2 / (self.alpha**2 + self.sigma**2)

    @property
    def prior_gain(self) -> Number:
        """d x0 / d x for the best estimate under a unit Gaussian prior."""
        return self.alpha / (self.alpha**2 + self.sigma**2)

    @property
    def ratio(self) -> Number:
        """sigma / alpha: the noise level of the variance-exploding variable x / alpha."""
        return self.sigma / self.alpha

    @property
    def log_snr(self) -> Number:
        """log(alpha^2 / sigma^2); it rises along the generation."""
        ratio = self.alpha / self.sigma
        return 2.0 * (ratio.log() if isinstance(ratio, Tensor) else math.log(ratio))

    def of(self, rows: Tensor) -> NoiseLevel[Any]:
        """The level of some samples of the batch; plain numbers if they all have the same one.

        >>> NoiseLevel.flow(torch.tensor([0.75, 0.5, 0.75])).of(torch.tensor([0, 2]))
        NoiseLevel(alpha=0.25, sigma=0.75)
        """
        if not isinstance(self.alpha, Tensor) or not isinstance(self.sigma, Tensor):
            return self
        alpha, sigma = self.alpha[rows], self.sigma[rows]
        levels = set(zip(alpha.tolist(), sigma.tolist(), strict=True))
        return NoiseLevel(*levels.pop()) if len(levels) == 1 else NoiseLevel(alpha, sigma)

    def groups(self) -> list[Tensor]:
        """The rows of a batch that share a level, [n] each; for levels that are tensors."""
        assert isinstance(self.alpha, Tensor)
        assert isinstance(self.sigma, Tensor)
        found: dict[tuple[float, float], list[int]] = {}
        for row, level in enumerate(zip(self.alpha.tolist(), self.sigma.tolist(), strict=True)):
            found.setdefault(level, []).append(row)
        return [torch.tensor(rows) for rows in found.values()]

    def to_x0(self, x: Tensor, prediction: Tensor, kind: Prediction) -> Tensor:
        """The x0 estimate that `prediction` means."""
        alpha, sigma = _over(self.alpha, x), _over(self.sigma, x)
        if kind == "epsilon":
            return (x - sigma * prediction) / alpha
        if kind == "v_prediction":
            return alpha * x - sigma * prediction
        if kind == "sample":
            return prediction
        if kind == "reverse_flow":
            return x + sigma * prediction
        return x - sigma * prediction

    def from_x0(self, x: Tensor, x0: Tensor, kind: Prediction) -> Tensor:
        """The prediction that means the estimate `x0`."""
        alpha, sigma = _over(self.alpha, x), _over(self.sigma, x)
        if kind == "epsilon":
            return (x - alpha * x0) / sigma
        if kind == "v_prediction":
            return (alpha * x - x0) / sigma
        if kind == "sample":
            return x0
        if kind == "reverse_flow":
            return (x0 - x) / sigma
        return (x - x0) / sigma

    def eps_gain(self, kind: Prediction) -> float | Tensor:
        """The magnitude of d eps / d prediction."""
        if kind == "epsilon":
            return 1.0
        return 1.0 / self.ratio if kind == "sample" else self.alpha

    def x0_step(self, delta: Tensor, kind: Prediction) -> Tensor:
        """The change of the prediction that changes x0 by `delta`."""
        if kind == "epsilon":
            return delta * _over(-self.alpha / self.sigma, delta)
        if kind == "sample":
            return delta
        return delta * _over((1.0 if kind == "reverse_flow" else -1.0) / self.sigma, delta)


def _over(value: float | Tensor, x: Tensor) -> float | Tensor:
    """Broadcast values [b] against latents, [b, 1, ...]; a plain number stays as it is."""
    if not isinstance(value, Tensor):
        return value
    return value.reshape(-1, *[1] * (x.dim() - 1)).to(x)
