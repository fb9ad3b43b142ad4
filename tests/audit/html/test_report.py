"""The report tells what was found, trusts no caption, and is the same as JSON, Parquet and page."""

from __future__ import annotations

import html
import json
import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from support.audits import NASTY, Model, folder_of, training_set
from support.sounds import tune

from anechoic import embedder
from anechoic.audit import HeldOut, Report, audit, cautions, document, schema, write_report
from anechoic.audit.html.report import render_audit
from anechoic.audit.summary import Count, q_values, sentences
from anechoic.errors import OutputExists

PROMPTS = [f"tune number {i}" for i in range(4)] + [NASTY, "rain"]
GUARDS = ["none", "amg"]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Six prompts under two seeds and two guards, calibrated; one generation fails."""
    folder = tmp_path_factory.mktemp("audit")
    plain = Model()

    def guarded(prompt: str, seed: int):
        if prompt == "rain" and seed == 1:
            raise RuntimeError(NASTY)
        return Model(copies=False)(prompt, seed)

    held = folder_of(folder / "held", **{f"h{i}": tune(500 + i) for i in range(19)})
    return audit(
        {"none": plain, "amg": guarded},
        training_set(caption=NASTY + " {}"),
        embedder("magmel"),
        prompts=PROMPTS,
        seeds=range(2),
        model=NASTY,
        held_out=HeldOut(held, 0.05),
        about={"command": "anechoic audit ..."},
        work=folder / "work",
    )


@pytest.fixture(scope="module")
def content(report: Report) -> dict:
    return document(report)


class Elements(HTMLParser):
    """The names and attributes of all elements, and what is shown of them."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self.inside and self.inside[-1] not in ("script", "style"):
            self.texts.append(data)


def page_of(report: Report, content: dict, budget: int = 10**9) -> str:
    return render_audit(content, lambda key: (report.media / key).read_bytes(), budget=budget).text


# --------------------------------------------------------------------------------- the document


def test_the_document_is_what_its_schema_says(content: dict) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="pip install jsonschema")
    jsonschema.Draft202012Validator.check_schema(schema())
    through = json.loads(json.dumps(content, allow_nan=False))
    jsonschema.Draft202012Validator(schema()).validate(through)


def test_the_document_counts_what_it_lists(content: dict) -> None:
    rows, count = content["examined"], content["count"]
    assert len(rows) == count["examined"] == 23
    assert len(content["unexamined"]) == count["unexamined"] == 1
    assert sum(row["replicates"] for row in rows) == count["replications"] == 8
    assert count["expected"] == pytest.approx(23 * 0.05)
    assert count["discoveries"] == sum(row["q_value"] <= 0.05 for row in rows)
    assert sum(group["expected"] for group in content["guards"]) == pytest.approx(23 * 0.05)
    assert [row["rank"] for row in rows] == list(range(1, 24))
    scores = [row["score"] for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert {(group["guard"], group["replications"]) for group in content["guards"]} == {
        ("none", 8),
        ("amg", 0),
    }


def test_the_false_discovery_rate_is_held_within_each_guard(content: dict) -> None:
    """So the verdict on a guard does not depend on which others were audited beside it."""
    for guard in GUARDS:
        own = [row for row in content["examined"] if row["guard"] == guard]
        assert [row["q_value"] for row in own] == q_values([row["p_value"] for row in own])


def test_the_training_set_among_itself_is_summed_up_as_the_generations_are(content: dict) -> None:
    scores = [row["score"] for row in content["examined"] if row["guard"] == "none"]
    plain = content["guards"][0]
    assert plain["label"] == "unguarded"
    assert plain["similarity"]["p90"] == pytest.approx(np.percentile(scores, 90), abs=1e-6)
    assert plain["similarity"]["maximum"] == max(scores)
    training, held_out = content["background"]
    assert training["similarity"]["mean"] == pytest.approx(np.mean(training["scores"]), abs=1e-6)
    assert held_out["over"] == 0.0  # of 19 at a rate of 1 in 20


def test_what_makes_the_verdict_less_sure_is_told(report: Report, content: dict) -> None:
    few_held_out, few_prompts = content["cautions"]
    assert few_held_out.startswith("19 held-out sounds are few: the true rate of false positives")
    assert few_prompts == (
        "Few prompts exclude little: where nothing was found, up to 46 % of such generations may "
        "still replicate (95 %)."
    )
    known = report.rule.calibration
    longer = replace(report, rule=replace(report.rule, calibration=replace(known, seconds=9.0)))
    assert cautions(longer)[1].startswith("The held-out sounds last 9 s and these generations 1.02")
    open_ended = replace(report.rule, calibration=None, false_positive_rate=None)
    assert cautions(replace(report, rule=open_ended))[0].startswith("How often sound that copies")


def test_sound_of_the_worst_cases_of_each_guard_alone_may_be_shown(
    report: Report, content: dict, tmp_path: Path
) -> None:
    page = write_report(report, tmp_path / "r", cases=2)
    rows = json.loads((tmp_path / "r/report.json").read_text())["examined"]
    for guard in GUARDS:
        own = [row["shown"] is not None for row in rows if row["guard"] == guard]
        assert own == [True] * 2 + [False] * (len(own) - 2)
    assert [row["score"] for row in rows] == [row["score"] for row in content["examined"]]
    found = Elements(page.read_text())
    assert sum("left out of this report to keep it small" in text for text in found.texts) == 19
    jsonschema = pytest.importorskip("jsonschema", reason="pip install jsonschema")
    jsonschema.validate(document(report, cases=2), schema())


def test_a_row_tells_all_that_is_known_of_a_case(content: dict) -> None:
    row = content["examined"][0]
    assert row["prompt"] in PROMPTS
    assert row["training"]["caption"].startswith(NASTY)
    assert row["training"]["licence"] == "CC0-1.0"
    assert row["training"]["url"] == "https://example.org/tunes"
    detectors = [found["detector"] for found in row["findings"]]
    assert set(detectors) <= {one["name"] for one in content["detectors"]}
    assert detectors[1].endswith("the matched clip")
    assert [one["decides"] for one in content["detectors"]] == [True, False, False]
    waveform = row["findings"][1]
    assert waveform["score"] > 0.99
    assert waveform["start_s"] - waveform["match_start_s"] == pytest.approx(0.0, abs=1e-3)


def test_everything_to_repeat_it_and_whose_methods_they_are(content: dict) -> None:
    about = content["about"]
    for key in ("model", "seeds", "index hash", "embedder", "torch", "processor", "command"):
        assert about[key], key
    assert about["seeds"] == "0, 1"
    told = " ".join(content["citations"])
    for work in ("2212.03860", "Lewis", "Wang", "Foote", "Benjamini", "Vovk"):
        assert work in told


def test_the_rows_of_parquet_are_those_of_the_document(
    report: Report, content: dict, tmp_path: Path
) -> None:
    write_report(report, tmp_path / "r")
    rows = pyarrow.parquet.read_table(tmp_path / "r/report.parquet").to_pylist()
    assert len(rows) == len(content["examined"])
    for row, expected in zip(rows, content["examined"], strict=True):
        for key in ("rank", "name", "prompt", "seed", "guard", "score", "p_value", "replicates"):
            assert row[key] == expected[key]
        assert row["training_id"] == expected["training"]["id"]
        assert len(row["findings"]) == len(expected["findings"])
    assert json.loads((tmp_path / "r/report.json").read_text("utf-8")) == json.loads(
        json.dumps(content)
    )


# ------------------------------------------------------------------------------------- the page


def test_no_word_of_others_becomes_a_part_of_the_page(report: Report, content: dict) -> None:
    """The prompt, the caption, the name of the model and an error message are all hostile."""
    text = page_of(report, content)
    found = Elements(text)
    assert "<script>alert" not in text
    scripts = [attrs for tag, attrs in found.elements if tag == "script"]
    assert [attrs for attrs in scripts if attrs.get("type") != "text/plain"] == [{}]
    assert not [attrs for _, attrs in found.elements if any(k.startswith("on") for k in attrs)]
    assert sum(NASTY in shown for shown in found.texts) > 20
    cases = [attrs for tag, attrs in found.elements if tag == "details"]
    assert len(cases) == 23
    assert {attrs["data-prompt"] for attrs in cases} == set(PROMPTS)


def test_the_page_fetches_nothing(report: Report, content: dict) -> None:
    found = Elements(page_of(report, content))
    for tag, attrs in found.elements:
        if tag not in ("a", "use"):
            for key in ("src", "href"):
                assert (attrs.get(key) or "data:").startswith("data:"), (tag, attrs)
    (policy,) = [a["content"] for t, a in found.elements if a.get("http-equiv")]
    assert policy.startswith("default-src 'none'")
    links = [a["href"] for t, a in found.elements if t == "a" and not a["href"].startswith("#")]
    assert set(links) == {"https://example.org/tunes"}


def media_keys(content: dict) -> list[list[str]]:
    """The sounds and pictures of each examined sound, in the order of the document."""
    found: list[list[str]] = []
    for row in content["examined"]:
        if (shown := row["shown"]) is None:
            found.append([])
            continue
        pictures = [one for one in (shown["made"], shown["training"], shown["own"]) if one]
        keys = [key for picture in pictures for key in (picture["sound"], picture["spectrogram"])]
        found.append([*keys, *([shown["matrix"]] if shown["matrix"] else [])])
    return found


def test_every_sound_and_picture_is_in_the_page_or_beside_it(report: Report, content: dict) -> None:
    keys = {key for row in media_keys(content) for key in row}
    assert all((report.media / key).is_file() for key in keys)
    inside = render_audit(content, lambda key: (report.media / key).read_bytes(), budget=10**9)
    assert inside.beside == []
    stored = {a["id"] for t, a in Elements(inside.text).elements if t == "script" and "id" in a}
    wanted = {a["data-src"] for _, a in Elements(inside.text).elements if "data-src" in a}
    assert stored == {f"m-{key}" for key in wanted}
    beside = render_audit(content, lambda key: (report.media / key).read_bytes(), "m", budget=0)
    assert set(beside.beside) == keys
    assert "data:audio" not in beside.text
    sources = {a["src"] for t, a in Elements(beside.text).elements if t in ("img", "audio")
               and "src" in a}  # fmt: skip
    assert sources <= {f"m/{key}" for key in keys}


def test_a_page_within_its_budget_holds_the_worst_cases(report: Report, content: dict) -> None:
    sizes = {key: (report.media / key).stat().st_size for row in media_keys(content) for key in row}
    first = set(media_keys(content)[0])
    budget = sum(sizes[key] for key in first)
    page = render_audit(content, lambda key: (report.media / key).read_bytes(), budget=budget)
    assert first.isdisjoint(page.beside)
    assert set(page.beside) == set(sizes) - first


def test_the_prompts_that_replicate_stand_beside_each_other(report: Report, content: dict) -> None:
    shown = " ".join(" ".join(Elements(page_of(report, content)).texts).split())
    table = shown[shown.index("The prompts that replicate Prompt") :]
    assert table.startswith(
        "The prompts that replicate Prompt unguarded amg tune number 0 2 of 2 0 of 2 tune number 1 "
    )


def test_the_first_line_says_what_was_not_examined(report: Report, content: dict) -> None:
    assert content["sentences"][0].startswith("1 of 24 generations was not examined. ")
    text = page_of(report, content)
    heading = text[text.index("<h1>") + 4 :]
    assert heading.startswith("1 of 24 generations was not examined. ")
    assert 'id="unexamined"' in text


def test_the_page_is_the_same_every_time(report: Report, content: dict) -> None:
    assert page_of(report, content) == page_of(report, document(report))


def test_an_audit_that_examined_nothing_has_a_page(report: Report) -> None:
    nothing = replace(report, examined=[])
    text = page_of(nothing, document(nothing))
    assert "Nothing can be said of the training set." in text


# --------------------------------------------------------------------------------- where it goes


def test_a_page_may_be_named_and_the_rest_lies_beside_it(report: Report, tmp_path: Path) -> None:
    page = write_report(report, tmp_path / "deep/take 1.html", budget=0)
    assert page == tmp_path / "deep/take 1.html"
    assert {path.name for path in page.parent.iterdir()} == {
        "take 1.html",
        "take 1.json",
        "take 1.parquet",
        "take 1-media",
    }


def test_a_report_replaces_a_report_and_nothing_else(report: Report, tmp_path: Path) -> None:
    write_report(report, tmp_path / "r", budget=0)
    with pytest.raises(OutputExists, match="exists already"):
        write_report(report, tmp_path / "r")
    write_report(report, tmp_path / "r", overwrite=True)
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == [
        "report.html",
        "report.json",
        "report.parquet",
    ]
    (tmp_path / "r/thesis.doc").write_text("mine")
    with pytest.raises(OutputExists, match=r"holds 'thesis\.doc', which is not part of a report"):
        write_report(report, tmp_path / "r", overwrite=True)
    with pytest.raises(OutputExists, match="is a file"):
        write_report(report, tmp_path / "r/thesis.doc", overwrite=True)


# ------------------------------------------------------------------------------------ the verdict


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (Count(0, 4, 0, 4, 0, None, None, None, 0), "None of 4 sounds replicates a training clip."),
        (
            Count(1, 1, 0, 1, 1, None, None, None, 0),
            "1 of 1 sound replicates a training clip.",
        ),
        (
            Count(37, 200, 3, 50, 9, 2.0, 5, 35, 2, 3.26),
            "3 of 203 sounds were not examined. 37 of the 200 examined replicate a training clip; "
            "chance alone would flag about 2. 35 of them stand if no more than 5 % of those "
            "called so may be wrong. 2 more are called a copy by another detector only; chance "
            "alone would call up to 3.3 so.",
        ),
        (
            Count(2, 100, 0, 9, 2, 1.0, 3, 0, 0),
            "2 of 100 sounds replicate a training clip; chance alone would flag about 1, and up to "
            "3 would be no surprise. None of them stands if no more than 5 % of those called so "
            "may be wrong.",
        ),
        (
            Count(14, 20, 0, 0, 0, 1.0, 3, 0, 0, 0.0, 25, 28),
            "14 of 20 sounds replicate a training clip; chance alone would flag about 1. 25 "
            "held-out sounds are too few to say how many of them stand if no more than 5 % of "
            "those called so may be wrong; it takes 28.",
        ),
    ],
)
def test_the_verdict_is_a_sentence_with_what_chance_makes(count: Count, expected: str) -> None:
    assert " ".join(sentences(count)) == expected


def test_chance_is_told_of_each_guard_where_they_are_as_many() -> None:
    count = Count(24, 240, 0, 24, 12, 12.0, 18, None, 0)
    guards = [("none", 24, 48), *((name, 0, 48) for name in ("amg", "static", "volume", "cads"))]
    assert sentences(count, "generation", guards) == [
        "24 of 240 generations replicate a training clip (unguarded: 24 of 48, amg: 0 of 48, "
        "static: 0 of 48, volume: 0 of 48, cads: 0 of 48); chance alone would flag about 2.4 of "
        "each 48."
    ]
    few = Count(4, 60, 0, 9, 3, 3.0, 6, None, 0)
    assert sentences(few, "file", [("a", 4, 20), ("b", 0, 40)]) == [
        "4 of 60 files replicate a training clip (a: 4 of 20, b: 0 of 40); chance alone would flag "
        "about 3, and up to 6 would be no surprise."
    ]


# ------------------------------------------------------------------------------ the demo's in docs


def test_the_report_of_the_demo_in_the_docs_is_what_they_say_of_it() -> None:
    folder = Path(__file__).parents[3] / "docs"
    words = (folder / "evidence/audit.md").read_text("utf-8")
    rows = pyarrow.parquet.read_table(folder / "audit-demo/report.parquet").to_pylist()
    for guard in {row["guard"] for row in rows}:
        own = [row["replicates"] for row in rows if row["guard"] == guard]
        name = "unguarded" if guard == "none" else f"`{guard.split()[0]}`"
        assert f"| {name} | {sum(own)} of {len(own)} |" in words
    prompts = (folder / "audit-demo/prompts.txt").read_text("utf-8").splitlines()
    unguarded = [(row["prompt"], row["replicates"]) for row in rows if row["guard"] == "none"]
    under_every_seed = set(prompts) - {prompt for prompt, copied in unguarded if not copied}
    assert under_every_seed == set(prompts[:12])
    page = (folder / "audit-demo/report.html").read_text("utf-8")
    command = re.search(r"anechoic audit --model demo(?:.|\n)*?report\.html", words)
    assert command
    assert shlex.join(shlex.split(command[0].replace("\\\n", ""))) in html.unescape(page)
