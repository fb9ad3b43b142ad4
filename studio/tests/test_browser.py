"""The page in a real Chromium: generate, hear, stop, check, explore, download."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from anechoic_studio import page
from anechoic_studio.studio import Studio
from support.browser import Tab

from anechoic import audio
from anechoic.certificate import verify
from anechoic.index import TrainingIndex

pytestmark = pytest.mark.browser

GRADIOS_OWN = "Method not implemented."  # a warning of its uploads, which work
SCREENS = [(1280, "light"), (390, "dark")]


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return Studio.open("demo", tmp_path_factory.mktemp("work"), device="cpu")


@pytest.fixture(scope="module")
def address(studio: Studio) -> Iterator[str]:
    served, address = page.serve(studio, 0, wait=False)
    yield address
    served.close(verbose=False)


@pytest.fixture
def tab(browser: Tab, address: str, tmp_path: Path) -> Iterator[Tab]:
    browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    with opened(browser, address):
        yield browser


@contextmanager
def opened(browser: Tab, address: str) -> Iterator[None]:
    """The page at an address, which must not complain until it is left."""
    browser.size(1280)
    browser.call("Page.navigate", url="about:blank")  # what the page before it was still fetching
    browser.open(address)
    browser.until("document.querySelector('#generate') != null")
    yield
    found = [json.dumps(one) for one in browser.complaints()]
    bad = [one for one in found if GRADIOS_OWN not in one]
    assert not bad, "\n".join(bad)


def there(tab: Tab, css: str, count: int = 1, seconds: float = 60) -> None:
    tab.until(f"document.querySelectorAll({css!r}).length >= {count}", seconds)


def downloaded(folder: Path, ending: str) -> Path:
    deadline = time.monotonic() + 30
    while not (found := [one for one in folder.iterdir() if one.name.endswith(ending)]):
        assert time.monotonic() < deadline, list(folder.iterdir())
        time.sleep(0.05)
    return found[0]


def upload(tab: Tab, css: str, *files: Path) -> None:
    root = tab.call("DOM.getDocument")["root"]["nodeId"]
    node = tab.call("DOM.querySelector", nodeId=root, selector=css)["nodeId"]
    tab.call("DOM.setFileInputFiles", files=[str(file) for file in files], nodeId=node)


def wide(tab: Tab) -> Any:
    # a phone shows what is too wide smaller, and calls it its width
    return tab.run("document.documentElement.scrollWidth - innerWidth * visualViewport.scale")


def test_generate_hear_download_and_check_what_was_downloaded(
    tab: Tab, tmp_path: Path, studio: Studio
) -> None:
    tab.click("#generate")
    there(tab, "#guarded svg.curve")
    assert not tab.run("document.querySelector('#guarded audio')")
    there(tab, "#guarded audio")
    assert "No copy" in tab.run("document.querySelector('#guarded .badge').textContent")
    tab.run("document.querySelector('#guarded audio').play().then(() => 0)")
    tab.until("document.querySelector('#guarded audio').currentTime > 0.2")
    there(tab, "#plain audio")
    assert "Copy" in tab.run("document.querySelector('#plain .badge').textContent")
    assert tab.run("document.querySelector('#plain h3').textContent").endswith("not for release")
    assert tab.run("document.querySelector('#plain audio').controlsList.contains('nodownload')")
    tab.click("#sound")
    tab.click("#certificate")
    sound, paper = downloaded(tmp_path, ".wav"), downloaded(tmp_path, ".json")
    assert verify(sound, paper, studio.judge.index.folder).verified
    tab.click("#tab-check-button")
    there(tab, "#files input[type=file]")
    copy = studio.judge.training.sound(0)
    audio.write(tmp_path / "copy.flac", torch.cat([0 * copy.wav, copy.wav], 1), copy.sample_rate)
    upload(tab, "#files input[type=file]", sound, tmp_path / "copy.flac")
    there(tab, "#verdicts .pair", 2)
    words = "[...document.querySelectorAll('#verdicts .badge')].map((e) => e.textContent.trim())"
    assert tab.run(words) == ["✓ No copy", "! Copy"]
    tab.run("pair = document.querySelectorAll('#verdicts .pair')[1]; 0")
    tab.run("pair.querySelector('[data-ear=b]').click(); 0")
    playing = "[...pair.querySelectorAll('audio')].every((one) => !one.paused && one.currentTime)"
    tab.until(playing)
    made, clip = tab.run("[...pair.querySelectorAll('audio')].map((one) => one.currentTime)")
    assert made - clip == pytest.approx(copy.wav.shape[-1] / copy.sample_rate, abs=0.15)
    assert tab.run("[...pair.querySelectorAll('audio')].map((one) => one.muted)") == [True, False]
    tab.run("pair.querySelector('[data-ear=a]').click(); 0")
    assert tab.run("[...pair.querySelectorAll('audio')].map((one) => one.muted)") == [False, True]
    assert tab.run(playing)
    tab.until("pair.querySelector('[aria-pressed=true]') == null")


def test_a_generation_is_stopped_by_keyboard(tab: Tab) -> None:
    tab.run("document.querySelector('#generate').focus(); 0")
    tab.key("Enter", 13, "\r")
    there(tab, "#guarded progress")
    tab.until("!document.querySelector('#stop').disabled")
    tab.run("document.querySelector('#stop').focus(); 0")
    tab.key("Enter", 13, "\r")
    tab.until("document.querySelector('#told').textContent.includes('Stopped.')")
    assert not tab.run("document.querySelector('#guarded audio')")
    assert tab.run("document.querySelector('#sound').disabled")


def test_the_basin_is_explored_and_fits_a_phone(tab: Tab) -> None:
    tab.click("#tab-explore-button")
    there(tab, "#render")
    tab.click("#render")
    there(tab, "#explored audio")
    there(tab, "#basin tr", 2)
    assert "Copy" in tab.run("document.querySelector('#basin .badge').textContent")
    for width, scheme in SCREENS:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        tab.call("Emulation.setEmulatedMedia", features=features)
        tab.size(width, mobile=width < 700)
        tab.until(f"document.body.classList.contains('dark') == {str(scheme == 'dark').lower()}")
        assert wide(tab) <= 0


@pytest.mark.slow
def test_the_index_is_searched_and_its_duplicates_are_heard(tab: Tab) -> None:
    tab.click("#tab-index-button")
    there(tab, "#clips tr", 100)
    tab.run("box = document.querySelector('#tab-index textarea, #tab-index input'); 0")
    tab.run("box.value = 'CROW recording'; box.dispatchEvent(new Event('input')); 0")
    tab.until("document.querySelectorAll('#clips tr').length < 100")
    tab.click("#duplicates")
    there(tab, "#clusters .take", 12)
    tab.run("document.querySelector('#clusters audio').play().then(() => 0)")
    tab.size(390, mobile=True)
    assert wide(tab) <= 0


def fill(tab: Tab, css: str, value: str) -> None:
    tab.run(f"box = document.querySelector({css!r}); box.value = {value!r}; 0")
    tab.run("box.dispatchEvent(new Event('input')); 0")


@pytest.mark.slow
def test_clips_are_added_to_an_index_of_ones_own_and_withdrawn(
    browser: Tab, studio: Studio, tmp_path: Path
) -> None:
    own = tmp_path / "index"
    shutil.copytree(studio.judge.index.folder, own)
    calibration = (own / "calibration.json").rename(tmp_path / "calibration.json")
    (tmp_path / "new").mkdir()
    wav = torch.rand(1, 16_000, generator=torch.Generator().manual_seed(0)) - 0.5
    audio.write(tmp_path / "new" / "my own noise.wav", wav, 16_000)
    editable = Studio.open("demo", tmp_path, device="cpu", index=str(own))
    served, address = page.serve(editable, 0, wait=False)
    before = len(TrainingIndex.load(own).clips)
    try:
        with opened(browser, address):
            browser.click("#tab-index-button")
            there(browser, "#add")
            fill(browser, "#folder textarea, #folder input", str(tmp_path / "new"))
            browser.click("#add")
            says = "document.querySelector('#changed').textContent"
            browser.until(f"{says}.includes('has no metadata.csv')", 60)
            listed = "file_name,caption\nmy own noise.wav,my own noise\n"
            (tmp_path / "new" / "metadata.csv").write_text(listed)
            browser.click("#add")
            browser.until(f"{says}.includes('Done.')", 60)
            clips = TrainingIndex.load(own).clips
            assert len(clips) == before + 1
            assert f"{before + 1} of {before + 1} clips" in browser.run(
                "document.querySelector('#clips').textContent"
            )
            fill(browser, "#ids textarea", "nobody knows this")
            browser.click("#withdraw")
            browser.until(f"{says}.includes('nobody knows this')", 60)
            fill(browser, "#ids textarea", clips[-1].id)
            browser.click("#withdraw")
            browser.until(f"{says}.includes('Done.')", 120)
            assert len(TrainingIndex.load(own).clips) == before
            assert editable.judge.index.clips == TrainingIndex.load(own).clips
            calibration.rename(own / "calibration.json")  # of the index before
            browser.click("#add")
            browser.until(f"{says}.includes('Nothing is released until it is opened again')", 60)
            assert "calibrate again" in browser.run(says)
            assert editable.judge.unable()
            browser.size(390, mobile=True)
            assert wide(browser) <= 0
    finally:
        served.close(verbose=False)


@pytest.mark.slow
def test_an_audit_fills_and_opens_its_report(tab: Tab) -> None:
    tab.click("#tab-audit-button")
    there(tab, "#audit")
    tab.click("#audit")
    there(tab, "#filled tr", 3)
    tab.run("[...document.querySelectorAll('#tab-audit button')].at(-1).click(); 0")  # stop
    tab.until("document.querySelector('#tab-audit').textContent.includes('Stopped.')", 60)
