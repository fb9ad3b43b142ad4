"""The PDF draws any script that its fonts have, and says which characters it cannot."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fpdf", reason="needs 'anechoic[pdf]'")
pytest.importorskip("uharfbuzz", reason="needs 'anechoic[pdf]'")

from anechoic.audit.html.media import shaded_png
from anechoic.audit.html.report import Span
from anechoic.errors import BadSetting
from anechoic.evidence.sheet import FACES, Sheet

NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)


def test_greek_cyrillic_hebrew_and_arabic_are_drawn_and_others_named() -> None:
    sheet = Sheet("a4", [], NOON, "")
    sheet.add_page()
    sheet.paragraph("Ωδή, песня, שיר, أغنية, ♪")
    assert sheet.undrawn == set()
    sheet.paragraph("歌 \u202e \x1b[2J")
    assert sheet.undrawn == {"歌"}
    assert sheet.content().startswith(b"%PDF")


def test_a_picture_that_does_not_fit_starts_a_page_and_a_long_head_is_cut() -> None:
    png = shaded_png(np.eye(4))
    sheet = Sheet("a4", [], NOON, "")
    sheet.add_page()
    sheet.page_title("word " * 400)
    sheet.picture(png, "one", Span(0, 100), Span(10, 20))
    assert sheet.pdf.page == 1
    while sheet.pdf.page == 1:
        sheet.picture(png, "more", Span(0, 100), None)
        assert sheet.pdf.get_y() < sheet.pdf.h - 20
    sheet.matrix(png, "beside it")
    assert sheet.pdf.page == 2
    before = sheet.pdf.get_y()
    sheet.pdf.set_y(sheet.pdf.h - 40)
    sheet.matrix(png, "no room")
    assert (sheet.pdf.page, sheet.pdf.get_y()) == (2, sheet.pdf.h - 40)
    assert before < sheet.pdf.h - 40


def test_a_further_font_adds_its_characters(tmp_path: Path) -> None:
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    pen = TTGlyphPen(None)
    for place in ((0, 0), (0, 700), (600, 700)):
        pen.lineTo(place) if pen.points else pen.moveTo(place)
    pen.closePath()
    glyph = pen.glyph()
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder([".notdef", "song"])
    font.setupCharacterMap({ord("歌"): "song"})
    font.setupGlyf({".notdef": glyph, "song": glyph})
    font.setupHorizontalMetrics({".notdef": (700, 0), "song": (700, 0)})
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": "Song", "styleName": "Regular"})
    font.setupOS2(sTypoAscender=800, sTypoDescender=-200)
    font.setupPost()
    font.save(tmp_path / "song.ttf")
    sheet = Sheet("letter", [tmp_path / "song.ttf"], NOON, "")
    sheet.add_page()
    sheet.paragraph("歌 song")
    assert sheet.undrawn == set()
    assert b"Song" in sheet.content()


def test_a_font_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.ttf").write_bytes(b"no font")
    with pytest.raises(BadSetting, match="expected a font file, TTF or OTF, got "):
        Sheet("a4", [tmp_path / "a.ttf"], NOON, "")
    assert set(FACES) == {"", "B"}
