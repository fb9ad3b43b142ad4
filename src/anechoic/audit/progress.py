"""Progress of an audit, with an estimate of the time left."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class AuditProgress:
    """Finished and total sounds, and the time left."""

    done: int
    total: int
    left_s: float | None  # None: nothing has been timed yet


class ProgressTimer:
    """Estimates the time left from the times of each kind of work in this run.

    Work finished in an earlier run takes hardly any time and is not counted. A kind of work without
    a time yet is assumed to take as long as the slowest one.
    """

    def __init__(
        self,
        plan: Sequence[Sequence[str]],
        report: Callable[[AuditProgress], None],
        at_once: int = 1,
    ):
        """Args: plan: the kinds of work of each sound, in order. at_once: number of workers."""
        self.plan, self.report, self.at_once, self.done = plan, report, at_once, 0
        self._left = Counter(kind for kinds in plan for kind in kinds)
        self._seconds: dict[str, float] = defaultdict(float)
        self._timed: Counter[str] = Counter()
        self.times: list[tuple[str, float]] = []  # all that was timed
        report(self.progress)

    @contextmanager
    def timed(self, kind: str) -> Iterator[None]:
        """Time a piece of work, also if it fails."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add([(kind, time.perf_counter() - start)])

    def add(self, times: Sequence[tuple[str, float]]) -> None:
        """Add times of finished work: kind and seconds."""
        self.times += times
        for kind, seconds in times:
            self._seconds[kind] += seconds
            self._timed[kind] += 1

    def finish(self) -> None:
        """Count the next sound of the plan as done."""
        self._left.subtract(self.plan[self.done])
        self.done += 1
        self.report(self.progress)

    @property
    def progress(self) -> AuditProgress:
        """The current progress."""
        means = {kind: self._seconds[kind] / count for kind, count in self._timed.items()}
        rest = {kind: count for kind, count in self._left.items() if count > 0}
        slowest = max(means.values(), default=0.0)
        left_s = sum(count * means.get(kind, slowest) for kind, count in rest.items())
        left_s /= self.at_once
        return AuditProgress(self.done, len(self.plan), None if rest and not means else left_s)
