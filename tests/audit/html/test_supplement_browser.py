"""The page of a report with a supplement, in a real Chromium."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.browser import Tab
from support.comparisons import compared

from anechoic.audit import write_page

pytestmark = pytest.mark.browser
SHOWN = "document.getElementById('shown').textContent"
PLAYING = (
    "[...document.querySelectorAll('audio')].filter((a) => !a.paused)"
    ".map((a) => a.closest('.track').dataset.which).join()"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    return write_page(compared(folder / "work"), folder / "demo page #1 é.html")


def test_every_sound_is_playable(tab: Tab) -> None:
    tab.run("document.querySelectorAll('details').forEach((d) => { d.open = true; }); 0")
    tab.until("[...document.querySelectorAll('audio')].every((a) => a.src)")
    durations = tab.run("""Promise.all([...document.querySelectorAll("audio")].map((a) =>
        new Promise((yes, no) => {
          a.onloadedmetadata = () => yes(a.duration); a.onerror = () => no(a.src.slice(0, 40));
          a.preload = "metadata"; a.load(); })))""")
    assert len(durations) >= 12 * 2
    assert min(durations) > 0.5


def test_the_cases_are_in_the_order_of_their_prompts(tab: Tab) -> None:
    prompts = tab.run("[...document.querySelectorAll('.what > bdi')].map((e) => e.textContent)")
    assert len(prompts) == 12
    assert all(len(set(prompts[at : at + 3])) == 1 for at in range(0, 12, 3))


def test_the_filters_hide_guards_and_kinds(tab: Tab) -> None:
    assert tab.run(SHOWN) == "Showing 12 of 12"
    tab.click("[name=guard][value='1']")
    assert tab.run(SHOWN) == "Showing 8 of 8"
    tab.click("[name=kind][value=ordinary]")
    assert tab.run(SHOWN) == "Showing 4 of 4"
    tab.click("[name=guard][value='1']")
    tab.click("[name=kind][value='']")
    assert tab.run(SHOWN) == "Showing 12 of 12"


def test_a_cell_of_the_table_opens_its_case(tab: Tab) -> None:
    tab.click(".glance a[href='#case-5']")
    tab.until("document.querySelector('#case-5').open")
    assert tab.run("document.querySelector('#case-5 svg.curve').getBoundingClientRect().width") > 99


def test_the_prompts_own_clip_plays_alone_and_not_in_sync(tab: Tab) -> None:
    tab.run("document.querySelectorAll('details').forEach((d) => { d.open = true; }); 0")
    tab.until("document.querySelectorAll('[data-which=own] .play').length > 0")
    tab.run("box = document.querySelector('[data-which=own]').closest('details'); 0")
    tab.run("box.querySelector('[data-which=own] .play').click(); 0")
    tab.until(f"{PLAYING} == 'own'")
    tab.run("box.querySelector('.sync').click(); 0")
    tab.until(f"{PLAYING} == 'made,training'")


def test_no_table_is_cut_off_on_a_desktop(tab: Tab) -> None:
    cut = "[...document.querySelectorAll('.scroll')].filter((e) => e.scrollWidth > e.clientWidth)"
    assert tab.run(f"{cut}.length") == 0


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_no_width_scrolls_sideways(tab: Tab, width: int) -> None:
    tab.size(width, mobile=width < 700)
    tab.run("document.querySelectorAll('details').forEach((d) => { d.open = true; }); 0")
    assert tab.run("document.documentElement.scrollWidth") <= width


def test_without_scripts_the_first_cases_can_be_read_and_heard(browser: Tab, page: Path) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(page)
        assert browser.run("document.querySelector('#filters').hidden")
        browser.run("document.querySelector('#case-1').open = true; 0")
        assert browser.run("document.querySelector('#case-1 audio').offsetHeight") > 20
        assert browser.run("document.querySelector('#case-1 svg.curve').clientWidth") > 99
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
