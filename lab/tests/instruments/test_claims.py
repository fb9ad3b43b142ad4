"""The rule by which a work file decides a claim."""

from __future__ import annotations

import pytest
from anechoic_lab.instruments import claims, measure
from anechoic_lab.instruments.claims import NOT_DECIDED, NOT_REPRODUCED, REPRODUCED, Comparison
from anechoic_lab.instruments.guards import NAMED
from support.instrument_lines import line

FEWER = Comparison("fewer copies", claims.copied, "auto", "none", less=True)
KEPT = Comparison("adherence", claims.adherence, "auto", "none", kind="no worse")


def pairs(n: int, left: int, adherence: float = 1.0) -> list[measure.Line]:
    """Unguarded copies of n prompts, of which `auto` leaves some, and how well it follows them."""
    clean = {"copied": False, "confirmed": False, "by_rank": False}
    return [line(str(i)) for i in range(n)] + [
        line(str(i), "auto", adherence=adherence, **({} if i < left else clean)) for i in range(n)
    ]


@pytest.mark.parametrize(
    ("n", "left", "expected"),
    [
        (20, 2, REPRODUCED),
        (60, 60, NOT_REPRODUCED),  # an advantage of a tenth is excluded
        (8, 6, NOT_DECIDED),  # neither seen nor excluded
        (3, 0, NOT_DECIDED),  # too few
        (0, 0, NOT_DECIDED),
    ],
)
def test_fewer_copies(n, left, expected):
    assert FEWER.decide(pairs(n, left)).verdict == expected


@pytest.mark.parametrize(
    ("n", "adherence", "expected"),
    [(60, 1.0, REPRODUCED), (60, 0.5, NOT_REPRODUCED), (5, 0.9, NOT_DECIDED)],
)
def test_no_worse_adherence(n, adherence, expected):
    assert KEPT.decide(pairs(n, 0, adherence)).verdict == expected


def test_only_the_same_prompts_and_seeds_of_a_model_are_compared():
    lines = pairs(20, 0)
    elsewhere = [line(str(i), seed=1) for i in range(20)]
    elsewhere += [line(str(i), model="flow") for i in range(20)]
    assert FEWER.decide([*lines, *elsewhere]) == FEWER.decide(lines)


def test_a_copy_is_one_by_two_judges_by_ranks_or_in_part():
    clean = {"confirmed": False, "by_rank": False}
    assert claims.copied(line("a", **clean)) == 0.0
    assert claims.copied(line("a", **clean, in_part=True)) == 1.0
    assert claims.copied(line("a", confirmed=False, by_rank=True)) == 1.0
    assert claims.copied(line("a", confirmed=True, by_rank=None)) == 1.0


def test_a_detector_is_judged_on_the_model_where_it_is_worst():
    def course(model: str, group: str, prompt: int, first: float) -> list[measure.Line]:
        copied = {"confirmed": group == measure.MEMORIZED, "by_rank": None}
        same = {"model": model, "group": group, **copied}
        return [line(str(prompt), **same), line(str(prompt), "cfg", distances=[first], **same)]

    lines = []
    for i in range(30):
        lines += course("flow", measure.MEMORIZED, i, 2.0) + course(
            "flow", measure.ORDINARY, 100 + i, 1.0
        )
    part = claims.Separation("first", claims.first_distance, "cfg")
    assert part.decide(lines).verdict == REPRODUCED
    for i in range(30):
        lines += course("drums", measure.MEMORIZED, i, 1.0) + course(
            "drums", measure.ORDINARY, 100 + i, 1.0
        )
    found = part.decide(lines)
    assert found.verdict == NOT_REPRODUCED
    assert found.what.endswith("on drums")


def test_every_claim_is_decided_by_guards_that_exist():
    letters = []
    for claim in claims.claims(["demo", "drums"]):
        letters.append(claim.letter)
        for part in claim.parts:
            named = [part.better, part.worse] if isinstance(part, Comparison) else [part.guard]
            assert set(named) <= set(NAMED)
    assert letters == list("abcdefghijk")


def test_the_table_says_what_was_not_measured():
    text = claims.claims_table(pairs(20, 0))
    assert "**not decided**" in text
    assert "not measured" in text


def test_every_named_guard_can_be_built_for_a_model():
    subject = measure.subject("drums")
    for name in NAMED:
        assert (measure.guidance(name, subject, 2.0) is None) == (name == "none")
