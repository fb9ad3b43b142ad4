"""Where large jobs run: in processes of this machine, or on an engine that a package adds.

A package adds an engine through the entry point group "anechoic.engines": a name, and a class that
is made without arguments and satisfies `Engine`. `anechoic[ray]` adds "ray".
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Any, Protocol

from anechoic.errors import BadSetting
from anechoic.plugins import entry_points

GROUP = "anechoic.engines"
LOCAL = "local"


class SharedValue(Protocol):
    """A value that is sent to each worker of a pool once."""

    @property
    def value(self) -> Any: ...


class Pool(Protocol):
    """An executor of calls: processes of this machine, or tasks of a cluster."""

    count: int  # calls that run at once

    def submit(self, function: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        """Call a function in a worker; it and its arguments have to be picklable."""
        ...

    def shared(self, value: Any) -> SharedValue:
        """Share a value among many calls."""
        ...


class Engine(Protocol):
    """Runs work on many machines."""

    def tasks(self, jobs: int | None = None) -> AbstractContextManager[Any]:
        """A `Pool` of `jobs` tasks; None: as many as the engine has GPUs or cores."""
        ...

    def builder(self, workers: int | None, *, cpus: float = 1.0, gpus: float = 0.0) -> Any:
        """A function that embeds the units of an index (`anechoic.index.build.Run`)."""
        ...

    def encode(self, *arguments: Any) -> Any:
        """Compute the codes of shards (`anechoic.index.search.Encode`)."""
        ...


def find(name: str) -> Engine | None:
    """The engine with a name; None: this machine.

    Raises:
        BadSetting: no installed package adds an engine of this name.
    """
    if name == LOCAL:
        return None
    points = {point.name: point for point in entry_points(group=GROUP)}
    if name == "ray" and name not in points:
        raise BadSetting(
            "engine 'ray' needs Ray, which is not installed: pip install 'anechoic[ray]'"
        )
    if name not in points:
        raise BadSetting(f"expected the engine {' or '.join([LOCAL, *points])}, got '{name}'")
    engine: Engine = points[name].load()()
    return engine
