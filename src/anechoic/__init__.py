"""anechoic: generations that do not echo their training data.

Names load on first use, so that importing the package stays cheap.
"""

from __future__ import annotations

from anechoic.lazy import on_first_use

__version__ = "0.1.0"

_HOMES = {
    "guard": "anechoic.diffusers",
    "Trace": "anechoic.diffusers",
    "ClassifierFree": "anechoic.guidance",
    "AntiMemorization": "anechoic.guidance",
    "TransitionPoint": "anechoic.guidance",
    "DynamicTransition": "anechoic.guidance",
    "TrainingIndex": "anechoic.index",
    "embedder": "anechoic.embedders",
    "NoiseLevel": "anechoic.guidance.noise",
    "Guided": "anechoic.guidance.step",
    "Record": "anechoic.guidance.step",
    "Step": "anechoic.guidance.step",
    "AnechoicError": "anechoic.errors",
}
__all__ = list(_HOMES)

__getattr__, __dir__ = on_first_use(__name__, _HOMES)
