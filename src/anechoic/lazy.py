"""Packages whose names load on first use (PEP 562), so that importing them stays cheap."""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any


def on_first_use(
    package: str, names: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package whose names live in other modules.

    A name must not be that of a module of the package: once that is imported, by whomever, it is
    the module that stands under the name.

    Args:
        package: its `__name__`.
        names: that each module has.
    """

    homes = {name: module for module, found in names.items() for name in found}

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        with uncollected():
            value = getattr(importlib.import_module(homes[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return load, lambda: sorted({*vars(sys.modules[package]), *homes})


@contextmanager
def uncollected() -> Iterator[None]:
    """Import without the garbage collector: modules make many objects and hardly any garbage, and
    to look for some is a tenth of what torch takes to load."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
