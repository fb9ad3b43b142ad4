"""Guarding stock diffusers pipelines."""

from anechoic.diffusers.guard import Trace, guard
from anechoic.diffusers.pipelines import fingerprint
from anechoic.diffusers.refine import generate_refined, refine

__all__ = ["Trace", "fingerprint", "generate_refined", "guard", "refine"]
