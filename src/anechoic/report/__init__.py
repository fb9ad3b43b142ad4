"""From plain data to one self-contained HTML page: no torch, no diffusers, no network."""

from anechoic.report.page import write_page
from anechoic.report.story import (
    Case,
    Clip,
    Column,
    Curve,
    Figure,
    Generation,
    Judge,
    MethodRow,
    Story,
)

__all__ = [
    "Case",
    "Clip",
    "Column",
    "Curve",
    "Figure",
    "Generation",
    "Judge",
    "MethodRow",
    "Story",
    "write_page",
]
