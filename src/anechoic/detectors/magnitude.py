"""How far the prompt pulls: the size of the guidance vector, from a run's records alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from anechoic.errors import BadSetting, GuardError
from anechoic.guidance.step import Record
from anechoic.types import Match

Space = Literal["eps", "x0"]


def magnitudes(records: Sequence[Record], space: Space = "eps") -> Tensor:
    """The size of the guidance vector at each evaluation, [n, b].

        eps:  d_t = ||eps_c - eps_u||        x0:  ||c - u|| = d_t * sigma / alpha

    At one noise level the two differ by a factor. Over a run they weigh the levels differently: on
    a schedule that starts at sigma/alpha = 500, d_t hardly counts the first half of the run.
    """
    distance = torch.stack([record.distance for record in records])
    if space == "eps":
        return distance
    return distance * distance.new_tensor([[record.noise.ratio] for record in records])


@dataclass(frozen=True)
class Magnitude:
    """Mean size of the guidance vector over the first evaluations of a run, or over all.

    A memorized prompt pulls hard whatever the noise; another one's pull depends on the
    sample. One evaluation tells, before anything is generated; over several seeds it tells better.

    Raises:
        BadSetting: no evaluations.

    Source: Wen et al., 2024 (arXiv:2407.21720).
    """

    evaluations: int | None = 1  # None: the whole run
    space: Space = "eps"

    def __post_init__(self) -> None:
        if self.evaluations is not None and self.evaluations < 1:
            raise BadSetting(f"at least 1 evaluation was expected, got {self.evaluations}")
        if self.space not in ("eps", "x0"):
            raise BadSetting(f"a size is taken in 'eps' or in 'x0', got {self.space!r}")

    @property
    def name(self) -> str:
        many = "the run" if self.evaluations is None else f"{self.evaluations} evaluations"
        return f"magnitude ({self.space}, mean over {many})"

    def __call__(self, records: Sequence[Record]) -> list[Match]:
        """One match a sample.

        Raises:
            GuardError: fewer records than evaluations, or values that are NaN or infinite.
        """
        count = self.evaluations or len(records)
        if len(records) < max(count, 1):
            raise GuardError(
                f"the records of {count} evaluations were expected, got {len(records)}; let the "
                "pipeline run that far inside the guard"
            )
        return matches(magnitudes(records[:count], self.space).mean(0))


def matches(scores: Tensor) -> list[Match]:
    """Scores [b] as matches.

    Raises:
        GuardError: one is NaN or infinite.
    """
    if not torch.isfinite(scores).all():
        raise GuardError(f"scores of a run are NaN or infinite ({scores.tolist()}); run it again")
    return [Match(score) for score in scores.tolist()]
