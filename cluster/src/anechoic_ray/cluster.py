"""Ray, where one machine is not enough: a cluster to work on, and an executor of its tasks.

A worker sees the files of the folder that the command was started in, so machines share that
folder, the work folder and whatever else is named; an index may also lie where fsspec reaches.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from logging import ERROR
from typing import Any

from anechoic.errors import BadSetting
from anechoic.processes import WorkerPool

RETRIES = 3  # of what a worker did when it died
STARTS = 3  # of a cluster of this machine alone, whose processes have a quarter of a minute each


@contextmanager
def connected() -> Iterator[Any]:
    """Ray, connected to a cluster.

    It is the one that the program or RAY_ADDRESS names or that was started on this machine
    ('ray start'), or else one of this machine alone, which ends with the block.

    Raises:
        BadSetting: the cluster does not answer.
    """
    # Ray reads these when it is loaded: no usage figures leave the machine, and a worker that dies
    # is reported in a sentence of ours, not in Ray's log
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    if ray.is_initialized():
        yield ray
        return
    for tries in range(STARTS):
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=ERROR)
            break
        except Exception as error:
            # a plain one where its processes did not start in time, as on a busy machine
            if type(error) is Exception and tries + 1 < STARTS:
                ray.shutdown()
                continue
            reason = " ".join(str(error).split())
            raise BadSetting(
                f"no Ray cluster could be reached or started ({reason}); correct RAY_ADDRESS, or "
                "leave it out to work on this machine"
            ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


@dataclass(frozen=True)
class Share:
    """What of a cluster each process may use, and how many of them run at once."""

    count: int
    cpus: int
    gpus: float = 0.0


def share(ray: Any, jobs: int | None = None) -> Share:
    """Split what is free of a cluster among processes.

    Args:
        ray: connected.
        jobs: processes; None: one for each GPU, or where there is none for each CPU.

    Raises:
        BadSetting: jobs below 1, or a cluster without a CPU.
    """
    if jobs is not None and jobs < 1:
        raise BadSetting(f"expected 1 job or more, got {jobs}")
    # one process runs on one machine
    largest = max((int(node["Resources"].get("CPU", 0)) for node in ray.nodes()
                   if node["Alive"]), default=0)  # fmt: skip
    if largest < 1:
        raise BadSetting("the Ray cluster has no CPU to work on; add a machine")
    free = ray.available_resources()
    cpus, gpus = max(1, int(free.get("CPU", 0))), int(free.get("GPU", 0))
    count = jobs or gpus or cpus
    each = max(1, min(cpus // count, largest))
    return Share(count, each, min(1.0, gpus * 10_000 // count / 10_000))


def room(ray: Any, cpus: float, gpus: float, memory_bytes: int = 0) -> int:
    """How many processes that need so much the cluster holds at once."""
    wanted = {"CPU": cpus, "GPU": gpus, "memory": memory_bytes}
    return sum(
        min(int(node["Resources"].get(kind, 0) // need) for kind, need in wanted.items() if need)
        for node in ray.nodes()
        if node["Alive"]
    )


# ----------------------------------------------------------------------------------------- tasks


class Tasks(WorkerPool, ThreadPoolExecutor):
    """An executor whose calls are Ray tasks, so many at once; each thread waits for one.

    A call whose worker is killed is made again, up to `RETRIES` times; then its future raises
    `BrokenExecutor`. What the function raises, the future raises.

    Args:
        ray: connected.
        share: what each task may use.
    """

    def __init__(self, ray: Any, share: Share):
        super().__init__(share.count)
        self.share, self.count = share, share.count
        self._ray = ray
        self._under_way: set[Any] = set()
        options = {"num_cpus": share.cpus, "num_gpus": share.gpus, "max_retries": RETRIES}
        self._remote = ray.remote(**options)(_call)

    def submit(self, function: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        """As of every executor; function and arguments can be pickled."""
        return super().submit(self._answer, function, args, options)

    def shared(self, value: Any) -> Shared:
        """A value for many calls, which is sent to each worker once."""
        return Shared((self._ray.put(value),))

    def stop(self) -> None:
        """End at once what is under way."""
        self.shutdown(wait=False, cancel_futures=True)
        for task in list(self._under_way):
            self._ray.cancel(task, force=True)

    def _answer(self, function: Callable[..., Any], args: Any, options: Any) -> Any:
        from ray.exceptions import RayError, RayTaskError

        task = self._remote.remote(os.getcwd(), function, args, options)
        self._under_way.add(task)
        try:
            return self._ray.get(task)
        except RayTaskError as error:
            raise error.cause from None  # what the function raised, without Ray's frames
        except RayError as error:
            raise BrokenExecutor(" ".join(str(error).split())) from error
        finally:
            self._under_way.discard(task)


@contextmanager
def tasks(jobs: int | None = None) -> Iterator[Tasks]:
    """An executor on a Ray cluster, split among so many tasks.

    Raises:
        BadSetting: the cluster cannot be used.
    """
    with connected() as ray, Tasks(ray, share(ray, jobs)) as pool:
        yield pool


@dataclass(frozen=True)
class Shared:
    """A value in the cluster's store."""

    held: tuple[Any] = field(repr=False)  # its reference; bare, Ray would fetch it for each call

    @property
    def value(self) -> Any:
        """The value; one copy for each process."""
        return _fetched(self.held[0])


@cache
def _fetched(reference: Any) -> Any:
    import ray

    return ray.get(reference)


def enter(folder: str) -> None:
    """Let names of files mean, in a worker, what they mean where the command was started.

    Raises:
        BadSetting: this machine has no such folder.
    """
    try:
        os.chdir(folder)
    except OSError as error:
        raise BadSetting(
            f"a machine of the Ray cluster has no folder '{folder}'; start the command in a folder "
            "that all machines share"
        ) from error


def _call(folder: str, function: Callable[..., Any], args: Any, options: Any) -> Any:
    enter(folder)
    return function(*args, **options)


class Tally:
    """An actor that knows how far the parts of a work are, by their numbers."""

    def __init__(self) -> None:
        self.done: dict[int, int] = {}
        self.begun: Counter[tuple[int, int]] = Counter()

    def begin(self, number: int, done: int) -> int:
        """How often a part has been begun, or gone on with, after so much of it was done."""
        self.begun[number, done] += 1
        return self.begun[number, done]

    def put(self, number: int, done: int) -> None:
        """Note how much of a part is done."""
        self.done[number] = done

    def take(self) -> dict[int, int]:
        """What has been noted since the last time."""
        told, self.done = self.done, {}
        return told
