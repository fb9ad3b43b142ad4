"""The page in a real Chromium, driven over its own debugging protocol."""

from __future__ import annotations

import dataclasses
import json
import os
import runpy
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from anechoic.audit.html import write_page

fake_story = runpy.run_path(str(Path(__file__).with_name("test_page.py")))["fake_story"]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--mute-audio",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
    "--window-size=1280,900",
    "about:blank",
]

pytestmark = pytest.mark.browser
websocket = pytest.importorskip("websocket", reason="pip install websocket-client")


class Tab:
    """One tab: commands go in, events are kept."""

    def __init__(self, address: str) -> None:
        self.socket = websocket.create_connection(address, suppress_origin=True, timeout=60)
        self.count, self.events = 0, []  # type: ignore[var-annotated]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self.count += 1
        self.socket.send(json.dumps({"id": self.count, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == self.count:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def run(self, script: str) -> Any:
        """The value of an expression, awaited, run as if the user had clicked."""
        answer = self.call(
            "Runtime.evaluate",
            expression=script,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def open(self, page: Path) -> None:
        self.events.clear()
        self.call("Page.navigate", url=page.as_uri())
        while not self.run("location.protocol == 'file:' && document.readyState == 'complete'"):
            time.sleep(0.05)

    def size(self, width: int, height: int = 900, mobile: bool = False) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=mobile,
        )

    def key(self, key: str, code: int, text: str = "") -> None:
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def complaints(self) -> list[Any]:
        """Console errors and warnings, exceptions, and anything asked of the network."""
        self.run("0")
        bad = []
        for event in self.events:
            what, params = event.get("method"), event.get("params", {})
            if (
                what == "Runtime.exceptionThrown"
                or (what == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"))
                or (what == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"))
                or (
                    what == "Network.requestWillBeSent"
                    and not params["request"]["url"].startswith(("file:", "data:"))
                )
            ):
                bad.append(params)
        return bad


def chromium(profile: Path) -> tuple[subprocess.Popen[bytes], Tab]:
    if CHROMIUM is None:
        pytest.skip("no Chromium here; on Debian: apt-get install chromium")
    process = subprocess.Popen(
        [CHROMIUM, f"--user-data-dir={profile}", *FLAGS],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    port_file = profile / "DevToolsActivePort"
    deadline = time.monotonic() + 60
    while not (port_file.exists() and port_file.read_text().strip()):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail("Chromium did not start within a minute")
        time.sleep(0.05)
    port = port_file.read_text().split()[0]
    with urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
        tabs = [tab for tab in json.load(answer) if tab["type"] == "page"]
    return process, Tab(tabs[0]["webSocketDebuggerUrl"])


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    story = fake_story(3)
    long_word = dataclasses.replace(story.cases[1], prompt="long" * 50)
    story = dataclasses.replace(story, cases=[story.cases[0], long_word, story.cases[2]])
    return write_page(tmp_path_factory.mktemp("page") / "demo page #1 é.html", story)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    process, tab = chromium(tmp_path_factory.mktemp("profile"))
    yield tab
    tab.call("Browser.close")
    process.wait(timeout=30)


@pytest.fixture
def tab(browser: Tab, page: Path) -> Iterator[Tab]:
    browser.size(1280)
    browser.open(page)
    yield browser
    assert browser.complaints() == []


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


if __name__ == "__main__":  # screenshots, to look at: python tests/test_report_browser.py FOLDER
    import base64
    import sys
    import tempfile

    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    shown = write_page(out / "page.html", fake_story(12), overwrite=True)
    print(f"{shown}: {os.path.getsize(shown) / 1e6:.2f} MB")
    process, view = chromium(Path(tempfile.mkdtemp()))
    for name, width, scheme in (
        ("desktop", 1280, "light"),
        ("dark", 1280, "dark"),
        ("phone", 390, "light"),
        ("phone-dark", 390, "dark"),
    ):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        view.call("Emulation.setEmulatedMedia", features=features)
        view.size(width, mobile=width < 700)
        view.open(shown)
        for at, css in enumerate(("body", ".case", ".case:nth-of-type(2) .card", "#h-others")):
            view.run(f"document.querySelector('{css}').scrollIntoView({{behavior: 'instant'}}); 0")
            clip = {"x": 0, "y": view.run("scrollY"), "width": width, "height": 1900, "scale": 1}
            shot = view.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
            (out / f"{name}-{at}.png").write_bytes(base64.b64decode(shot["data"]))
    view.call("Browser.close")
    process.wait(timeout=30)
