"""The figures of the paper and of the README are those of the pages that they name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAPER, README = DOCS / "paper.md", ROOT / "README.md"

Table = tuple[list[str], list[list[str]]]  # its head and its rows


def tables(text: str) -> Iterator[Table]:
    """The tables of a page."""
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        head, _, *rows = (
            [cell.strip() for cell in line.strip("| \n").split("|")] for line in block.splitlines()
        )
        yield head, [row + [""] * (len(head) - len(row)) for row in rows]


def figures(text: str) -> set[str]:
    """The measured figures of a text: counts out of a number, shares and large numbers."""
    text = re.sub(r"\]\([^)]*\)|`[^`]*`|arXiv:\S+", "", re.sub(r"\s+", " ", text))
    found = re.findall(r"\d+ of \d+|\d*\.\d+|\d+,\d{3}", text)
    return {"0" + figure if figure.startswith(".") else figure for figure in found}


def evidence(text: str, page: Path) -> str:
    """The pages of the evidence that a text links."""
    links = dict.fromkeys(re.findall(r"\]\(((?:docs/)?evidence/[\w-]+\.md)", text))
    return "\n".join((page.parent / link).read_text() for link in links)


def missing(quoted: Table, source: str) -> list[list[str]]:
    """The rows of a table that no table of the source has, in the columns that it takes."""
    (head, rows), found = quoted, set()
    for names, others in tables(source):
        if set(head) <= set(names):
            places = [names.index(name) for name in head]
            found |= {tuple(other[place] for place in places) for other in others}
    return [row for row in rows if tuple(row) not in found]


SECTIONS = [part for part in PAPER.read_text().split("\n## ") if "\n|" in part]


@pytest.mark.parametrize("section", SECTIONS, ids=[part.split("\n")[0] for part in SECTIONS])
def test_the_tables_of_the_paper_are_those_of_its_evidence(section: str) -> None:
    for table in tables(section):
        assert missing(table, evidence(section, PAPER)) == []


def test_the_table_of_the_readme_is_that_of_the_demo() -> None:
    section = README.read_text().split("\n## What was measured")[1]
    ((_, *head), rows) = next(tables(section))  # it names the guards in its own words
    assert len(rows) == 4
    assert missing((head, [row[1:] for row in rows]), evidence(section, README)) == []


QUOTING = [
    (page, part)
    for page in (PAPER, README)
    for part in page.read_text().split("\n\n")
    if "evidence/" in part and not part.startswith("|")
]


@pytest.mark.parametrize(("page", "part"), QUOTING, ids=[part[:30] for _, part in QUOTING])
def test_a_figure_in_the_text_stands_in_a_page_that_it_links(page: Path, part: str) -> None:
    assert figures(part) - figures(evidence(part, page)) == set()
