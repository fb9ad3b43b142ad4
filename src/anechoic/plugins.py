"""The entry points of the packages that are installed: guards, models, embedders, commands."""

from __future__ import annotations

import sys
from functools import cache
from importlib import metadata
from typing import Any


def entry_points(group: str) -> metadata.EntryPoints:
    """The entry points of a group, as `importlib.metadata` finds them on the path of modules.

    They are read once for each path: that opens a file of every package that is installed.
    """
    found: metadata.EntryPoints = _all(tuple(sys.path)).select(group=group)
    return found


@cache
def _all(path: tuple[str, ...]) -> Any:  # before Python 3.12 of another class
    return metadata.entry_points()
