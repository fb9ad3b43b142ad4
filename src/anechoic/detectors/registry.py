"""Detectors by name, for the command line.

A package adds a detector through the entry point group "anechoic.detectors": a name, and a class
that makes an `anechoic.detectors.Detector` or `RunDetector`.
"""

from __future__ import annotations

from typing import Any

from anechoic.errors import BadSetting, did_you_mean
from anechoic.plugins import entry_points

GROUP = "anechoic.detectors"


def names() -> list[str]:
    """The detectors that are installed."""
    return sorted(point.name for point in entry_points(group=GROUP))


def detector(name: str) -> type[Any]:
    """The class of a detector.

    Args:
        name: "nearest", "cosine", "nearest-ratio", "segments", "correlation", "landmarks",
            "transposed", "notes", "magnitude", "angle", or one that an installed package adds.

    Raises:
        BadSetting: an unknown name.
    """
    for point in entry_points(group=GROUP):
        if point.name == name:
            kind: type[Any] = point.load()
            return kind
    raise BadSetting(
        f"expected a detector among {', '.join(names()) or 'none installed'}, got {name!r}"
        + (did_you_mean(name, names()) or "; correct it, or install the package that has it")
    )
