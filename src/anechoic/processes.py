"""This machine's processors, and processes that share them."""

from __future__ import annotations

import os
import pickle
import signal
import sys
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import connection, get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

from anechoic.errors import BadSetting


def usable_cores() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads_each(jobs: int = 1) -> int:
    """Threads for each of `jobs` processes, which share OMP_NUM_THREADS (Ray sets it for its
    workers, too) or all usable cores."""
    total = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, (int(total) if total.isdecimal() else usable_cores()) // jobs)


@dataclass(frozen=True)
class Shared:
    """A value for many calls, in a file that each process reads once."""

    path: Path

    @property
    def value(self) -> Any:
        """The value; each process has one copy."""
        return _read(self.path)


class WorkerPool(Executor):
    """An executor for a `with` block: after an error, running calls are finished; after an
    interrupt, they are ended."""

    def stop(self) -> None:
        """End running calls at once."""
        raise NotImplementedError

    def close(self) -> None:
        """End after the running calls."""
        self.shutdown(cancel_futures=True)

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self.stop()
        self.close()


class Processes(WorkerPool, ProcessPoolExecutor):
    """Processes that share the threads, and end with this process, even if it is killed.

    They import the caller's main module: in a script, use them under
    `if __name__ == "__main__":`.

    Args:
        jobs: the number of processes.

    Raises:
        BadSetting: jobs below 1.
    """

    def __init__(self, jobs: int):
        if jobs < 1:
            raise BadSetting(f"expected 1 job or more, got {jobs}")
        context = get_context("spawn")
        watched, self._held = context.Pipe(duplex=False)
        self.count = jobs
        self._folder = TemporaryDirectory(prefix="anechoic-")
        super().__init__(
            jobs, mp_context=context, initializer=_begin, initargs=(watched, threads_each(jobs))
        )

    def shared(self, value: Any) -> Shared:
        """A value that each process reads once.

        Raises:
            BadSetting: it cannot be pickled.
        """
        path = Path(self._folder.name, f"{len(list(Path(self._folder.name).iterdir()))}.pickle")
        try:
            with path.open("wb") as file:
                pickle.dump(value, file, pickle.HIGHEST_PROTOCOL)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise BadSetting(
                f"expected values that can be pickled for other processes, got one that cannot "
                f"({error}); define functions at the top of a module, or use one job"
            ) from error
        return Shared(path)

    def stop(self) -> None:
        """End running calls at once: the processes watch a pipe, which this closes."""
        self._held.close()

    def close(self) -> None:
        super().close()
        self._held.close()
        self._folder.cleanup()


@cache
def _read(path: Path) -> Any:
    with path.open("rb") as file:
        return pickle.load(file)


def _begin(watched: connection.Connection, threads: int) -> None:
    """Start a worker: limit its threads, and end it when the main process ends."""

    def end() -> None:
        connection.wait([watched])
        os._exit(1)

    os.environ["OMP_NUM_THREADS"] = str(threads)
    if "torch" in sys.modules:  # the caller's main module imported it: too late for the variable
        sys.modules["torch"].set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to the whole group
    Thread(target=end, daemon=True).start()
