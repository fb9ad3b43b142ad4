"""The entry points of the packages that are installed: guards, models, embedders, commands."""

from __future__ import annotations

import sys
from functools import cache
from importlib import metadata


def entry_points(group: str) -> metadata.EntryPoints:
    """The entry points of a group, as `importlib.metadata` finds them on the path of modules.

    They are read once for each path: that opens a file of every package that is installed.
    """
    return _found(group, tuple(sys.path))


@cache
def _found(group: str, path: tuple[str, ...]) -> metadata.EntryPoints:
    return metadata.entry_points(group=group)
