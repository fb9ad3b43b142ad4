"""Guidance methods, one file each: a frozen dataclass with `__call__(step)`."""

from anechoic.guidance.amg import AntiMemorization
from anechoic.guidance.basin import (
    DynamicTransition,
    LogSNR,
    Progress,
    Timestep,
    TransitionPoint,
)
from anechoic.guidance.cfg import ClassifierFree

__all__ = [
    "AntiMemorization",
    "ClassifierFree",
    "DynamicTransition",
    "LogSNR",
    "Progress",
    "Timestep",
    "TransitionPoint",
]
