"""The page is one file, tells the figures as they are, and trusts no caption."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import re
import struct
import time
import zlib
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support.story import NASTY, RATE, clip, fake_story, note

from anechoic.audit.html import (
    Column,
    Curve,
    Figure,
    MethodRow,
    Story,
    write_page,
)
from anechoic.audit.html.chart import curve_svg
from anechoic.audit.html.media import _palette, audio_uri, palette_png, spectrogram_db
from anechoic.audit.html.page import best_methods, render
from anechoic.errors import BadAudio, BadSetting, OutputExists


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
def text() -> str:
    return render(fake_story())


def test_a_hostile_caption_is_shown_as_text() -> None:
    page = render(fake_story(1, 2, prompt=NASTY))
    tags = Page(page)
    assert len(tags.all("script")) == 1
    assert len(tags.all("style")) == 1
    assert "<script>alert" not in page
    assert html.escape(NASTY).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in page


def test_only_the_pages_own_script_may_run(text: str) -> None:
    policy = next(m["content"] for m in Page(text).all("meta") if m.get("http-equiv"))
    assert policy is not None
    script_rule = re.search(r"script-src ([^;]+)", policy)
    assert script_rule is not None
    assert re.fullmatch(r"'sha256-[\w+/=]{44}'", script_rule[1])
    assert not [a for _, a in Page(text).tags if any(name.startswith("on") for name in a)]


def test_nothing_is_fetched(text: str) -> None:
    for tag, attrs in Page(text).tags:
        for name in ("src", "href", "srcset", "poster", "data"):
            value = attrs.get(name)
            if value is not None and not value.startswith(("data:", "#")):
                assert tag == "a", (tag, value[:80])
                assert value.startswith("https://example.org/")
    assert "url(" not in text
    assert "@import" not in text


@pytest.mark.parametrize(
    "url",
    ["javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", "//x.y", "http://[", ""],
)
def test_a_source_that_is_no_web_page_is_no_link(url: str) -> None:
    story = fake_story(1, 1)
    case = dataclasses.replace(
        story.cases[0], training=clip("c", "note-0", 110, url), generations=[]
    )
    page = Page(render(dataclasses.replace(story, cases=[case])))
    assert all((a.get("href") or "#").startswith("#") for a in page.all("a"))


def test_every_sound_and_picture_is_embedded_once(text: str) -> None:
    uris = re.findall(r'(?:src|href)="(data:(?:audio|image)[^"]+)"', text)
    assert len(set(uris)) == len(uris)
    generations, clips = 2 * 6, 2 + 2 * 4
    assert sum(u.startswith("data:audio/flac") for u in uris) == generations + clips
    assert sum(u.startswith("data:image/png") for u in uris) == generations + clips


def test_ids_are_distinct_and_every_reference_has_its_target(text: str) -> None:
    tags = Page(text).tags
    ids = [a["id"] for _, a in tags if "id" in a]
    assert len(set(ids)) == len(ids)
    wanted = {(a.get("href") or "").removeprefix("#") for t, a in tags if t in ("a", "use")}
    wanted |= {a["data-audio"] or "" for _, a in tags if "data-audio" in a}
    wanted |= {a["aria-labelledby"] or "" for _, a in tags if "aria-labelledby" in a}
    assert {w for w in wanted if not w.startswith("http")} <= set(ids)


def test_every_picture_has_words_and_every_header_a_scope(text: str) -> None:
    page = Page(text)
    assert all(a.get("alt") for a in page.all("img"))
    assert all(a.get("aria-label") or a.get("aria-hidden") for a in page.all("svg"))
    assert all(a.get("scope") in ("row", "col") for a in page.all("th"))
    assert page.all("html") == [{"lang": "en"}]


def test_figures_appear_with_interval_and_n(text: str) -> None:
    words = " ".join(re.sub(r"<[^>]+>", " ", text.split("<main>")[1]).split())
    assert "0.83 [0.71, 0.92] n=80" in words
    assert "1.2 (best) n=80" in words


def test_a_figure_that_was_not_measured_says_so() -> None:
    story = fake_story(1, 1)
    row = dataclasses.replace(story.methods[0], figures={})
    assert "not measured" in render(dataclasses.replace(story, methods=[row]))


def test_best_is_what_is_best_as_shown() -> None:
    rows = [
        MethodRow(n, n, "", {"c": Figure(v)})
        for n, v in zip("abc", (0.061, 0.058, 0.3), strict=True)
    ]
    rows.append(MethodRow("d", "d"))
    assert best_methods(Column("c", "C", better="lower"), rows) == {"a", "b"}
    assert best_methods(Column("c", "C", better="higher"), rows) == {"c"}
    assert best_methods(Column("c", "C"), rows) == set()


def test_copies_are_told_in_words_not_by_colour_alone(text: str) -> None:
    badges = re.findall(r'class="badge[^>]+>.*?<span>([^<]+)</span>', text, re.S)
    assert badges[:2] == ["Copy", "Not a copy"]  # of the legend
    assert badges[2:] == ["Copy", *["Not a copy"] * 4, "Copy"] * 2


def test_twelve_cases_of_six_methods_stay_under_8_mb(tmp_path: Path) -> None:
    began = time.perf_counter()
    page = write_page(tmp_path / "page.html", fake_story(12))
    assert page.stat().st_size < 8e6
    assert time.perf_counter() - began < 30


def test_a_page_that_is_there_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("mine")
    with pytest.raises(OutputExists, match="there already"):
        write_page(path, fake_story(1, 1))
    assert path.read_text() == "mine"
    write_page(path, fake_story(1, 1), overwrite=True)
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


def _with_wav(wav: np.ndarray) -> Story:
    story = fake_story(1, 1)
    made = dataclasses.replace(story.cases[0].generations[0], wav=wav)
    case = dataclasses.replace(story.cases[0], generations=[made])
    return dataclasses.replace(story, cases=[case])


@pytest.mark.parametrize(
    "wav", [np.zeros(0), np.full(9, np.nan), np.zeros((2, 99)), np.array([np.inf])]
)
def test_bad_sound_leaves_nothing_behind(wav: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(BadAudio):
        write_page(tmp_path / "page.html", _with_wav(wav))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wav", [np.zeros(RATE), np.ones(1), 5 * note(200, 1)])
def test_silence_one_sample_and_too_loud_are_drawn_without_a_warning(wav: np.ndarray) -> None:
    with np.errstate(all="raise"):
        assert "data:audio/flac" in render(_with_wav(wav))


def test_a_surrogate_in_a_caption_does_not_break_the_page(tmp_path: Path) -> None:
    page = write_page(tmp_path / "page.html", fake_story(1, 1, prompt="bad \udcff name"))
    assert "bad ? name" in page.read_text(encoding="utf-8")


def _twice_the_same_id(story: Story) -> Story:
    made = dataclasses.replace(story.cases[0].generations[0], nearest=clip("c", "note-0", 999))
    return dataclasses.replace(
        story, cases=[dataclasses.replace(story.cases[0], generations=[made])]
    )


def _score_nan(story: Story) -> Story:
    dataclasses.replace(story.cases[0].generations[0], scores={"j": float("nan")})
    return story


SPOILS = {
    "one id for two sounds": _twice_the_same_id,
    "a score that is NaN": _score_nan,
    "a generation of no method": lambda story: dataclasses.replace(story, methods=[]),
    "a figure of no column": lambda story: dataclasses.replace(story, columns=[]),
}


@pytest.mark.parametrize("spoil", SPOILS.values(), ids=SPOILS.keys())
def test_a_story_that_contradicts_itself_is_refused(spoil: Callable[[Story], Story]) -> None:
    with pytest.raises(BadSetting):
        render(spoil(fake_story(1, 1)))


def test_a_curve_of_uneven_lengths_is_refused() -> None:
    with pytest.raises(BadSetting, match="progress has 3"):
        Curve(np.arange(3), np.arange(3), np.arange(4))


def test_the_embedded_sound_is_the_judged_sound() -> None:
    wav = note(220, 3)
    kind, data = audio_uri(wav, RATE).split(",")
    back, rate = soundfile.read(io.BytesIO(base64.b64decode(data)), dtype="float32")
    assert (kind, rate) == ("data:audio/flac;base64", RATE)
    assert np.abs(back - wav).max() <= 1.01 / 2**15  # one step of 16 bits


@pytest.mark.parametrize("hz", [100.0, 440.0, 5000.0])
def test_a_tone_is_brightest_at_its_own_row(hz: float) -> None:
    db = spectrogram_db(np.sin(2 * np.pi * hz * np.arange(RATE) / RATE).astype(np.float32), RATE)
    edges = np.geomspace(60, RATE / 2, db.shape[0] + 1)[::-1]
    row = int(db.mean(axis=1).argmax())
    # weighting by frequency leans a 40 Hz wide lobe up by some Hz
    assert edges[row + 1] - 8 <= hz <= edges[row] + 8
    assert db.max() == 0


def test_a_louder_colour_is_a_lighter_one() -> None:
    luma = _palette() @ [0.2126, 0.7152, 0.0722]  # so the picture reads in grey, too
    assert (np.diff(luma) > 0).all()


def test_a_png_holds_its_pixels() -> None:
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    png = palette_png(pixels, np.zeros((6, 3)))
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", png[16:24]) == (3, 2)
    at = png.index(b"IDAT")
    assert zlib.decompressobj().decompress(png[at + 4 :]) == b"\0\0\1\2\0\3\4\5"


def test_gate_bands_cover_exactly_the_open_steps() -> None:
    p = np.linspace(0, 1, 11)
    gate = np.zeros(11, dtype=bool)
    gate[[0, 1, 5, 10]] = True
    drawn = curve_svg(Curve(p, p, p, gate=gate), 1.0)
    bands = [
        (float(x), float(w))
        for x, w in re.findall(r'class="gate" x="([\d.]+)".*?width="([\d.]+)"', drawn)
    ]
    assert bands == [(40.0, 52.5), (197.5, 35.0), (372.5, 17.5)]  # 350 units from 40 to 390


def test_a_curve_with_gaps_or_nothing_recorded_still_draws() -> None:
    p = np.linspace(0, 1, 3)
    drawn = curve_svg(Curve(p, np.array([-np.inf, 0, np.inf]), np.array([1, np.nan, 2]), p), 2.0)
    assert "nan" not in drawn
    assert "inf" not in drawn
    empty = np.zeros(0)
    assert curve_svg(Curve(empty, empty, empty), 0.0) == ""
