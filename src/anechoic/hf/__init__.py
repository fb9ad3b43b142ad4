"""Guarding stock diffusers pipelines."""

from anechoic.hf.guard import Trace, guard
from anechoic.hf.pipelines import fingerprint

__all__ = ["Trace", "fingerprint", "guard"]
