"""How far an audit is, and how long the rest will take."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class AuditProgress:
    """How far an audit is."""

    done: int
    total: int
    left_s: float | None  # None: nothing has been timed yet


class ProgressTimer:
    """Tells the time left from what each kind of work took in this run.

    What was finished earlier takes next to none, and is not timed. A kind that was not timed yet
    is taken to last as long as the slowest that was.
    """

    def __init__(
        self,
        plan: Sequence[Sequence[str]],
        report: Callable[[AuditProgress], None],
        at_once: int = 1,
    ):
        """Args: plan: the kinds of work of everything that is to be done, in its order.
        at_once: how many workers there are."""
        self.plan, self.report, self.at_once, self.done = plan, report, at_once, 0
        self._left = Counter(kind for kinds in plan for kind in kinds)
        self._seconds: dict[str, float] = defaultdict(float)
        self._timed: Counter[str] = Counter()
        self.times: list[tuple[str, float]] = []  # all that was timed
        report(self.progress)

    @contextmanager
    def timed(self, kind: str) -> Iterator[None]:
        """Work of a kind; if it fails its time counts all the same."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add([(kind, time.perf_counter() - start)])

    def add(self, times: Sequence[tuple[str, float]]) -> None:
        """Work of some kinds took so many seconds."""
        self.times += times
        for kind, seconds in times:
            self._seconds[kind] += seconds
            self._timed[kind] += 1

    def finish(self) -> None:
        """The next of the plan is done."""
        self._left.subtract(self.plan[self.done])
        self.done += 1
        self.report(self.progress)

    @property
    def progress(self) -> AuditProgress:
        """How far it is."""
        means = {kind: self._seconds[kind] / count for kind, count in self._timed.items()}
        rest = {kind: count for kind, count in self._left.items() if count > 0}
        slowest = max(means.values(), default=0.0)
        left_s = sum(count * means.get(kind, slowest) for kind, count in rest.items())
        left_s /= self.at_once
        return AuditProgress(self.done, len(self.plan), None if rest and not means else left_s)
