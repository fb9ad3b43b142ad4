"""The page in a real Chromium."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import pytest
from support.browser import Tab
from support.story import fake_story

from anechoic.audit.html import write_page

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    story = fake_story(3)
    long_word = dataclasses.replace(story.cases[1], prompt="long" * 50)
    story = dataclasses.replace(story, cases=[story.cases[0], long_word, story.cases[2]])
    return write_page(tmp_path_factory.mktemp("page") / "demo page #1 é.html", story)


def test_every_sound_is_playable_and_a_second_long(tab: Tab) -> None:
    durations = tab.run("""Promise.all([...document.querySelectorAll("audio")].map((a) =>
        new Promise((yes, no) => {
          a.onloadedmetadata = () => yes(a.duration); a.onerror = () => no(a.id);
          a.preload = "metadata"; a.load(); })))""")
    assert len(durations) == 3 * 6 + 3 + 3 * 4
    assert durations == pytest.approx([1.0] * len(durations), abs=1e-3)


def test_only_one_sound_plays_at_a_time(tab: Tab) -> None:
    tab.run("plays = document.querySelectorAll('.play'); 0")
    playing = "[...document.querySelectorAll('audio')].filter((a) => !a.paused).map((a) => a.id)"
    for click in (0, 1):
        tab.run(f"plays[{click}].click()")
        expected = tab.run(f"plays[{click}].closest('figure').dataset.audio")
        assert tab.run(playing) == [expected]
    assert tab.run("document.querySelectorAll('[aria-pressed=true].play').length") == 1
    tab.run("plays[1].click()")
    assert tab.run(playing) == []


def test_a_sound_that_has_ended_gives_its_button_back(tab: Tab) -> None:
    tab.run("document.querySelector('.play').click()")
    deadline = time.monotonic() + 20
    while tab.run("document.querySelectorAll('.playing').length") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert tab.run("document.querySelector('.play').getAttribute('aria-pressed')") == "false"


def test_the_filters_hide_methods_and_kinds(tab: Tab) -> None:
    visible = (
        """(css) => [...document.querySelectorAll(css)].filter((e) => e.offsetParent).length"""
    )
    assert tab.run(f"({visible})('.card')") == 18
    tab.run("document.querySelector('[name=method][value=\"1\"]').click()")
    assert tab.run(f"({visible})('.card')") == 15
    tab.run("document.querySelector('[name=kind][value=ordinary]').click()")
    assert tab.run(f"({visible})('.card')") == 5
    assert tab.run("document.getElementById('shown').textContent") == (
        "Showing 1 of 3 cases, 5 of 6 methods"
    )
    tab.run("document.querySelector('[name=every]').click()")
    tab.run("document.querySelector('[name=kind][value=all]').click()")
    assert tab.run(f"({visible})('.card')") == 18


def test_the_keyboard_reaches_a_player_and_starts_it(tab: Tab) -> None:
    for _ in range(80):
        tab.key("Tab", 9)
        if tab.run("document.activeElement.className") == "play":
            break
    assert tab.run("document.activeElement.matches('.play:focus-visible')")
    tab.key("Enter", 13, "\r")
    assert tab.run("document.activeElement.getAttribute('aria-pressed')") == "true"


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_no_width_scrolls_sideways(tab: Tab, width: int) -> None:
    tab.size(width, mobile=width < 700)
    assert tab.run("document.documentElement.scrollWidth") <= width


def test_without_scripts_the_players_and_links_are_there(browser: Tab, page: Path) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(page)
        assert browser.run("document.querySelector('#filters').hidden")
        assert browser.run("document.querySelector('audio').offsetHeight") > 20
        assert browser.run("document.querySelector('.listen').offsetHeight") > 5
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
