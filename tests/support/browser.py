"""A real Chromium, driven over its own debugging protocol.

    python tests/support/browser.py PAGE FOLDER

writes pictures of a page into a folder, to look at: wide and narrow, light and dark.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

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
SCREENS = [  # name, width, scheme of colours
    ("desktop", 1280, "light"),
    ("dark", 1280, "dark"),
    ("phone", 390, "light"),
    ("phone-dark", 390, "dark"),
]


class Tab:
    """One tab: commands go in, events are collected."""

    def __init__(self, address: str) -> None:
        websocket = pytest.importorskip("websocket", reason="pip install websocket-client")
        self.socket = websocket.create_connection(address, suppress_origin=True, timeout=60)
        self.count, self.events, self.own = 0, [], ""  # type: ignore[var-annotated]
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

    def until(self, script: str, seconds: float = 20.0) -> Any:
        """The value of an expression as soon as it is true."""
        deadline = time.monotonic() + seconds
        while not (value := self.run(script)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert value, script
        return value

    def click(self, css: str) -> None:
        self.run(f"document.querySelector({css!r}).click(); 0")

    def open(self, page: Path | str) -> None:
        """Open a file, or an address of this machine."""
        self.events.clear()
        self.own = page.as_uri() if isinstance(page, Path) else page
        self.call("Page.navigate", url=self.own)
        scheme = self.own.partition("//")[0]
        while not self.run(f"location.protocol == '{scheme}' && document.readyState == 'complete'"):
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
        """Console errors and warnings, exceptions, and anything asked of the network, except of the
        address itself."""
        self.run("0")
        own, bad = () if self.own.startswith("file:") else (self.own,), []
        for event in self.events:
            what, params = event.get("method"), event.get("params", {})
            if (
                what == "Runtime.exceptionThrown"
                or (what == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"))
                or (what == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"))
                or (
                    what == "Network.requestWillBeSent"
                    and not params["request"]["url"].startswith(("file:", "data:", "blob:", *own))
                )
            ):
                bad.append(params)
        return bad


@contextmanager
def chromium(profile: Path) -> Iterator[Tab]:
    """A tab of a fresh Chromium, which ends with the block."""
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
    tab = Tab(tabs[0]["webSocketDebuggerUrl"])
    yield tab
    tab.call("Browser.close")
    process.wait(timeout=30)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    """A tab for the tests of a module."""
    with chromium(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture
def tab(browser: Tab, page: Path) -> Iterator[Tab]:
    """The tab with the module's page, opened anew, which complains of nothing until the end."""
    browser.size(1280)
    browser.open(page)
    yield browser
    assert browser.complaints() == []


def save_pictures(page: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with chromium(Path(tempfile.mkdtemp())) as view:
        for name, width, scheme in SCREENS:
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            view.call("Emulation.setEmulatedMedia", features=features)
            view.size(width, mobile=width < 700)
            view.open(page)
            view.run("document.querySelector('details').open = true; 0")
            time.sleep(1.0)
            for at in range(3):
                clip = {"x": 0, "y": 1300 * at, "width": width, "height": 1300, "scale": 1}
                shot = view.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
                (folder / f"{name}-{at}.png").write_bytes(base64.b64decode(shot["data"]))


if __name__ == "__main__":
    save_pictures(Path(sys.argv[1]).resolve(), Path(sys.argv[2]))
