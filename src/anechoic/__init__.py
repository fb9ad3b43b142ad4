"""anechoic: generations that do not echo their training data.

Names load on first use, so that importing the package stays cheap.
"""

from __future__ import annotations

from anechoic.lazy import on_first_use

__version__ = "0.1.0"

_HOMES = {
    "guard": "anechoic.hf",
    "Trace": "anechoic.hf",
    "ClassifierFree": "anechoic.guidance",
    "AntiMemorization": "anechoic.guidance",
    "TransitionPoint": "anechoic.guidance",
    "DynamicTransition": "anechoic.guidance",
    "TrainingIndex": "anechoic.index",
    "embedder": "anechoic.embed",
    "NoiseLevel": "anechoic.noise",
    "Guided": "anechoic.step",
    "Record": "anechoic.step",
    "Step": "anechoic.step",
    "AnechoicError": "anechoic.errors",
    # diffusers loads a pipeline's own codec class from the top of its package, and asks the
    # same package for the base class whose `from_pretrained` to call
    "MelCodec": "anechoic.demo.codec",
    "ModelMixin": "diffusers.models.modeling_utils",
}
__all__ = [name for name in _HOMES if name not in ("MelCodec", "ModelMixin")]

__getattr__, __dir__ = on_first_use(__name__, _HOMES)
