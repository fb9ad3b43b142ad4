"""The pages of the PDF: type, tables and pictures, by fpdf2."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from textwrap import shorten
from typing import Any

import matplotlib
from fontTools.ttLib import TTFont, TTLibError
from fpdf import FPDF
from fpdf.fonts import FontFace

from anechoic.audit.html.report import Span
from anechoic.errors import BadSetting, printable

FAMILY, HASHES = "text", "hashes"
FACES = {"": "DejaVuSans.ttf", "B": "DejaVuSans-Bold.ttf"}
HASH_FACE = "DejaVuSansMono.ttf"
INK, SOFT, RULE, COPY = (27, 31, 35), (89, 97, 106), (205, 209, 213), (163, 63, 0)
MARGIN, PICTURE, MATRIX = 20, 30, 46  # mm
LONGEST = 120  # characters of the head of a page
Colour = tuple[int, int, int]


class Sheet:
    """A PDF whose text may be in any script that its fonts have.

    Args:
        paper: "a4" or "letter".
        fonts: further fonts, for characters that DejaVu does not have.
        created: when, which is all that differs between two PDFs of the same content.
        author: who made it.

    Raises:
        BadSetting: a font cannot be read.
    """

    def __init__(self, paper: str, fonts: Sequence[Path], created: datetime, author: str) -> None:
        self.pdf = _blank(paper)
        self.pdf.footer = self._footer
        self.undrawn: set[str] = set()
        self.pdf.set_creation_date(created)
        self.pdf.set_title("Evidence of an audit")
        self.pdf.set_author(author)
        self.pdf.set_lang("en")
        self.pdf.set_margins(MARGIN, 18)
        self.pdf.set_auto_page_break(True, 20)
        folder = Path(matplotlib.get_data_path(), "fonts/ttf")
        for style, file in FACES.items():
            self.pdf.add_font(FAMILY, style, folder / file)
        self.pdf.add_font(HASHES, "", folder / HASH_FACE)
        self._drawable = _characters(folder / FACES[""])
        for i, font in enumerate(fonts):
            self._drawable |= _characters(font)
            self.pdf.add_font(f"more-{i}", "", font)
        self.pdf.set_fallback_fonts([f"more-{i}" for i in range(len(fonts))], exact_match=False)
        # joins Arabic letters, and turns what reads from the right inside our own sentences
        self.pdf.set_text_shaping(True, direction="ltr")

    def add_page(self) -> None:
        """Begin a page."""
        self.pdf.add_page()

    def content(self) -> bytes:
        """The finished file."""
        return bytes(self.pdf.output())

    def _footer(self) -> None:
        self.pdf.set_y(-14)
        self._type(8, SOFT)
        self.pdf.cell(
            0,
            5,
            f"Evidence of an audit by anechoic, page {self.pdf.page_no()} of {{nb}}",
            align="C",
        )

    def page_title(self, text: str, below: str = "") -> None:
        """The head of a page; a long prompt is cut here, and stands whole below."""
        self._type(18, INK, "B")
        self._text(shorten(text, LONGEST, placeholder=" …"), 8)
        if below:
            self.paragraph(below, 10, soft=True)
        self.pdf.ln(3)

    def heading(self, text: str) -> None:
        """The head of a part of a page."""
        self.pdf.ln(3)
        self._type(11, INK, "B")
        self._text(text, 6)

    def paragraph(self, text: str, size: float = 10, *, soft: bool = False) -> None:
        """Some sentences."""
        self._type(size, SOFT if soft else INK)
        self._text(text, size / 2)
        self.pdf.ln(1)

    def bullets(self, texts: Sequence[str], size: float = 9.5) -> None:
        """Sentences, each with a dot before it."""
        for text in texts:
            self._type(size, INK)
            self.pdf.set_x(MARGIN)
            self.pdf.cell(5, size / 2, "•")
            self.pdf.multi_cell(
                0, size / 2, self._drawn(text), align="L", new_x="LMARGIN", new_y="NEXT"
            )
            self.pdf.ln(1.2)

    def quote(self, texts: Sequence[str]) -> None:
        """Sentences to quote, beside a bar."""
        top, page = self.pdf.get_y(), self.pdf.page
        self.pdf.set_left_margin(MARGIN + 6)
        for text in texts:
            self._type(12.5, INK)
            self.pdf.set_x(MARGIN + 6)
            self._text(text, 6.4)
            self.pdf.ln(1)
        self.pdf.set_left_margin(MARGIN)
        if self.pdf.page == page:
            self.pdf.set_fill_color(*COPY)
            self.pdf.rect(MARGIN, top, 1.6, self.pdf.get_y() - top - 1, style="F")
        self.pdf.ln(3)

    def facts(self, rows: Sequence[tuple[str, str]], size: float = 8.5) -> None:
        """Names, and what each is."""
        self.grid((), rows, (24, 76), size, soft_first=True)

    def grid(
        self,
        head: Sequence[str],
        rows: Sequence[Sequence[str]],
        widths: Sequence[int],
        size: float = 9,
        *,
        height: float = 0,
        soft_first: bool = False,
    ) -> None:
        """A table; `widths` are shares of the page."""
        self._type(size, INK)
        self.pdf.set_draw_color(*RULE)
        self.pdf.set_fill_color(255, 255, 255)
        with self._ruled(widths, bool(head), max(height, size / 2)) as table:
            if head:
                table.row([self._drawn(cell) for cell in head])
            for cells in rows:
                row = table.row()
                for place, cell in enumerate(cells):
                    face = FontFace(color=SOFT) if soft_first and place == 0 else None
                    row.cell(self._drawn(cell), style=face)
        self.pdf.ln(2)

    def _ruled(self, widths: Sequence[int], head: bool, height: float) -> Any:
        return self.pdf.table(
            col_widths=tuple(widths),
            first_row_as_headings=head,
            headings_style=FontFace(emphasis="BOLD"),
            borders_layout="HORIZONTAL_LINES",
            line_height=height,
            text_align="LEFT",
            padding=(0.7, 1.5, 0.7, 0),
            width=self.pdf.epw,
        )

    def hashes(self, hashes: Mapping[str, str]) -> None:
        """File names and their hashes, in type of one width."""
        for name, digest in hashes.items():
            self.pdf.set_font(HASHES, size=7)
            self.pdf.set_text_color(*INK)
            self.pdf.cell(self.pdf.epw - 101, 3.9, self._drawn(name))
            self.pdf.cell(101, 3.9, digest, new_x="LMARGIN", new_y="NEXT")
        self.pdf.ln(2)

    def picture(self, png: bytes, label: str, span: Span, frame: Span | None) -> None:
        """A spectrogram where its sound lies on the time axis, and a frame around what is alike."""
        if self.pdf.will_page_break(PICTURE + 8):
            self.pdf.add_page()
        self._type(8.5, SOFT)
        self._text(label, 4.5)
        top, left = self.pdf.get_y(), self.pdf.l_margin
        self.pdf.set_fill_color(238, 238, 236)
        self.pdf.rect(left, top, self.pdf.epw, PICTURE, style="F")
        x, width = (self.pdf.epw * part / 100 for part in (span.left, span.width))
        self.pdf.image(io.BytesIO(png), left + x, top, max(width, 0.1), PICTURE)
        if frame is not None:
            x, width = (self.pdf.epw * part / 100 for part in (frame.left, frame.width))
            for colour, line in (((0, 0, 0), 1.0), ((255, 255, 255), 0.5)):
                self.pdf.set_draw_color(*colour)
                self.pdf.set_line_width(line)
                self.pdf.rect(left + x, top, width, PICTURE)
            self.pdf.set_line_width(0.2)
        self.pdf.set_y(top + PICTURE + 1)

    def matrix(self, png: bytes, text: str) -> None:
        """A square picture with its explanation beside it, if the page has room for it."""
        top = self.pdf.get_y() + 2
        if top + MATRIX > self.pdf.h - 22:
            return
        self.pdf.image(io.BytesIO(png), MARGIN, top, MATRIX, MATRIX, keep_aspect_ratio=True)
        self.pdf.set_left_margin(MARGIN + MATRIX + 6)
        self.pdf.set_y(top)
        self.paragraph(text, 9, soft=True)
        self.pdf.set_left_margin(MARGIN)
        self.pdf.set_y(top + MATRIX)

    def axis(self, ticks: Sequence[tuple[float, str]], label: str) -> None:
        """The time below the pictures."""
        self._type(7.5, SOFT)
        top = self.pdf.get_y()
        for at, text in ticks:
            self.pdf.set_xy(self.pdf.l_margin + self.pdf.epw * at / 100 - 8, top)
            self.pdf.cell(16, 3.5, text, align="C")
        self.pdf.set_xy(self.pdf.l_margin, top + 3.5)
        self.pdf.cell(0, 4, label, align="C", new_x="LMARGIN", new_y="NEXT")
        self.pdf.ln(2)

    def blank(self, label: str) -> None:
        """A line to write on."""
        self._type(9, SOFT)
        self.pdf.cell(38, 8, label)
        self.pdf.set_draw_color(*INK)
        self.pdf.line(
            self.pdf.get_x(), self.pdf.get_y() + 6.5, self.pdf.w - MARGIN, self.pdf.get_y() + 6.5
        )
        self.pdf.ln(8)

    def _type(self, size: float, colour: Colour, style: str = "") -> None:
        self.pdf.set_font(FAMILY, style, size)
        self.pdf.set_text_color(*colour)

    def _text(self, text: str, height: float) -> None:
        self.pdf.multi_cell(0, height, self._drawn(text), align="L", new_x="LMARGIN", new_y="NEXT")

    def _drawn(self, text: str) -> str:
        """Text that the fonts can draw: others as their numbers, which `undrawn` lists."""
        plain = " ".join(printable(text).split())
        lost = {one for one in plain if ord(one) not in self._drawable}
        self.undrawn |= lost
        return "".join(f"[U+{ord(one):04X}]" if one in lost else one for one in plain)


def _blank(paper: str) -> Any:
    return FPDF(format=paper)  # of any type, so that its footer may be set


def _characters(font: Path) -> set[int]:
    try:
        with TTFont(font) as read:
            return set(read.getBestCmap())
    except (OSError, TTLibError, TypeError) as error:
        raise BadSetting(
            f"expected a font file, TTF or OTF, got '{font}' ({error}); name another"
        ) from error
