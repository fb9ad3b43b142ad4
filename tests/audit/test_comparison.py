"""Two audits, paired by prompt and seed: what went, what came, and what cannot be compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scipy.stats import binomtest
from support.audited import save_report
from support.audits import NASTY, training_set
from support.commands import Run, lines

from anechoic.audit.comparison import compare, write_comparison
from anechoic.audit.report import DATA
from anechoic.audit.stored import open_report
from anechoic.errors import BadSetting


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five prompts, two seeds; unguarded, four copy, and under the guard one."""
    return save_report(tmp_path_factory.mktemp("audits"))


def test_copies_that_went_came_and_stayed_are_named(page: Path) -> None:
    report = open_report(page)
    found = compare(report, report, "none", "amg")
    assert (found.before.copies, found.after.copies, found.pairs) == (8, 2, 10)
    assert {(one.prompt, one.seed) for one in found.went} == {
        (f"tune number {i}", seed) for i in range(3) for seed in range(2)
    }
    assert [one.prompt for one in found.stayed] == ["tune number 3"] * 2
    assert found.came == ()
    back = compare(report, report, "amg", "none")
    assert (back.came, back.went) == (
        tuple(_turned(one) for one in found.went), ()
    )  # fmt: skip


def _turned(one):
    from dataclasses import replace

    return replace(one, before=one.after, after=one.before,
                   before_case=one.after_case, after_case=one.before_case)  # fmt: skip


def test_the_p_value_is_mcnemars_over_prompts(page: Path) -> None:
    report = open_report(page)
    found = compare(report, report, "none", "amg")
    assert found.difference is not None
    assert found.difference.p == binomtest(0, 3).pvalue  # three of five prompts change, all one way
    assert found.difference.difference == pytest.approx(-3 / 5)
    assert found.difference.n == found.prompts == 5
    same = compare(report, report, "none", "none")
    assert same.difference is not None
    assert same.difference.p == 1
    assert len(same.stayed) == 8


def test_the_page_links_to_the_cases_and_takes_no_prompt_for_markup(tmp_path: Path) -> None:
    page = save_report(tmp_path / "a b", training_set(caption=NASTY + " {}"), (NASTY, "x"), 0.0)
    found = compare(open_report(page), open_report(page.parent), "none", "amg")
    text = write_comparison(found, tmp_path / "out" / "change.html").read_text("utf-8")
    assert 'href="../a%20b/report/report.html#case-1"' in text
    assert "<script" not in text
    assert "alert(" in text


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        ({"training": training_set(caption="other {}")}, "the index is 'in memory' (5 clips) in"),
        ({"prompts": ("tune number 0", "rain")}, "has 'tune number 1', 'tune number 2', 'tune"),
        ({"threshold": 0.8}, "magmel, whole clips)' scores over"),
        ({"seeds": 1}, "the seeds are 0, 1 and 0"),
    ],
)
def test_audits_of_something_else_are_refused_with_what_differs(
    page: Path, tmp_path: Path, other: dict, difference: str
) -> None:
    another = open_report(save_report(tmp_path, **other))
    with pytest.raises(BadSetting, match="cannot be compared") as refused:
        compare(open_report(page), another, "none", "none")
    assert difference in str(refused.value)


def test_a_guard_that_is_not_there_or_not_named_is_refused(page: Path) -> None:
    report = open_report(page)
    with pytest.raises(BadSetting, match=r"'none', 'amg'.*none was named.*'--guard-after'"):
        compare(report, report, "none")
    with pytest.raises(BadSetting, match="got 'static'"):
        compare(report, report, "static", "amg")


def test_what_was_not_examined_is_left_out_and_said(page: Path, tmp_path: Path) -> None:
    content = json.loads((page.parent / DATA).read_text("utf-8"))
    gone = next(row for row in content["examined"] if row["guard"] == "amg")
    content["examined"].remove(gone)
    names = ("name", "prompt", "seed", "guard", "file", "info")
    content["unexamined"] = [{**{name: gone[name] for name in names}, "reason": "silent"}]
    (tmp_path / DATA).write_text(json.dumps(content), "utf-8")
    found = compare(open_report(page), open_report(tmp_path), "none", "amg")
    assert found.pairs == 9
    assert found.left_out == (gone["name"],)


def test_an_older_or_damaged_report_is_refused(page: Path, tmp_path: Path) -> None:
    content = json.loads((page.parent / DATA).read_text("utf-8"))
    damages = ({"format": 0}, {"index": None}, {"examined": [{}]})
    for damage, sentence in zip(
        damages, ("the format is not 1", "has no 'index'", "number 1 of 'examined'"), strict=True
    ):
        broken = {**content, **damage}
        if broken["index"] is None:
            del broken["index"]
        (tmp_path / DATA).write_text(json.dumps(broken), "utf-8")
        with pytest.raises(BadSetting, match=sentence):
            open_report(tmp_path)


def test_the_command_exits_with_1_if_a_copy_came(
    page: Path, command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("compare", page, page.parent, "--guard-before", "none", "--guard-after", "amg")
    code, out, _ = command(*words, "-o", "change.html")
    assert code == 0
    first, second, *_, last = lines(out)
    assert first == ("Of 10 sounds, 8 are copies before and 2 after: 6 went, none came, 2 stayed.")
    assert second.startswith("The share of copies changes by -60 percentage points (95 %")
    assert last == "page: change.html"
    assert command(*words, "-o", "change.html")[0] == 2
    code, out, _ = command(
        "compare", page, page, "--guard-before", "amg", "--guard-after", "none", "--json"
    )
    assert code == 1
    assert len(json.loads(out)["came"]) == 6
