"""The page of the bench, from lines alone."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from anechoic_lab.instruments import measure, page
from anechoic_lab.instruments.guards import origin
from anechoic_lab.instruments.measure import MEMORIZED, ORDINARY, HonestTakes, Line
from support.instrument_lines import line

CLEAN = {"copied": False, "confirmed": False, "by_rank": False}


def lines(models: tuple[str, ...] = ("demo", "drums"), n: int = 12) -> list[Line]:
    """Copies without a guard, none under `auto`, all by ranks under full AMG."""
    out = []
    for model in models:
        for i in range(n):
            plain = {"model": model, "seed": 1000}
            ordinary = {**plain, **CLEAN, "group": ORDINARY, "copies": 1}
            course = [1.0 + 0.01 * i, 2.0, 1.0]
            out += [
                line(str(i), **plain), line(f"o{i}", **ordinary),
                line(str(i), "auto", **plain, **CLEAN, adherence=0.5),
                line(f"o{i}", "auto", **ordinary),
                line(str(i), "watched", **plain, similarities=[0.6, None, 0.9, None]),
                line(f"o{i}", "watched", **ordinary, similarities=[0.6, None, 0.7, None]),
                line(str(i), "amg-tuned", **plain, copied=False, confirmed=False),
                line(f"o{i}", "amg-tuned", **ordinary),
                line(str(i), "cfg", **plain, distances=course),
                line(f"o{i}", "cfg", **ordinary, distances=[0.1, 0.2, 0.1]),
            ]  # fmt: skip
    return out


def test_what_to_choose_names_the_models_that_bear_it_out():
    first, second, third = page.choose(lines()).splitlines()
    assert "`auto`" in first
    assert "0 of 24 [0.00, 0.14] memorized prompts are copied, unguarded 24" in first
    assert "fewer copies than without on demo, drums" in first
    assert "Not measured." in second
    assert "not decided on demo, drums" in third
    assert "hardly fewer on demo, drums" in page.choose(lines(n=60)).splitlines()[2]


def test_what_to_choose_names_the_model_whose_ordinary_prompts_lose_most():
    every = [
        replace(x, adherence=0.0)
        if (x.guard, x.group, x.model) == ("auto", ORDINARY, "drums")
        else x
        for x in lines()
    ]
    assert re.search(r"at worst -1\.00 \[.*\] on drums\.", page.choose(every).splitlines()[0])


def test_each_judge_has_its_column_and_each_guard_says_where_it_was_tuned():
    text = page.copies(lines())
    assert "| full AMG | tuned here | demo | 12 | 0 of 12" in text
    assert "| full AMG | not tuned here | drums | 12 | 0 of 12" in text
    (row,) = (one for one in text.splitlines() if one.startswith("| full AMG |  | **all**"))
    assert row.split("|")[5:7] == [" 0 of 24 [0.00, 0.14] ", " 24 of 24 [0.86, 1.00] "]
    assert [origin("amg-tuned", "demo"), origin("amg-tuned", "flow"), origin("amg", "flow"),
            origin("auto", "demo"), origin("despecification", "demo")] == [
        "tuned here", "not tuned here", "defaults", "no settings", "a term",
    ]  # fmt: skip


def test_what_is_kept_is_paired_with_the_unguarded_model():
    text = page.costs(lines())
    assert "| auto | no settings | demo | 0.50, -0.50 [" in text
    assert "| unguarded | no settings | demo | 1.00 | 1.00 | 2.00 | 100 |" in text


def test_how_early_a_copy_can_be_told():
    text = page.early(lines())
    assert "| distance, first evaluation | demo | 1.00 [" in text
    assert "| similarity, first evaluation | drums | 0.50 [" in text
    assert "| similarity, after 40% of the run | drums | 0.50 [" in text  # none since the first
    assert "| similarity, after 60% of the run | drums | 1.00 [" in text
    assert "| similarity, after 100% of the run | drums | 1.00 [" in text


def test_the_page_and_its_figures_are_written_from_lines_alone(tmp_path: Path):
    pytest.importorskip("matplotlib")
    found = lines()
    found += [line(str(i), model="demo", scale=4.0, steps=25) for i in range(4)]
    honest = {"demo": HonestTakes(0.1, 0.1, 0.05, 0.02, 40), "drums": HonestTakes(0, 0, 0, 0, 9, 0)}
    out = tmp_path / "bench.md"
    page.write(out, found, honest, "make bench-all", "a machine")
    text = out.read_text()
    assert f"{len(found)} generations" in text
    assert "{" not in text
    assert "Not run: projection, AMG, defaults," in " ".join(text.split())
    assert "| (b) AMG for sound" in text
    for name in ("bench-copies.png", "bench-adherence.png", "bench-early.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
        assert name in text


def test_judges_of_an_image_leave_their_columns_empty():
    of_images = [line(str(i), model="images", by_rank=None) for i in range(4)]
    row = page.copies(of_images).splitlines()[2]
    assert row.split("|")[6:8] == ["  ", "  "]
    assert measure.honest_table({"images": HonestTakes(0.1, 0.1, 0.1, None, 9)}).endswith("|  |  |")


def test_other_prompts_do_not_change_a_models_row():
    text = page.copies(lines(("demo",)))
    assert [one for one in page.copies(lines()).splitlines() if "| demo |" in one] == [
        one for one in text.splitlines() if "| demo |" in one
    ]
    assert MEMORIZED in {one.group for one in lines()}
