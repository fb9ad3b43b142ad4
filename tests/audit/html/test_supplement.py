"""The page of a report with a supplement: the figures as they are, and no caption is trusted."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from support.audits import NASTY
from support.comparisons import GUARDS, PROMPTS, compared

from anechoic.audit import Report, document, write_page
from anechoic.audit.html.report import best_values
from anechoic.audit.supplement import Column, Curve, Detail, Figure, GuardFigures, Supplement
from anechoic.errors import OutputExists


class Page(HTMLParser):
    """The tags of a page, with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return compared(tmp_path_factory.mktemp("work"))


@pytest.fixture(scope="module")
def text(report: Report, tmp_path_factory: pytest.TempPathFactory) -> str:
    page = write_page(report, tmp_path_factory.mktemp("page") / "page.html")
    return page.read_text("utf-8")


def test_a_hostile_prompt_is_shown_as_text(text: str) -> None:
    assert "<script>alert" not in text
    assert html.escape(NASTY).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in text


def test_only_the_pages_own_script_may_run(text: str) -> None:
    policy = next(m["content"] for m in Page(text).all("meta") if m.get("http-equiv"))
    assert policy is not None
    script_rule = re.search(r"script-src ([^;]+)", policy)
    assert script_rule is not None
    assert re.fullmatch(r"'sha256-[\w+/=]{44}'", script_rule[1])
    assert not [a for _, a in Page(text).tags if any(name.startswith("on") for name in a)]


def test_the_page_is_one_file_that_fetches_nothing(text: str) -> None:
    for tag, attrs in Page(text).tags:
        assert "data-beside" not in attrs
        for name in ("src", "href", "srcset", "poster", "data"):
            value = attrs.get(name)
            if value is not None and not value.startswith(("data:", "#")):
                assert tag == "a", (tag, value[:80])
                assert value.startswith("https://example.org/")
    assert "url(" not in text
    assert "@import" not in text


def test_ids_are_distinct_and_every_reference_has_its_target(text: str) -> None:
    tags = Page(text).tags
    ids = [a["id"] for _, a in tags if "id" in a]
    assert len(set(ids)) == len(ids)
    wanted = {(a.get("href") or "").removeprefix("#") for t, a in tags if t == "a"}
    wanted |= {a["aria-labelledby"] or "" for _, a in tags if "aria-labelledby" in a}
    wanted |= {"m-" + (a["data-src"] or "") for _, a in tags if "data-src" in a}
    assert {w for w in wanted if not w.startswith("http")} <= set(ids)


def test_every_picture_has_words_and_every_header_a_scope(text: str) -> None:
    page = Page(text)
    assert all(a.get("alt") is not None for a in page.all("img"))
    assert all(a.get("aria-label") or a.get("aria-hidden") for a in page.all("svg"))
    assert all(a.get("scope") in ("row", "col") for a in page.all("th"))
    assert page.all("html") == [{"lang": "en"}]


def words_of(text: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", text.split("<main>")[1]).split())


def test_figures_appear_with_interval_and_n(text: str) -> None:
    assert "0.83 [0.77, 0.92] n=80" in words_of(text)
    assert "1.2 (best) n=80" in words_of(text)


def test_the_sentence_and_the_verdict_of_the_audit_lead_the_page(text: str) -> None:
    header = text.split("<header>")[1].split("</header>")[0]
    assert "Unguarded, 83 of 100 generations return a training clip." in header
    assert "2 of 12 generations replicate a training clip" in header


def test_a_figure_that_was_not_measured_says_so(report: Report, tmp_path: Path) -> None:
    extra = report.supplement
    assert extra is not None
    rows = [replace(extra.guards[0], figures={}), *extra.guards[1:]]
    bare = replace(report, supplement=replace(extra, guards=rows))
    assert "not measured" in write_page(bare, tmp_path / "page.html").read_text("utf-8")


def test_best_is_what_is_best_as_shown() -> None:
    rows = [
        GuardFigures(name, name, "", {key: Figure(value) for key in "lhn"})
        for name, value in zip("abc", (0.061, 0.058, 0.3), strict=True)
    ]
    columns = [Column("l", "L", better="lower"), Column("h", "H", better="higher"), Column("n", "")]
    extra = Supplement("", "", columns, [*rows, GuardFigures("d", "d")]).to_dict()
    assert best_values(extra) == {"l": {"a", "b"}, "h": {"c"}, "n": set()}


def test_every_prompt_leads_to_its_case_under_every_guard(report: Report, text: str) -> None:
    table = text.split("All prompts</h3>")[1].split("</table>")[0]
    cells = re.findall(r'<a href="#case-(\d+)" class="[\w-]+">(. [\w ]+)</a>', table)
    assert len(cells) == len(PROMPTS) * len(GUARDS)
    rows = {row["rank"]: row for row in document(report)["examined"]}
    for rank, says in cells:
        assert says == ("■ replicates" if rows[int(rank)]["replicates"] else "○ does not")


def test_every_case_has_its_scores_and_curves(text: str) -> None:
    cases = re.findall(r'<details class="case".*?</details>', text, re.S)
    assert len(cases) == len(PROMPTS) * len(GUARDS)
    for case in cases:
        assert case.count('<svg class="curve" viewBox="0 0 400') == 1
        assert "Mel correlation" in case
        over = 'class="w">over 0.90' in case
        assert over == ('data-verdict="copy"' in case)
    assert sum('data-kind="duplicated"' in case for case in cases) == 2 * len(GUARDS)


def test_curves_of_one_prompt_and_seed_share_their_axis(report: Report, tmp_path: Path) -> None:
    extra = report.supplement
    assert extra is not None
    key = (PROMPTS[0], 0, "amg")
    own = extra.details[key].curve
    assert own is not None
    tall = Curve(own.progress, own.log_snr, 10 * own.distance)
    details = {**extra.details, key: Detail("duplicated", {}, tall)}
    changed = replace(report, supplement=replace(extra, details=details))
    page = write_page(changed, tmp_path / "page.html").read_text("utf-8")
    tops = {}
    for case in re.findall(r'<details class="case".*?</details>', page, re.S):
        prompt = re.search(r'data-prompt="([^"]+)"', case)
        top = re.search(r'viewBox="0 0 400.*?class="end" x="34"[^>]*>0<.*?class="end".*?'
                        r'class="end" x="34"[^>]*>(\d+)<', case, re.S)  # fmt: skip
        assert prompt
        assert top
        tops.setdefault(prompt[1], set()).add(top[1])
    assert tops[PROMPTS[0]] == {"500"}
    assert tops[PROMPTS[1]] == {"50"}


def test_a_page_that_is_there_is_kept(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("mine")
    with pytest.raises(OutputExists, match="exists already"):
        write_page(report, path)
    assert path.read_text() == "mine"
    write_page(report, path, overwrite=True)
    assert path.read_text("utf-8").startswith("<!doctype html>")
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]
