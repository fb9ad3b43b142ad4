"""Detects memorized prompts from the size and direction of the guidance vector, in records only.

`Magnitude` scores the size; `Angle` the direction, relative to the unconditional prediction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from anechoic.errors import BadSetting, GuardError
from anechoic.guidance.base import Guidance, WatchingGuidance, as_guidance
from anechoic.guidance.step import Guided, Record, Step
from anechoic.types import Match

Space = Literal["eps", "x0"]
Against = Literal["score", "estimate"]
NOTES: dict[Against, str] = {"score": "alignment", "estimate": "estimate alignment"}
ROUNDING = 1e-4  # tolerance of a log-SNR: schedules are float32


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

    A memorized prompt pulls hard whatever the noise; the pull of another prompt depends on the
    sample. One evaluation suffices, before anything is generated; several seeds are more reliable.

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
            raise BadSetting(f"space is 'eps' or 'x0', got {self.space!r}")

    @property
    def name(self) -> str:
        many = "the run" if self.evaluations is None else f"{self.evaluations} evaluations"
        return f"magnitude ({self.space}, mean over {many})"

    def __call__(self, records: Sequence[Record]) -> list[Match]:
        """One match for each sample.

        Raises:
            GuardError: fewer records than evaluations, or values that are NaN or infinite.
        """
        count = self.evaluations or len(records)
        if len(records) < max(count, 1):
            raise GuardError(
                f"the records of {count} evaluations were expected, got {len(records)}; let the "
                "pipeline run that far inside the guard"
            )
        return _matches(magnitudes(records[:count], self.space).mean(0))


def alignment(step: Step, against: Against = "score") -> Tensor:
    """Cosine of the angle between the guidance vector and the unconditional prediction, [b].

        score:     cos(s_c - s_u, s_u) = cos(c - u, alpha * u - x)
        estimate:  cos(c - u, u)

    with s the score, -eps / sigma, and c, u the x0 estimates. The first is the paper's. Its code
    takes the cosine over the channels at each place of the latent and averages the places; here the
    latent is one vector.

    Source: Asthana and Belagiannis, 2026 (arXiv:2601.20642).
    """
    pull = (step.cond - step.uncond).flatten(1).float()
    rest = step.uncond if against == "estimate" else step.noise.alpha * step.uncond - step.x
    return F.cosine_similarity(pull, rest.flatten(1).float(), dim=1)


@dataclass(frozen=True)
class AngleRecorder(WatchingGuidance):
    """A guidance that also records the angles at each evaluation, for `Angle`.

    Its result is that of the inner guidance, bit for bit.
    """

    guidance: Guidance

    def __post_init__(self) -> None:
        object.__setattr__(self, "guidance", as_guidance(self.guidance))

    def __call__(self, step: Step) -> Guided:
        """Guide and record.

        Raises:
            BadSetting: the guidance answers with a tensor, which has no room for notes.
        """
        answer = self.guidance(step)
        if isinstance(answer, Tensor):
            raise BadSetting(
                "a guidance that answers with 'Guided(scale, delta)' was expected, got one that "
                "answers with a tensor, which has no room for notes; return Guided instead"
            )
        angles = {name: alignment(step, against).detach() for against, name in NOTES.items()}
        return replace(answer, notes={**answer.notes, **angles})


@dataclass(frozen=True)
class Angle:
    """Mean alignment of the guidance vector over the evaluations at low noise.

    At low noise the size of the guidance vector says little, since probable latents lie in a thin
    sheet of a large space; a memorized prompt pulls along the unconditional score. The records must
    come from an `AngleRecorder`.

    With `against="estimate"` it is the angle to the unconditional x0 estimate, with its sign
    changed: on the demo model memorized prompts pull away from it. That is an observation, not the
    paper's.

    Raises:
        BadSetting: an unknown `against`.

    Source: Asthana and Belagiannis, 2026 (arXiv:2601.20642).
    """

    start_log_snr: float = 1.0  # low noise: log(alpha^2 / sigma^2) from here on
    against: Against = "score"

    def __post_init__(self) -> None:
        if self.against not in NOTES:
            raise BadSetting(f"against is {' or '.join(NOTES)}, got {self.against!r}")

    @property
    def name(self) -> str:
        return f"angle ({self.against}, from log-SNR {self.start_log_snr:g})"

    def __call__(self, records: Sequence[Record]) -> list[Match]:
        """One match for each sample.

        Raises:
            GuardError: no evaluation at such low noise, or records without angles.
        """
        start = self.start_log_snr - ROUNDING
        low = [record for record in records if record.noise.log_snr >= start]
        note = NOTES[self.against]
        if not low or any(note not in record.notes for record in low):
            raise GuardError(
                f"records with '{note}' at a log-SNR of {self.start_log_snr:g} or more were "
                f"expected, got {len(low)} of {len(records)} at that level; run the pipeline to "
                "its end under guard(pipe, AngleRecorder(guidance))"
            )
        mean = torch.stack([record.notes[note] for record in low]).mean(0)
        return _matches(mean if self.against == "score" else -mean)


def _matches(scores: Tensor) -> list[Match]:
    """Scores [b] as matches.

    Raises:
        GuardError: one is NaN or infinite.
    """
    if not torch.isfinite(scores).all():
        raise GuardError(f"scores of a run are NaN or infinite ({scores.tolist()}); run it again")
    return [Match(score) for score in scores.tolist()]
