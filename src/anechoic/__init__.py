"""anechoic: generations that do not echo their training data.

Names load on first use, so that importing the package stays cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anechoic.lazy import on_first_use

if TYPE_CHECKING:  # the same names as below, so that a type checker sees them
    from anechoic.auto import Auto
    from anechoic.detectors import locate
    from anechoic.diffusers.pool import PipelinePool
    from anechoic.embedders import embedder
    from anechoic.errors import AnechoicError
    from anechoic.guards import Trace, guard
    from anechoic.guidance import (
        AntiMemorization,
        ClassifierFree,
        DynamicTransition,
        TransitionPoint,
    )
    from anechoic.guidance.base import Guidance
    from anechoic.guidance.noise import NoiseLevel
    from anechoic.guidance.step import Guided, Record, Step
    from anechoic.index import TrainingIndex
    from anechoic.protection import protect
    from anechoic.types import Match
    from anechoic.verdict import Verdict, Verifier

__version__ = "0.1.0"
__all__ = [
    "AnechoicError", "AntiMemorization", "Auto", "ClassifierFree", "DynamicTransition", "Guidance",
    "Guided", "Match", "NoiseLevel", "PipelinePool", "Record", "Step", "Trace", "TrainingIndex",
    "TransitionPoint", "Verdict", "Verifier", "embedder", "guard", "locate",
    "protect",
]  # fmt: skip

if not TYPE_CHECKING:  # a type checker would take any name for one that exists
    __getattr__, __dir__ = on_first_use(
        __name__,
        {
            "anechoic.auto": ("Auto",),
            "anechoic.detectors": ("locate",),
            "anechoic.diffusers.pool": ("PipelinePool",),
            "anechoic.embedders": ("embedder",),
            "anechoic.errors": ("AnechoicError",),
            "anechoic.guidance": (
                "AntiMemorization",
                "ClassifierFree",
                "DynamicTransition",
                "TransitionPoint",
            ),
            "anechoic.guidance.base": ("Guidance",),
            "anechoic.guidance.noise": ("NoiseLevel",),
            "anechoic.guidance.step": ("Guided", "Record", "Step"),
            "anechoic.guards": ("Trace", "guard"),
            "anechoic.index": ("TrainingIndex",),
            "anechoic.protection": ("protect",),
            "anechoic.types": ("Match",),
            "anechoic.verdict": ("Verdict", "Verifier"),
        },
    )
