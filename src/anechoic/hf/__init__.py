"""Guarding stock diffusers pipelines."""

from anechoic.hf.guard import Trace, guard
from anechoic.hf.pipelines import fingerprint
from anechoic.hf.refine import generate_refined, refine

__all__ = ["Trace", "fingerprint", "generate_refined", "guard", "refine"]
