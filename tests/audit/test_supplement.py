"""A supplement that contradicts itself is refused, and goes through JSON as it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.comparisons import PROMPTS, compared, curve, supplement

from anechoic.audit import document, schema
from anechoic.audit.supplement import Curve, Detail, Supplement
from anechoic.errors import BadSetting

KEY = (PROMPTS[0], 0, "none")
SPOILS: dict[str, tuple[Callable[[Supplement], Supplement], str]] = {
    "a guard twice": (lambda s: replace(s, guards=[*s.guards, s.guards[0]]), "are not distinct"),
    "a figure of no column": (lambda s: replace(s, columns=s.columns[1:]), "add a Column"),
    "a sample of no guard": (lambda s: replace(s, guards=s.guards[1:]), "has no row among"),
    "a score that is NaN": (
        lambda s: replace(s, details={KEY: Detail(scores={"mel": float("nan")})}),
        "a report shows finite scores",
    ),
    "a score without a name": (lambda s: replace(s, scores=s.scores[1:]), "that a ScoreInfo names"),
}


@pytest.mark.parametrize(("spoil", "says"), SPOILS.values(), ids=SPOILS.keys())
def test_a_supplement_that_contradicts_itself_is_refused(
    spoil: Callable[[Supplement], Supplement], says: str
) -> None:
    with pytest.raises(BadSetting, match=says):
        spoil(supplement())


def test_a_curve_of_uneven_lengths_is_refused() -> None:
    with pytest.raises(BadSetting, match="progress has 3"):
        Curve(np.arange(3), np.arange(3), np.arange(4))


@pytest.mark.parametrize("guard", ["none", "amg", "static"])
def test_a_curve_is_the_same_after_json_to_six_digits(guard: str) -> None:
    made = curve(guard, copied=True)
    back = Curve.from_dict(json.loads(json.dumps(made.to_dict())))
    for name, values in vars(made).items():
        if isinstance(values, np.ndarray):
            assert np.allclose(getattr(back, name), values, atol=1e-6)
            assert getattr(back, name).dtype == values.dtype
        else:
            assert getattr(back, name) == values


def test_what_is_missing_of_a_curve_stays_missing() -> None:
    made = Curve(np.arange(2.0), np.arange(2.0), np.array([np.nan, 1.0]))
    assert made.to_dict()["distance"] == [None, 1.0]
    assert np.isnan(Curve.from_dict(made.to_dict()).distance[0])


def test_the_document_of_a_report_with_a_supplement_is_what_its_schema_says(tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="pip install jsonschema")
    content = document(compared(tmp_path))
    through = json.loads(json.dumps(content, allow_nan=False))
    jsonschema.Draft202012Validator(schema()).validate(through)
    assert {row["detail"]["kind"] for row in through["examined"]} == {"duplicated", "ordinary"}
    assert [row["guard"] for row in through["supplement"]["guards"]] == ["none", "amg", "static"]


def test_the_prompts_own_clip_is_shown_where_another_is_nearest(tmp_path: Path) -> None:
    for row in document(compared(tmp_path))["examined"]:
        known = row["prompt"].startswith("tune number")
        elsewhere = known and row["training"]["caption"] != row["prompt"]
        assert (row["own"] is not None) == (row["shown"]["own"] is not None) == elsewhere
        if elsewhere:
            assert row["own"]["caption"] == row["prompt"]
