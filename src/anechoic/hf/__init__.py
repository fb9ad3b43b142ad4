"""Guarding stock diffusers pipelines."""

from anechoic.hf.guard import Trace, guard
from anechoic.hf.pipelines import fingerprint
from anechoic.hf.refine import refine

__all__ = ["Trace", "fingerprint", "guard", "refine"]
