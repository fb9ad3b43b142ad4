"""Points of a generation at which a method may change: a share of its steps, or a noise level."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol, overload

import torch

from anechoic.errors import BadSetting
from anechoic.guidance.step import Step, StepInfo


class Trigger(Protocol):
    """Something that a generation reaches once."""

    def reached(self, step: Step, /) -> bool | list[bool]:
        """Whether it has been reached, for all samples or for each."""
        ...


@dataclass(frozen=True)
class Progress:
    """A point at a share of the schedule's evaluations, in [0, 1]."""

    share: float

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise BadSetting(f"expected a share of the schedule in [0, 1], got {self.share}")

    def reached(self, info: StepInfo) -> bool:
        return info.progress >= self.share - 1e-9


@dataclass(frozen=True)
class LogSNR:
    """A point at a noise level: log(alpha^2 / sigma^2), which rises along the run."""

    value: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise BadSetting(f"expected a finite log-SNR, got {self.value}")

    def reached(self, info: StepInfo) -> bool:
        return info.noise.log_snr >= self.value


@dataclass(frozen=True)
class Timestep:
    """A point at a training timestep of Stable Diffusion, 999 (noise) to 0, as published.

    It is mapped to a noise level through that model's scaled-linear schedule. The number itself
    is never compared: timesteps of Stable Audio are in (0, 1).
    """

    t: int

    def __post_init__(self) -> None:
        if not 0 <= self.t < 1000:
            raise BadSetting(f"expected a training timestep in 0..999, got {self.t}")

    def reached(self, info: StepInfo) -> bool:
        abar = _scaled_linear()[self.t]
        return info.noise.log_snr >= math.log(abar / (1 - abar))


@cache
def _scaled_linear() -> list[float]:
    """abar at the training timesteps of Stable Diffusion, falling."""
    root = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64)
    return torch.cumprod(1 - root**2, 0).tolist()


def training_timestep(abar: float) -> float:
    """The training timestep of Stable Diffusion at this noise level, between 0 and 999.

    >>> round(training_timestep(0.5), 1)
    353.9
    """
    table = _scaled_linear()
    above = bisect_left(table, -abar, key=lambda value: -value)  # the first that is not above abar
    if above in (0, len(table)):
        return float(min(above, len(table) - 1))
    high, low = table[above - 1], table[above]
    return above - (abar - low) / (high - low)


@dataclass(frozen=True)
class BasinEdge:
    """The point at which each sample leaves the attraction basin, found from the norm of c - u.

    Once reached, it stays reached for the rest of the run.

    Args:
        fall: None for the paper's rule, the first local minimum of d_t = ||eps_c - eps_u||, that
            is, the first evaluation k with `d[k-1] < d[k-2]` and `d[k] > d[k-1]`. Or a share: the
            norm in x0 space, ||c - u||, has to fall below this share of its maximum so far.

    Source: Jain et al., 2025 (arXiv:2411.16738), dynamic transition point; `fall` is our own.
    """

    fall: float | None = None

    def __post_init__(self) -> None:
        if self.fall is not None and not 0 < self.fall < 1:
            raise BadSetting(f"expected fall, a share, between 0 and 1, got {self.fall}")

    def reached(self, step: Step) -> list[bool]:
        # plain numbers: reading 50 of them takes a third as long as 50 tensors of one element
        now = step.distance.tolist()
        if self.fall is None:
            past = [*(record.distances for record in step.history), now]
            return [first_minimum(course) is not None for course in zip(*past, strict=True)]
        past = [*(record.norms for record in step.history), [d * step.noise.ratio for d in now]]
        return [first_fall(course, self.fall) is not None for course in zip(*past, strict=True)]


Point = Progress | LogSNR | Timestep  # these are known before the network is called


@overload
def as_trigger(at: Point | float) -> Point: ...
@overload
def as_trigger(at: Point | BasinEdge | float) -> Point | BasinEdge: ...
def as_trigger(at: Point | BasinEdge | float) -> Point | BasinEdge:
    """Return a trigger as it is, and a plain number as a share of the schedule.

    Raises:
        BadSetting: it is neither of the two.
    """
    if isinstance(at, int | float):
        return Progress(float(at))
    if not hasattr(at, "reached"):
        raise BadSetting(
            f"expected a point of the run, got {at!r}; use Progress, LogSNR or Timestep, or a "
            "share of the schedule between 0 and 1"
        )
    return at


def first_minimum(distances: Sequence[float]) -> int | None:
    """The evaluation just after the first local minimum of a sample's distance; None: it has none.

    >>> first_minimum([3.0, 2.0, 2.5, 1.0])
    2
    """
    for k in range(2, len(distances)):
        if distances[k - 1] < distances[k - 2] and distances[k] > distances[k - 1]:
            return k
    return None


def first_fall(norms: Sequence[float], share: float) -> int | None:
    """The first evaluation at which a norm is below a share of its maximum so far; None: none is.

    >>> first_fall([3.0, 4.0, 2.0, 1.9], 0.5)
    3
    """
    most = -math.inf
    for k, norm in enumerate(norms):
        if norm > most:
            most = norm
        elif norm < share * most:
            return k
    return None
