"""anechoic on a Ray cluster: `--engine ray` of index build, audit and bench, and a served index.

An index that many processes build, and a sound that many examine, are those of one process: the
work of each part is the core's own function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anechoic.lazy import on_first_use

if TYPE_CHECKING:
    from anechoic_ray.building import encode, over_ray
    from anechoic_ray.cluster import Tasks, tasks
    from anechoic_ray.serving import served

__all__ = ["RayEngine", "Tasks", "encode", "over_ray", "served", "tasks"]


class RayEngine:
    """What `anechoic.engines` finds under the name "ray"."""

    def tasks(self, jobs: int | None = None) -> Any:
        """An executor of tasks, as a context manager."""
        from anechoic_ray.cluster import tasks

        return tasks(jobs)

    def builder(self, workers: int | None, *, cpus: float = 1.0, gpus: float = 0.0) -> Any:
        """What embeds the units of an index."""
        from anechoic_ray.building import over_ray

        return over_ray(workers, cpus=cpus, gpus=gpus)

    def encode(self, *arguments: Any) -> Any:
        """The codes of shards, for the search structure of an index."""
        from anechoic_ray.building import encode

        return encode(*arguments)


if not TYPE_CHECKING:
    __getattr__, __dir__ = on_first_use(
        __name__,
        {
            "anechoic_ray.building": ("encode", "over_ray"),
            "anechoic_ray.cluster": ("Tasks", "tasks"),
            "anechoic_ray.serving": ("served",),
        },
    )
