"""A guidance method in a package of its own."""

from __future__ import annotations

from dataclasses import dataclass

from anechoic import Guidance, Guided
from anechoic.guidance.step import Step


@dataclass(frozen=True)
class HalvedEarly(Guidance):
    """Half the guidance until a noise level.

    Args:
        scale: classifier-free guidance scale.
        until: log-SNR up to which it is halved.

    Source: none; an example.
    """

    scale: float = 7.0
    until: float = 0.0

    def __call__(self, step: Step) -> Guided:
        early = step.noise.log_snr < self.until
        return Guided(self.scale / 2 if early else self.scale)
