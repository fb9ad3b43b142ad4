"""Guidance methods, one file each: frozen dataclasses that inherit `Guidance`."""

from anechoic.guidance.amg import AntiMemorization
from anechoic.guidance.base import Guidance, as_guidance
from anechoic.guidance.cfg import ClassifierFree
from anechoic.guidance.compose import During, Prompted, Sequence
from anechoic.guidance.interval import Interval
from anechoic.guidance.projection import Projection
from anechoic.guidance.screen import Screened
from anechoic.guidance.substitution import CaptionSubstitution
from anechoic.guidance.transition import DynamicTransition, TransitionPoint
from anechoic.guidance.triggers import BasinEdge, LogSNR, Progress, Timestep
from anechoic.guidance.volume import GramVolume

__all__ = [
    "AntiMemorization",
    "BasinEdge",
    "CaptionSubstitution",
    "ClassifierFree",
    "During",
    "DynamicTransition",
    "GramVolume",
    "Guidance",
    "Interval",
    "LogSNR",
    "Progress",
    "Projection",
    "Prompted",
    "Screened",
    "Sequence",
    "Timestep",
    "TransitionPoint",
    "as_guidance",
]
