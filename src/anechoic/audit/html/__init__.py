"""From plain data to one self-contained HTML page: no torch, no diffusers, no network."""

from anechoic.audit.html.page import write_page
from anechoic.audit.html.story import (
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
