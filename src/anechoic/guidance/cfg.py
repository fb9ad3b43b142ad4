"""Plain classifier-free guidance."""

from __future__ import annotations

from dataclasses import dataclass

from anechoic.errors import BadSetting
from anechoic.guidance.base import Guidance
from anechoic.guidance.step import Guided, Needs, Step


def check_scale(scale: float) -> None:
    """Refuse a guidance scale at which there is nothing to hold back.

    Raises:
        BadSetting: it is 1 or below.
    """
    if not scale > 1:
        raise BadSetting(
            f"expected a guidance scale above 1, got {scale}; at 1 or below there is no "
            "classifier-free guidance to hold back (Stable Audio Open's own is 7)"
        )


def alone(scale: float) -> Needs:
    """The halves that make up u + scale * (c - u).

    >>> alone(0.0), alone(1.0), alone(7.0)
    ('uncond', 'cond', 'both')
    """
    if scale == 0:
        return "uncond"
    return "cond" if scale == 1 else "both"


@dataclass(frozen=True)
class ClassifierFree(Guidance):
    """u + scale * (c - u), bit for bit what the pipeline itself computes.

    Args:
        scale: classifier-free guidance scale, above 1.

    Source: Ho and Salimans, 2022 (arXiv:2207.12598).
    """

    scale: float = 7.0

    def __post_init__(self) -> None:
        check_scale(self.scale)

    def looks_back(self) -> bool:
        return False

    def __call__(self, step: Step) -> Guided:
        return Guided(self.scale)
