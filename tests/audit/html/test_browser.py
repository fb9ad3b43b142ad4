"""The report in a real Chromium: it sorts, filters, plays in sync, and complains of nothing."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from support.audits import NASTY, Model, folder_of, training_set
from support.browser import Tab
from support.sounds import tune

from anechoic import embedder
from anechoic.audit import HeldOut, audit, document, write_report
from anechoic.audit.html.report import render_audit

pytestmark = pytest.mark.browser

PROMPTS = [f"tune number {i}" for i in range(3)] + [NASTY, "long" * 40, "rain on a roof"]
MANY = 2_000


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("audit")

    def late(prompt: str, seed: int):
        wav, rate = Model()(prompt, seed)
        return torch.cat([tune(900 + seed, 0.6), wav], 1), rate

    held = folder_of(folder / "held", **{f"h{i}": tune(500 + i) for i in range(9)})
    return audit(
        {"none": late, "amg": Model(copies=False)},
        training_set(),
        embedder("magmel"),
        prompts=PROMPTS,
        seeds=range(3),
        model="m",
        held_out=HeldOut(held, 0.1),
        work=folder / "work",
    )


@pytest.fixture(scope="module", params=["inside", "beside"])
def page(report, request, tmp_path_factory: pytest.TempPathFactory) -> Path:
    budget = 10**9 if request.param == "inside" else 0
    folder = tmp_path_factory.mktemp("page #1 é")
    return write_report(report, folder / "an audit.html", budget=budget)


RANKS = "[...document.querySelectorAll('#list > details')].map((d) => +d.dataset.rank)"
SHOWN = "document.getElementById('shown').textContent"


def choose(tab: Tab, order: str) -> list[int]:
    tab.run(f"order.value = '{order}'; order.dispatchEvent(new Event('change')); 0")
    return tab.run(RANKS)


def search(tab: Tab, words: str) -> None:
    tab.run(f"find.value = {words!r}; find.dispatchEvent(new Event('input')); 0")


def test_the_worst_stand_first_and_more_are_shown_on_request(tab: Tab) -> None:
    assert tab.run(RANKS) == list(range(1, 26))
    assert tab.run(SHOWN) == "Showing 25 of 36"
    tab.click("#more")
    assert tab.run(RANKS) == list(range(1, 37))
    assert tab.run("document.getElementById('more').hidden")
    assert tab.run("document.activeElement.parentElement.id") == "case-26"


def test_cases_are_put_in_order(tab: Tab) -> None:
    assert choose(tab, "-rank") == list(range(36, 11, -1))
    by_waveform = choose(tab, "s0")
    scores = tab.run("[...document.querySelectorAll('#list > details')].map((d) => +d.dataset.s0)")
    assert scores == sorted(scores, reverse=True)
    assert sorted(by_waveform[:9]) == list(range(1, 10))  # the copies
    choose(tab, "prompt")
    prompts = tab.run("[...document.querySelectorAll('.what > bdi')].map((e) => e.textContent)")
    assert prompts[0] == NASTY
    assert choose(tab, "rank") == list(range(1, 26))


def test_cases_are_filtered_by_verdict_guard_and_words(tab: Tab) -> None:
    tab.click("[name=verdict][value=copy]")
    assert tab.run(SHOWN) == "Showing 9 of 9"
    tab.click("[name=verdict][value=clear]")
    assert tab.run(SHOWN) == "Showing 25 of 27"
    tab.click("[name=guard][value='0']")  # without the plain model
    assert tab.run(SHOWN) == "Showing 18 of 18"
    search(tab, "ROOF rain")
    tab.until(f"{SHOWN} == 'Showing 3 of 3'")
    search(tab, "no such words")
    tab.until(f"{SHOWN} == 'No case fits'")
    assert tab.run(RANKS) == []


def test_both_play_in_sync_from_where_they_are_alike(tab: Tab) -> None:
    """The copies start 0.6 s into the generations; the players keep that lag."""
    tab.run("box = document.querySelector('#case-1'); box.open = true; 0")
    tab.until("box.dataset.ready == '1'")
    tab.run("sounds = [...box.querySelectorAll('audio')]; 0")
    tab.click("#case-1 .sync")
    tab.until("sounds.every((a) => !a.paused && a.currentTime > 0)")
    start = float(tab.run("box.dataset.start"))
    assert start == pytest.approx(0.6, abs=0.02)
    made, training = tab.run("sounds.map((a) => a.currentTime)")
    assert made >= start
    assert made - training == pytest.approx(0.6, abs=0.1)
    tab.click("#case-1 [name=ear][value=training]")
    assert tab.run("sounds.map((a) => a.muted)") == [True, False]
    tab.click("#case-1 [name=ear][value=both]")
    assert tab.run("sounds.map((a) => a.muted)") == [False, False]
    tab.until("sounds.every((a) => a.paused)")
    assert tab.run("box.querySelector('.sync').getAttribute('aria-pressed')") == "false"


def test_one_sound_plays_at_a_time_and_none_in_a_case_that_is_shut(tab: Tab) -> None:
    for number in (1, 2):
        tab.run(f"document.querySelector('#case-{number}').open = true; 0")
        tab.until(f"document.querySelectorAll('#case-{number} .play').length == 2")
    playing = (
        "[...document.querySelectorAll('audio')].filter((a) => !a.paused)"
        ".map((a) => a.closest('details').id + ' ' + a.closest('.track').dataset.which)"
    )
    tab.click("#case-1 .track[data-which=made] .play")
    tab.until(f"({playing}).join() == 'case-1 made'")
    tab.click("#case-2 .track[data-which=training] .play")
    tab.until(f"({playing}).join() == 'case-2 training'")
    tab.run("document.querySelector('#case-2').open = false; 0")
    tab.until(f"({playing}).length == 0")


def test_every_picture_and_sound_of_an_opened_case_loads(tab: Tab) -> None:
    for number in (1, 12, 25):
        tab.run(f"document.querySelector('#case-{number}').open = true; 0")
        tab.until(
            f"[...document.querySelectorAll('#case-{number} .inner img')]"
            ".every((i) => i.complete && i.naturalWidth > 10)",
        )
    lengths = tab.run("""Promise.all([...document.querySelectorAll("#case-12 audio")].map((a) =>
        new Promise((yes, no) => { a.onloadedmetadata = () => yes(a.duration);
          a.onerror = () => no(a.src.slice(0, 40)); a.preload = "metadata"; a.load(); })))""")
    assert len(lengths) == 2
    assert all(length > 1.0 for length in lengths)


def test_a_link_to_a_case_opens_it(tab: Tab) -> None:
    tab.run("location.hash = '#case-33'; 0")
    tab.until("document.querySelector('#case-33')?.open")


def test_the_keyboard_opens_a_case_and_plays_it(tab: Tab) -> None:
    tab.run("document.querySelector('#case-1 summary').focus(); 0")
    tab.key("Enter", 13, "\r")
    tab.until("document.querySelector('#case-1').open && !!document.activeElement")
    tab.until("document.querySelectorAll('#case-1 .play').length == 2")
    tab.key("Tab", 9)
    assert tab.run("document.activeElement.matches('.sync:focus-visible')")
    tab.key("Enter", 13, "\r")
    tab.until("document.activeElement.getAttribute('aria-pressed') == 'true'")


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_no_width_scrolls_sideways(tab: Tab, width: int) -> None:
    tab.size(width, mobile=width < 700)
    tab.run("document.querySelectorAll('details').forEach((d) => { d.open = true; }); 0")
    assert tab.run("document.documentElement.scrollWidth") <= width


def test_a_hostile_prompt_is_only_text(tab: Tab) -> None:
    search(tab, "alert")
    tab.until(f"{SHOWN} == 'Showing 6 of 6'")
    assert tab.run("document.querySelector('.what > bdi').textContent") == NASTY
    assert tab.run("document.querySelectorAll('script').length") == tab.run(
        "document.querySelectorAll('body > script').length"
    )


def test_without_scripts_the_first_cases_can_be_read_and_heard(browser: Tab, page: Path) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(page)
        assert browser.run("document.querySelector('#filters').hidden")
        assert browser.run("document.querySelectorAll('details').length") == 10
        browser.run("document.querySelector('#case-1').open = true; 0")
        assert browser.run("document.querySelector('#case-1 audio').offsetHeight") > 20
        assert browser.run("document.querySelector('noscript').textContent").startswith("26 more")
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


def large(report: Any, page: Path) -> Path:
    """A report of 2,000 cases, each with sound and pictures of its own, as large as it gets."""
    content = document(report)
    rows = content["examined"]
    content["examined"] = []
    for i in range(MANY):
        row = copy.deepcopy(rows[i % len(rows)])
        shown = row["shown"]
        for picture in filter(None, (shown["made"], shown["training"], shown["own"], shown)):
            for kind in {"sound", "spectrogram", "matrix"} & picture.keys():
                picture[kind] = f"{i:04d}{picture[kind]}"
        content["examined"].append({**row, "rank": i + 1})
    kept: dict[str, bytes] = {}

    def medium(key: str) -> bytes:
        if (name := key[4:]) not in kept:
            kept[name] = (report.media / name).read_bytes()
        return kept[name]

    page.write_text(render_audit(content, medium).text, "utf-8")
    return page


def opening(tab: Tab, page: Path) -> dict[str, float]:
    """What it takes to open a page: MB, seconds by the clock, and seconds of the renderer's own
    time, which do not depend on whatever else runs."""
    tab.call("Performance.enable", timeDomain="threadTicks")
    tab.open(page)
    told = tab.call("Performance.getMetrics")["metrics"]
    wall = "performance.getEntriesByType('navigation')[0].loadEventEnd / 1000"
    return {
        "MB": page.stat().st_size / 1e6,
        "wall": tab.run(wall),
        "renderer": next(one["value"] for one in told if one["name"] == "TaskDuration"),
    }


def test_two_thousand_cases_open_in_under_three_seconds(
    browser: Tab, report, tmp_path: Path
) -> None:
    took = opening(browser, large(report, tmp_path / "many.html"))
    assert browser.run(SHOWN) == f"Showing 25 of {MANY}"
    assert took["MB"] > 20
    assert took["renderer"] < 3.0
    assert browser.complaints() == []
