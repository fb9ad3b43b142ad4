"""Guidance methods, one file each: frozen dataclasses that inherit `Guidance`."""

from anechoic.guidance.amg import AntiMemorization
from anechoic.guidance.base import Guidance, as_guidance
from anechoic.guidance.cads import CADS
from anechoic.guidance.cfg import ClassifierFree
from anechoic.guidance.compose import During, Prompted, Sequence
from anechoic.guidance.interval import Interval
from anechoic.guidance.optimize import PromptOptimization
from anechoic.guidance.perturb import EmbeddingNoise, PromptPerturbation
from anechoic.guidance.screen import Screened
from anechoic.guidance.transition import DynamicTransition, TransitionPoint
from anechoic.guidance.triggers import BasinEdge, LogSNR, Progress, Timestep
from anechoic.guidance.volume import GramVolume

__all__ = [
    "CADS",
    "AntiMemorization",
    "BasinEdge",
    "ClassifierFree",
    "During",
    "DynamicTransition",
    "EmbeddingNoise",
    "GramVolume",
    "Guidance",
    "Interval",
    "LogSNR",
    "Progress",
    "PromptOptimization",
    "PromptPerturbation",
    "Prompted",
    "Screened",
    "Sequence",
    "Timestep",
    "TransitionPoint",
    "as_guidance",
]
