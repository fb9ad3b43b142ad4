"""What makes a verdict less sure than it looks: few sounds, or held-out sound of another length."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from anechoic.audit.result import Report
from anechoic.detectors import Calibration

FEW = 0.1  # a share that may be as high although nothing was found
LOOSE = 2.0  # how many times its nominal rate a threshold's true one may be
LONGER = 1.25  # than the held-out sound: from there on it matters


def cautions(report: Report) -> list[str]:
    """A sentence for each reason to doubt the verdict of a report."""
    if not report.examined:
        return []
    known = report.rule.calibration
    found = [_unknown_rate(report)] if known is None else [_few_held_out(known)]
    if known is not None and known.seconds is not None:
        lengths = [one.examination.seconds for one in report.examined]
        found.append(_another_length(known.seconds, median(lengths), report.noun))
    return [told for told in [*found, _few_prompts(report)] if told]


def _unknown_rate(report: Report) -> str:
    if report.rule.false_positive_rate is not None:
        return ""
    return (
        "How often sound that copies nothing is over this threshold is not known: give held-out "
        "sound, or calibrate the index."
    )


def _few_held_out(known: Calibration) -> str:
    low, high = known.false_positive_interval
    if high <= LOOSE * known.false_positive_rate:
        return ""
    return (
        f"{len(known.null)} held-out sounds are few: the true rate of false positives lies within "
        f"{100 * low:.2g} % and {100 * high:.2g} %."
    )


def _another_length(held_out: float, examined: float, noun: str) -> str:
    if 1 / LONGER < examined / held_out < LONGER:
        return ""
    more = "more" if examined > held_out else "less"
    return (
        f"The held-out sounds last {held_out:.3g} s and these {noun}s {examined:.3g} s (medians): "
        f"longer sound has more places to resemble something, so chance makes {more} of it than "
        "is told here."
    )


def _few_prompts(report: Report) -> str:
    """Nothing found among few is no proof; told of the guard of which least is known."""
    open_ends: Sequence[float] = [
        group.share[2] for group in report.groups if group.share and not group.replications
    ]
    if not open_ends or max(open_ends) <= FEW:
        return ""
    prompts = "prompts" if report.count.prompts else f"{report.noun}s"
    return (
        f"Few {prompts} exclude little: where nothing was found, up to "
        f"{100 * max(open_ends):.0f} % of such {report.noun}s may still replicate (95 %)."
    )
