"""The listening test: blind, level, and its answers come out as they were given."""

from __future__ import annotations

import base64
import csv
import json
import re
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from anechoic_lab.bench import BenchPrompt, Method, Plan, Request
from anechoic_lab.bench.listening import LEVEL, Pair, trials, write_page
from support.browser import Tab

from anechoic.errors import BadSetting

RATE = 8_000
NONE = Method("none", "unguarded")
AUTO = Method("auto", "=auto", "auto")  # a spreadsheet would take it for a formula
PLAN = Plan("small", (NONE, AUTO), seeds=(3,), batch=2)


class Tones:
    """A task whose generations are loud tones, and its training clips quiet ones."""

    name, scenarios = "tones", ("only",)

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def prompts(self, scenario: str, split: str) -> Sequence[BenchPrompt]:
        return [
            BenchPrompt(str(hz), f"a tone of {hz} Hz", group)
            for hz, group in ((300, "memorized"), (400, "memorized"), (500, "memorized"),
                              (600, "memorized"), (700, "ordinary"))
        ]  # fmt: skip

    def pairs(self, request: Request) -> Sequence[Pair]:
        self.asked.append(request)
        return [
            Pair(tone(int(one.id), 0.9, 1.0), tone(int(one.id) + 5, 0.01, 1.2), RATE, f"c{one.id}")
            for one in request.prompts
        ]


def tone(hz: int, level: float, seconds: float) -> torch.Tensor:
    t = torch.arange(round(seconds * RATE)) / RATE
    return level * torch.sin(2 * torch.pi * hz * t)[None]


def content(page: Path) -> Any:
    (coded,) = re.findall(r'id="content">([^<]*)<', page.read_text())
    return json.loads(base64.b64decode(coded))


def sound(uri: str, folder: Path) -> np.ndarray:
    (folder / "one.flac").write_bytes(base64.b64decode(uri.partition(",")[2]))
    return soundfile.read(folder / "one.flac")[0]


def test_all_methods_are_asked_for_the_same_memorized_prompts_in_a_blind_order() -> None:
    task = Tones()
    found = trials(task, PLAN, 7)
    assert Counter(one.method for one in found) == {"unguarded": 3, "=auto": 3}
    of = {name: {t.prompt.id for t in found if t.method == name} for name in ("unguarded", "=auto")}
    assert of["unguarded"] == of["=auto"] <= {"300", "400", "500", "600"}
    assert {request.seed for request in task.asked} == {3}
    assert max(len(request.prompts) for request in task.asked) == PLAN.batch
    again = trials(Tones(), PLAN, 7)
    assert [(t.method, t.prompt, t.x_is_a) for t in again] == [
        (t.method, t.prompt, t.x_is_a) for t in found
    ]
    many = trials(Tones(), Plan("p", tuple(Method(f"{i}", f"{i}") for i in range(40))), 160)
    firsts = Counter((one.made_first, one.x_is_a) for one in many)
    assert len(firsts) == 4
    assert min(firsts.values()) > 20


def test_neither_level_nor_length_gives_an_answer_away(tmp_path: Path) -> None:
    found = trials(Tones(), PLAN, 4)
    write_page(tmp_path / "page.html", found, "tones <b>")
    assert "tones &lt;b&gt;" in (tmp_path / "page.html").read_text()
    for trial, one in zip(found, content(tmp_path / "page.html"), strict=True):
        a, b = (sound(uri, tmp_path) for uri in one["sound"])
        assert len(a) == len(b) == RATE
        for wav in (a, b):
            assert np.sqrt(np.mean(wav**2)) == pytest.approx(LEVEL, rel=1e-2)
        pitches = [np.abs(np.fft.rfft(wav)).argmax() for wav in (a, b)]
        assert (pitches[0] < pitches[1]) == trial.made_first  # clips are 5 Hz higher
        assert one["generated"] == ("A" if trial.made_first else "B")
        assert one["x"] == ("A" if trial.x_is_a else "B")


def test_what_has_no_sound_or_too_few_questions_is_refused() -> None:
    with pytest.raises(BadSetting, match="a listening test needs sound, and the task"):
        trials(object(), PLAN)
    with pytest.raises(BadSetting, match="at least one trial for each of 2 methods, got 1"):
        trials(Tones(), PLAN, 1)


@pytest.mark.browser
def test_a_listener_answers_by_mouse_and_keyboard_and_saves(browser: Tab, tmp_path: Path) -> None:
    found = trials(Tones(), PLAN, 4)
    write_page(tmp_path / "page.html", found, "tones")
    browser.size(390, mobile=True)
    browser.open((tmp_path / "page.html").as_uri())
    browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    browser.run("document.querySelector('#listener').value = '=cmd'; 0")
    browser.click("#start")
    browser.run("HTMLMediaElement.prototype.play = async function () { this.onended(); }; 0")
    for number, trial in enumerate(found):
        heading = "document.querySelector('#number').textContent"
        browser.until(f"{heading} == 'Question {number + 1} of 4'")
        assert browser.run("document.querySelector('[data-answer=A]').disabled")
        for key, code in (("1", 49), ("2", 50), ("3", 51)):
            browser.key(key, code, key)
        browser.until("!document.querySelector('[data-answer=A]').disabled")
        right = "A" if trial.x_is_a else "B"
        said = right if number else "BA"["AB".index(right)]  # the first one is wrong
        if number % 2:
            browser.key(said.lower(), ord(said), said.lower())
        else:
            browser.click(f"[data-answer={said}]")
    browser.until("document.querySelector('#score').textContent == 'Right in 3 of 4'")
    assert browser.run("document.documentElement.scrollWidth - innerWidth") <= 0
    browser.click("#save")
    rows = list(csv.DictReader(saved(tmp_path).open(newline="", encoding="utf-8")))
    assert [row["right"] for row in rows] == ["0", "1", "1", "1"]
    assert [row["id"] for row in rows] == [trial.prompt.id for trial in found]
    assert {row["method"] for row in rows} == {"unguarded", "'=auto"}
    assert {row["listener"] for row in rows} == {"'=cmd"}
    assert {row["plays"] for row in rows} == {"3"}
    assert not browser.complaints()


def saved(folder: Path) -> Path:
    deadline = time.monotonic() + 30
    while not (file := folder / "listening-answers.csv").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return file
