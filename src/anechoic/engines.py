"""Where large work runs: in processes of this machine, or on an engine that a package adds.

A package adds an engine through the entry point group "anechoic.engines": its name, and a class
without arguments that satisfies `Engine`. `anechoic[ray]` adds "ray".
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from importlib.metadata import entry_points
from typing import Any, Protocol

from anechoic.errors import BadSetting

GROUP = "anechoic.engines"
LOCAL = "local"


class SharedValue(Protocol):
    """A value that a pool sends to each worker once."""

    @property
    def value(self) -> Any: ...


class Pool(Protocol):
    """An executor of calls: processes of this machine, or tasks of a cluster."""

    count: int  # calls at once

    def submit(self, function: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        """Call a function elsewhere; it and its arguments can be pickled."""
        ...

    def shared(self, value: Any) -> SharedValue:
        """A value for many calls."""
        ...


class Engine(Protocol):
    """Many machines that do the work of one."""

    def tasks(self, jobs: int | None = None) -> AbstractContextManager[Any]:
        """A `Pool` of so many tasks; None: as many as the engine has GPUs or cores."""
        ...

    def builder(self, workers: int | None, *, cpus: float = 1.0, gpus: float = 0.0) -> Any:
        """What embeds the units of an index (`anechoic.index.build.Run`)."""
        ...

    def encode(self, *arguments: Any) -> Any:
        """Computes the codes of shards (`anechoic.index.search.Encode`)."""
        ...


def find(name: str) -> Engine | None:
    """The engine of a name; None: this machine.

    Raises:
        BadSetting: no installed package adds such an engine.
    """
    points = {point.name: point for point in entry_points(group=GROUP)}
    if name == LOCAL:
        return None
    if name == "ray" and name not in points:
        raise BadSetting(
            "the engine ray needs Ray, which is not installed: pip install 'anechoic[ray]'"
        )
    if name not in points:
        raise BadSetting(f"expected the engine {' or '.join([LOCAL, *points])}, got '{name}'")
    engine: Engine = points[name].load()()
    return engine
