"""Safety-guided flow (SGF): up the kernel distance between the estimate and the training clips."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor

from anechoic.errors import BadSetting
from anechoic.guidance.base import Guidance
from anechoic.guidance.cfg import check_scale
from anechoic.guidance.step import Guided, Step
from anechoic_lab.guidance.latents import LatentBank

EDGE = 0.05  # the kernel at the mean squared distance to the nearest clips, where no width is set
SKIPPED, NEAREST = 3, 3  # those clips, as the released code chooses them: the 4th to the 6th


@dataclass(frozen=True)
class KernelGradient(Guidance):
    """Moves the estimate up the gradient of its maximum mean discrepancy to the training clips.

    With E = u + scale*(c - u), the training latents z_n and k_n = exp(-||E - z_n||^2 / (2 w^2)):

        out = E + strength * sum_n k_n (E - z_n) / w^2

    which is minus the gradient of the sum of k_n, so the kernel falls. With w = sigma/alpha, at
    x/alpha in place of E and divided by the sum of k_n, the gradient is that of `SafeDenoiser`.

    The paper moves in a window early in the schedule: put it in `During`, with `ClassifierFree`
    outside. The step vanishes at a training clip itself, and is largest at a distance of w.

    Args:
        latents: of the training clips, [n, *latent], as the model's codec encodes them.
        scale: classifier-free guidance scale.
        strength: strength of the gradient; it has the unit of a squared distance between latents.
        width: the kernel's width w, a distance between latents; None: for each sample the one at
            which k is 0.05 at the root of its mean squared distance to the 4th to 6th nearest clip.

    Raises:
        BadSetting: a setting out of range, or latents that are none.
        GuardError: the latents of the generation have another shape.

    Source: Kim et al., 2026 (arXiv:2603.13300), and its released code for the width and the sum.
    That code adds the kernel's gradient where it has to subtract it, and so moves towards the
    clips; and its width is one for the whole batch. Of the paper itself we read the abstract: that
    its two predecessors are cases of it is checked here by algebra, for `SafeDenoiser` alone.
    """

    latents: Tensor | LatentBank = field(repr=False, compare=False)
    scale: float = 7.0
    strength: float = 100.0
    width: float | None = None

    def __post_init__(self) -> None:
        check_scale(self.scale)
        for name in ("strength", "width"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise BadSetting(f"expected {name} above 0, got {value}")
        object.__setattr__(self, "latents", LatentBank.of(self.latents))

    def looks_back(self) -> bool:
        return False

    def __call__(self, step: Step) -> Guided:
        bank, estimate = LatentBank.of(self.latents), Guided(self.scale).x0(step)
        distances = bank.squared_distances(estimate)
        precision = own_precision(distances) if self.width is None else self.width**-2
        kernel, gradient = kernel_gradient(bank, estimate, distances, precision)
        return Guided(self.scale, -self.strength * gradient, {"kernel": kernel})


def own_precision(distances: Tensor) -> Tensor:
    """1 / w^2 for each sample, [b, 1], from its squared distances to the clips, [b, n]."""
    ordered = distances.sort(1).values[:, : SKIPPED + NEAREST]
    ordered = ordered[:, SKIPPED:] if ordered.shape[1] > SKIPPED else ordered[:, -1:]
    return -2 * math.log(EDGE) / ordered.mean(1, keepdim=True).clamp_min(1e-12)


def kernel_gradient(
    bank: LatentBank, points: Tensor, distances: Tensor, precision: Tensor | float
) -> tuple[Tensor, Tensor]:
    """The sum of the kernel over the clips, [b], and its gradient over the points, [b, *latent].

    Args:
        bank: the clips.
        points: where, [b, *latent].
        distances: the squared distances between them, [b, n].
        precision: 1 / w^2, for all or for each point, [b, 1].
    """
    weights = (distances * precision / -2).exp()
    total = weights.sum(1)
    weights = weights * precision
    each = [len(points), *[1] * (points.dim() - 1)]
    gradient = bank.mean(weights, points) - weights.sum(1).reshape(each) * points
    return total, gradient
