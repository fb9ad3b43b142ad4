"""How many processors there are to use."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads_each(jobs: int = 1) -> int:
    """Threads for each of so many processes: of OMP_NUM_THREADS, which Ray sets for its workers,
    too, or all usable cores."""
    total = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, (int(total) if total.isdigit() else usable_cores()) // jobs)
