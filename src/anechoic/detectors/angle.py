"""Which way the prompt pulls: the angle between the guidance vector and the unconditional half."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from anechoic.detectors.magnitude import matches
from anechoic.errors import BadSetting, GuardError
from anechoic.guidance.base import Guidance
from anechoic.guidance.step import Guided, Record, Step
from anechoic.types import Match

Against = Literal["score", "estimate"]
NOTES: dict[Against, str] = {"score": "alignment", "estimate": "estimate alignment"}
ROUNDING = 1e-4  # of a log-SNR: schedules are float32


def alignment(step: Step, against: Against = "score") -> Tensor:
    """Cosine of the angle between the guidance vector and the unconditional half, [b].

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
class Watched:
    """A guidance that also notes the angles at each evaluation, for `Angle` to read.

    What it answers is the guidance's own answer, bit for bit.
    """

    guidance: Guidance

    def __call__(self, step: Step) -> Guided:
        """Guide, and note.

        Raises:
            BadSetting: the guidance answers with a tensor, which has no room for notes.
        """
        answer = self.guidance(step)
        if isinstance(answer, Tensor):
            raise BadSetting(
                "a guidance that answers with 'Guided(scale, delta)' was expected, got one that "
                "answers with a tensor, which has no room for notes; let it answer so"
            )
        noted = {name: alignment(step, against).detach() for against, name in NOTES.items()}
        return replace(answer, notes={**answer.notes, **noted})


@dataclass(frozen=True)
class Angle:
    """Mean alignment of the guidance vector over the evaluations at low noise.

    At low noise the size of the guidance vector tells little, for what is probable there is a thin
    sheet in a large space; a memorized prompt pulls along the unconditional score. The records
    have to be those of a `Watched` guidance.

    With `against="estimate"` it is the angle to the unconditional x0 estimate, turned over: on the
    demo model memorized prompts pull away from it. That is an observation, not the paper's.

    Raises:
        BadSetting: an unknown `against`.

    Source: Asthana and Belagiannis, 2026 (arXiv:2601.20642).
    """

    since_log_snr: float = 1.0  # low noise: log(alpha^2 / sigma^2) from here on
    against: Against = "score"

    def __post_init__(self) -> None:
        if self.against not in NOTES:
            raise BadSetting(f"an angle is taken to {' or '.join(NOTES)}, got {self.against!r}")

    @property
    def name(self) -> str:
        return f"angle ({self.against}, from log-SNR {self.since_log_snr:g})"

    def __call__(self, records: Sequence[Record]) -> list[Match]:
        """One match a sample.

        Raises:
            GuardError: no evaluation at so low noise, or records without angles.
        """
        start = self.since_log_snr - ROUNDING
        low = [record for record in records if record.noise.log_snr >= start]
        note = NOTES[self.against]
        if not low or any(note not in record.notes for record in low):
            raise GuardError(
                f"records with '{note}' at a log-SNR of {self.since_log_snr:g} or more were "
                f"expected, got {len(low)} of {len(records)} at that level; run the pipeline to "
                "its end under guard(pipe, Watched(guidance))"
            )
        mean = torch.stack([record.notes[note] for record in low]).mean(0)
        return matches(mean if self.against == "score" else -mean)
