"""Counts replications, estimates how many chance explains, and summarizes in sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from anechoic.audit.samples import PLAIN

FALSE_DISCOVERY_RATE = 0.05
MOST_GUARDS = 6  # listed one by one in a sentence


def q_values(p_values: Sequence[float]) -> list[float]:
    """The false-discovery rate at which each p-value is a discovery, by Benjamini and Hochberg.

    It remains valid although the p-values share their held-out sounds and so are dependent.

    Source: Benjamini and Hochberg, 1995; Bates et al., 2023 (arXiv:2104.08279).

    >>> [round(q, 3) for q in q_values([0.01, 0.04, 0.03, 0.5])]
    [0.04, 0.053, 0.053, 0.5]
    """
    from scipy.stats import false_discovery_control

    return false_discovery_control(p_values).tolist() if p_values else []


@dataclass(frozen=True)
class Count:
    """The number of replications, and what chance explains."""

    replications: int | None  # None: not judged
    examined: int
    unexamined: int
    prompts: int  # known prompts of the examined sounds
    prompts_replicating: int
    expected: float | None  # replications if nothing were one
    by_chance: int | None  # replications by chance, at most, in 95 of 100 such audits
    discoveries: int | None  # replications that hold at the false-discovery rate of their guard
    only_elsewhere: int  # copies by another calibrated detector, but not by the deciding one
    expected_elsewhere: float = 0.0  # upper bound of their mean number by chance
    held_out: int | None = None  # sounds that the deciding detector was calibrated on
    held_out_needed: int | None = None  # sounds needed for any replication to hold, if too few


def expected_by_chance(count: int, rate: float | None) -> tuple[float | None, int | None]:
    """How many of `count` sounds are called copies by chance: on average, and at most in 95 of
    100 cases."""
    if rate is None or count == 0:
        return None, None
    from scipy.stats import binom

    return count * rate, int(binom.ppf(0.95, count, rate))


def held_out_needed(calls: int | None, examined: int) -> int | None:
    """How many held-out sounds the replications of one guard need to hold, if all of them score
    above every one. With fewer, the smallest possible p-value, 1 / (n + 1), is too large.

    >>> held_out_needed(14, 20), held_out_needed(0, 20)
    (28, None)
    """
    if not calls:
        return None
    return max(math.ceil(examined / (FALSE_DISCOVERY_RATE * calls) - 1e-9) - 1, 1)


def guard_name(guard: str) -> str:
    """The label of a guard for readers.

    >>> guard_name("none"), guard_name("amg"), guard_name("")
    ('unguarded', 'amg', 'guard unknown')
    """
    return {PLAIN: "unguarded", "": "guard unknown"}.get(guard, guard)


def sentences(
    count: Count,
    noun: str = "sound",
    guards: Sequence[tuple[str, int, int]] = (),
    unjudged: str = "",
) -> list[str]:
    """The verdict and its certainty; what was not judged or not examined comes first.

    Args:
        count: the counts of an audit.
        noun: name of what is counted.
        guards: name, replications and number of examined sounds of each guard, if several.
        unjudged: why no sound was judged, as a clause.

    >>> sentences(Count(9, 20, 1, 5, 3, 1.0, 3, 8, 0), "generation")
    ['1 of 21 generations was not examined. 9 of the 20 examined replicate a training clip; \
chance alone would flag about 1.', '8 of them stand if no more than 5 % of those called so may be \
wrong.']
    """
    total = count.examined + count.unexamined
    first = ""
    if count.unexamined:
        was = "was" if count.unexamined == 1 else "were"
        first = f"{count.unexamined} of {_many(total, noun)} {was} not examined. "
    if not count.examined:
        return [f"{first}Nothing can be said of the training set."]
    if count.replications is None:
        words = [
            f"NOT JUDGED: {count.examined} of {_many(total, noun)}; {unjudged}.",
            f"{first}They are ranked by their scores, and none is called a replication.",
        ]
    else:
        words = [f"{first}{_replicating(count, noun, guards)}", *_standing(count)]
    if count.only_elsewhere:
        verb = "is" if count.only_elsewhere == 1 else "are"
        more = "" if count.replications is None else " more"
        words.append(
            f"{count.only_elsewhere}{more} {verb} called a copy by another detector only; chance "
            f"alone would call up to {_about(count.expected_elsewhere)} so."
        )
    return words


def _replicating(count: Count, noun: str, guards: Sequence[tuple[str, int, int]]) -> str:
    """How many replicate, and what chance explains."""
    total, found = count.examined + count.unexamined, count.replications or 0
    of = f"of the {count.examined} examined" if count.unexamined else f"of {_many(total, noun)}"
    several = guards if len(guards) > 1 else ()
    each = ", ".join(f"{guard_name(guard)}: {hits} of {all_}" for guard, hits, all_ in several)
    by_guard = f" ({each})" if 1 < len(guards) <= MOST_GUARDS else ""
    verb = "replicate" if found > 1 else "replicates"
    chance = _chance(count, several)
    return f"{found or 'None'} {of} {verb} a training clip{by_guard}{chance}."


def _chance(count: Count, guards: Sequence[tuple[str, int, int]]) -> str:
    """How many chance would flag: of each guard if all have equally many sounds, else of all."""
    if count.expected is None or count.by_chance is None or not count.replications:
        return ""
    expected, most, found, of = count.expected, count.by_chance, count.replications, ""
    if len({examined for _, _, examined in guards}) == 1:
        each = guards[0][2]
        found = max(replications for _, replications, _ in guards)
        expected, of = expected * each / count.examined, f" of each {each}"
        most = expected_by_chance(each, expected / each)[1] or 0
    text = f"; chance alone would flag about {_about(expected)}{of}"
    return f"{text}, and up to {most} would be no surprise" if found <= most else text


def _standing(count: Count) -> list[str]:
    """How many replications hold as a set, or why that is unknown."""
    if count.discoveries is None or not count.replications:
        return []
    rate = f"if no more than {100 * FALSE_DISCOVERY_RATE:.0f} % of those called so may be wrong"
    if not count.discoveries and count.held_out_needed is not None:
        return [
            f"{count.held_out} held-out sounds are too few to say how many of them stand {rate}; "
            f"it takes {count.held_out_needed}."
        ]
    stand = "stands" if count.discoveries < 2 else "stand"
    return [f"{count.discoveries or 'None'} of them {stand} {rate}."]


def _about(count: float) -> str:
    return f"{count:.0f}" if count >= 10 else f"{count:.2g}"


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")
