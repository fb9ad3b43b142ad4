"""Guidance in a limited interval of noise levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from anechoic.errors import BadSetting
from anechoic.guidance.base import Guidance
from anechoic.guidance.cfg import check_scale
from anechoic.guidance.step import Guided, Needs, Record, Step, StepInfo
from anechoic.guidance.triggers import LogSNR, Progress, Timestep, as_trigger


@dataclass(frozen=True)
class Interval(Guidance):
    """Classifier-free guidance between two points, the conditional estimate alone outside.

    The paper's best interval for SDXL is sigma/alpha in (0.28, 5.42], which is the default. It was
    chosen for quality. As a guard it holds guidance back while the noise is high, as the
    attraction-basin methods do, but at scale 1 rather than 0: if a model's conditional estimate
    alone copies, as the demo model's does, the copies remain. The unconditional half is not
    computed outside.

    Args:
        scale: guidance scale inside.
        start: the point at which guidance starts, `LogSNR`, `Timestep` or `Progress`; a plain
            number is a share of the schedule.
        stop: the point at which guidance ends.
        both_halves: compute both halves outside, too, so that the trace has d_t everywhere.

    Source: Kynkaanniemi et al., 2024 (arXiv:2404.07724).
    """

    scale: float = 7.0
    start: LogSNR | Progress | Timestep | float = LogSNR(-3.38)
    stop: LogSNR | Progress | Timestep | float = LogSNR(2.55)
    both_halves: bool = False

    def __post_init__(self) -> None:
        check_scale(self.scale)
        for name in ("start", "stop"):
            object.__setattr__(self, name, as_trigger(getattr(self, name)))
        check_order(self.start, self.stop)

    def idle(self, records: Sequence[Record]) -> str | None:
        return without_effect([self._inside(record) for record in records])

    def needs(self, info: StepInfo) -> Needs:
        return "both" if self.both_halves or self._inside(info) else "cond"

    def looks_back(self) -> bool:
        return False

    def __call__(self, step: Step) -> Guided:
        return Guided(self.scale if self._inside(step) else 1.0)

    def _inside(self, info: StepInfo) -> bool:
        start, stop = as_trigger(self.start), as_trigger(self.stop)
        return start.reached(info) and not stop.reached(info)


def without_effect(inside: Sequence[bool], may_be_all: bool = False) -> str | None:
    """Why an interval had no effect, from whether each evaluation was inside it."""
    if not any(inside):
        return "no step was inside its interval; choose an earlier start or a later stop"
    if all(inside) and not may_be_all:
        return "every step was inside its interval; choose a later start or an earlier stop"
    return None


def check_order(start: object, stop: object) -> None:
    """Refuse an interval that is empty.

    Raises:
        BadSetting: it ends where, or before, it starts.
    """
    for kind, of, sign in ((LogSNR, "value", 1), (Progress, "share", 1), (Timestep, "t", -1)):
        if isinstance(start, kind) and isinstance(stop, kind):
            begin, end = getattr(start, of), getattr(stop, of)
            if sign * begin >= sign * end:
                raise BadSetting(f"expected an interval that ends after it starts, got {start} "
                                 f"to {stop}; swap them")  # fmt: skip
