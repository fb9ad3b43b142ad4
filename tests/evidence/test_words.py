"""What the figures say in sentences, and that none says more than its figure."""

from __future__ import annotations

from typing import Any

import pytest

from anechoic.errors import BadSetting
from anechoic.evidence.words import (
    ORDINARY_UNASKED,
    audit_sentence,
    case_sentence,
    coverage_sentence,
    ordinary_sentences,
)

CLIP = {"id": "c1", "caption": "a violin"}


def row(prompt: str = "p", guard: str = "none", copy: bool | None = True, **more: Any) -> dict:
    return {"name": "a.wav", "prompt": prompt, "seed": 3, "guard": guard, "training": CLIP,
            "own": None, "score": 0.95, "replicates": copy, **more}  # fmt: skip


def content(*rows: dict, null: tuple[float, ...] | None = (0.1, 0.96), **more: Any) -> dict:
    calibration = None if null is None else {"null": list(null)}
    rule = {"threshold": 0.9, "held_out": len(null) if null else None}
    group = {"guard": "none", "label": "unguarded", "examined": len(rows), "replications": 1,
             "expected": 0.5}  # fmt: skip
    return {"noun": "generation", "rule": rule, "examined": rows, "unexamined": [],
            "guards": [group], "detectors": [{"decides": True, "calibration": calibration}],
            "index": {"clips": 1715, "seconds": 1758.0}, **more}  # fmt: skip


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ((content(), row()), "than all but 1 of 2 comparison recordings, which were not in the"),
        ((content(null=(0.1, 0.2)), row()), "than any of 2 comparison recordings, which were not"),
        ((content(null=None), row()), "reaches 0.900, the limit for copies; how often sound that"),
        ((content(rule=None), row(copy=None)), "(score 0.950); it was not judged."),
        (
            (content(), row(copy=False)),
            "under 0.900, the limit for copies: nothing was proved, and",
        ),
        ((content(), row(training=None)), "is like no recording of the index as far as"),
        ((content(), row(guard="amg")), "with seed 3, the model, under the guard “amg”, made"),
        ((content(noun="file"), row()), "The file “a.wav” is more like one recording"),
    ],
)
def test_a_case_is_a_sentence(found: tuple, words: str) -> None:
    assert words in case_sentence(*found)


def test_copies_of_ordinary_prompts_are_counted_in_a_thousand() -> None:
    rows = [row(f"p{i}", copy=i == 0, own=CLIP if i == 1 else None) for i in range(4)]
    audit = content(*rows, row("else"))
    first, last = ordinary_sentences(audit, [f"p{i}" for i in range(4)])
    assert first.startswith("unguarded: of 4 sounds from 4 ordinary prompts, 1 are over the limit,")
    assert "250 in 1,000 (95 % interval 6 to 806)" in first
    assert "1 of 4 are word for word a caption" in last


def test_ordinary_prompts_that_nobody_named_are_said_to_be_unasked() -> None:
    assert [*ordinary_sentences(content(row()), [])] == [ORDINARY_UNASKED]
    with pytest.raises(BadSetting, match="that the audit asked for, got 'q'"):
        [*ordinary_sentences(content(row()), ["q"])]


def test_chance_and_coverage_are_told_or_said_to_be_unknown() -> None:
    audit = content(row())
    assert audit_sentence(audit, "none") == (
        "Of 1 generations (unguarded), 1 are over the limit for copies; chance alone would explain "
        "about 0.5."
    )
    assert coverage_sentence(audit, 0.8) == (
        "The index holds 1,715 recordings, 29.3 minutes together. As the examiner states, this is "
        "80 % of the training set."
    )
    assert coverage_sentence(audit, None).endswith("was not stated.")
