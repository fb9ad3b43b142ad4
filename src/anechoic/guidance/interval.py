"""Guidance in a limited interval of noise levels."""

from __future__ import annotations

from dataclasses import dataclass

from anechoic.errors import BadSetting
from anechoic.guidance.cfg import check_scale
from anechoic.guidance.points import LogSNR, Progress, Timestep, as_point
from anechoic.step import Guided, Step


@dataclass(frozen=True)
class Interval:
    """Classifier-free guidance between two points, the conditional estimate alone outside.

    The paper's best interval for SDXL is sigma/alpha in (0.28, 5.42], which is the default. It was
    made for quality; as a guard it holds guidance back while the noise is high, as the
    attraction-basin methods do, but at scale 1 rather than 0: on a model whose conditional
    estimate alone copies, as the demo model's does, that leaves the copies.

    Args:
        scale: guidance scale inside.
        since: `LogSNR`, `Timestep` or `Progress` from which on it is guided; a plain number is a
            share of the schedule.
        until: the point at which guidance ends.

    Source: Kynkaanniemi et al., 2024 (arXiv:2404.07724).
    """

    scale: float = 7.0
    since: LogSNR | Progress | Timestep | float = LogSNR(-3.38)
    until: LogSNR | Progress | Timestep | float = LogSNR(2.55)

    def __post_init__(self) -> None:
        check_scale(self.scale)
        for name in ("since", "until"):
            object.__setattr__(self, name, as_point(getattr(self, name)))
        check_order(self.since, self.until)

    def __call__(self, step: Step) -> Guided:
        inside = as_point(self.since).reached(step) and not as_point(self.until).reached(step)
        return Guided(self.scale if inside else 1.0)


def check_order(since: object, until: object) -> None:
    """Refuse an interval that is empty.

    Raises:
        BadSetting: it ends where, or before, it starts.
    """
    for kind, of, sign in ((LogSNR, "value", 1), (Progress, "share", 1), (Timestep, "t", -1)):
        if isinstance(since, kind) and isinstance(until, kind):
            start, end = getattr(since, of), getattr(until, of)
            if sign * start >= sign * end:
                raise BadSetting(f"an interval that ends after it starts was expected, got {since} "
                                 f"to {until}; swap them")  # fmt: skip
