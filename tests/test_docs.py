"""The documentation is true: its links lead somewhere, its commands and imports exist, and it has
everything public. tests/test_readme.py runs what the README shows."""

from __future__ import annotations

import inspect
import json
import pkgutil
import re
import runpy
import shlex
import tomllib
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

import anechoic
from anechoic import (
    audit,
    certificate,
    cli,
    detectors,
    diffusers,
    embedders,
    errors,
    guidance,
    index,
    protection,
    verdict,
)

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
RENAMES = DOCS / "project/renames.md"
CHANGES = DOCS / "project/changelog.md"  # made from CHANGELOG.md when the site is built
TUTORIALS = sorted(DOCS.glob("tutorials/*.ipynb"))  # tests/test_tutorials.py runs them
PAGES = [
    *ROOT.glob("*.md"), *(page for page in DOCS.rglob("*.md") if page != CHANGES), *TUTORIALS
]  # fmt: skip
NAMED = [page for page in PAGES if page != RENAMES and page.name != "CHANGELOG.md"]


def text_of(page: Path) -> str:
    """A page's Markdown; that of a notebook has its code in fences, and its commands in others."""
    if page.suffix == ".md":
        return page.read_text()
    parts = []
    for cell in json.loads(page.read_text("utf-8"))["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "code":
            shell = r"^[!%]((?:.*\\\n)*.*\n?)"  # a line, and those that continue it
            commands, python = re.findall(shell, text, re.M), re.sub(shell, "", text, flags=re.M)
            text = f"```sh\n{''.join(commands)}\n```\n```python\n{python}\n```"
        parts.append(text)
    return "\n\n".join(parts)


def blocks(language: str, page: Path = README) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```", text_of(page), re.M | re.S)
    return [block.replace("\\\n", " ") for block in found]


def commands() -> list[list[str]]:
    lines = "".join(block for page in PAGES for block in blocks("sh", page)).splitlines()
    found = [shlex.split(line, comments=True) for line in lines]
    return [words[1:] for words in found if words[:1] == ["anechoic"]]


@pytest.fixture(scope="module")
def application() -> Any:
    """All commands, built once: building takes longer than reading a line."""
    return cli.application()


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_a_command_of_the_docs_is_understood(application: Any, words: list[str]) -> None:
    command, rest = application, list(words)
    while rest and rest[0] in getattr(command, "commands", {}):
        command = command.commands[rest.pop(0)]
    command.make_context(" ".join(words), rest)  # an unknown option or a missing one raises


IMPORTS = [
    statement
    for page in PAGES
    for block in blocks("python", page)
    for statement in re.findall(r"^(?:from|import) anechoic.*", block, re.M)
]


@pytest.mark.parametrize("statement", sorted(set(IMPORTS)))
def test_an_import_of_the_docs_works(statement: str) -> None:
    exec(statement, {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_python_of_a_page_is_python(page: Path) -> None:
    for block in blocks("python", page):
        compile(inspect.cleandoc(block), str(page), "exec")


# ------------------------------------------------------------------------ everything has its place


def pages_of(nav: Any) -> Iterator[str]:
    """The pages of a navigation, in order."""
    if isinstance(nav, str):
        yield nav
    else:
        for inner in nav.values() if isinstance(nav, dict) else nav:
            yield from pages_of(inner)


def test_the_site_has_every_page_of_the_docs_once_and_no_other() -> None:
    nav = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]
    named = [DOCS / name for name in pages_of(nav)]
    beside = {*named, *ROOT.glob("*.md"), *TUTORIALS}
    missing = {str(page.relative_to(ROOT)) for page in {*PAGES} - beside}
    assert not missing, (
        "docs/project/contributing.md says where a page goes; `nav` is in zensical.toml"
    )
    assert len(named) == len(set(named))
    assert [page for page in named if page != CHANGES and not page.is_file()] == []


def test_the_reference_has_every_command_and_option() -> None:
    script = runpy.run_path(str(ROOT / "scripts/reference.py"))
    added = [point.name for point in entry_points(group=cli.GROUP)]
    assert {"demo", "bench", "basin"} <= set(added)
    assert {f"anechoic {name}" for name in (*cli.COMMANDS, *added)} <= set(script["commands"]())
    written = (DOCS / "reference/cli.md").read_text()
    assert written == script["page"](), "run: python scripts/reference.py"


def test_every_command_and_option_says_what_it_does() -> None:
    for path, command in runpy.run_path(str(ROOT / "scripts/reference.py"))["commands"]().items():
        assert command.help, path
        for option in command.params:
            assert option.help, f"{path} {option.opts[0]}"


@pytest.mark.parametrize(
    ("group", "page"), [("anechoic.guidance", "methods"), ("anechoic.embedders", "embedders")]
)
def test_the_reference_has_every_plug_in(group: str, page: str) -> None:
    text = (DOCS / f"reference/{page}.md").read_text()
    assert [
        point.name for point in entry_points(group=group) if f"`{point.name}`" not in text
    ] == []


def documented() -> list[object]:
    """What the pages of the Python reference show."""
    texts = (page.read_text() for page in (DOCS / "reference/python").glob("*.md"))
    names = [name for text in texts for name in re.findall(r"^::: (\S+)$", text, re.M)]
    found = [pkgutil.resolve_name(name) for name in names]
    inside = [vars(one).values() for one in found if inspect.ismodule(one)]
    return [*found, *(member for members in inside for member in members)]


PUBLIC = (
    anechoic, audit, certificate, detectors, diffusers, embedders, guidance, index, protection,
)  # fmt: skip


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_the_reference_has_every_public_name(module: Any) -> None:
    shown = {id(found) for found in documented()}
    public = [name for name in module.__all__ if not isinstance(getattr(module, name), str)]
    assert [name for name in public if id(getattr(module, name)) not in shown] == []


def test_the_reference_has_every_variable_of_the_environment() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    names = set(re.findall(r"\bANECHOIC_[A-Z]+(?:_[A-Z]+)*\b", sources))
    assert "ANECHOIC_MAX_SAMPLES" in names
    text = (DOCS / "reference/settings.md").read_text()
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []


def test_the_reference_has_every_exit_code() -> None:
    rows = re.findall(r"^\| (\d+) \|", (DOCS / "reference/exit-codes.md").read_text(), re.M)
    assert {*verdict.EXIT_CODES.values(), cli.UNUSABLE, cli.FAULT} <= {int(row) for row in rows}


# ------------------------------------------------------------------------------ links and names


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    text = re.sub(r"^```.*?^```", "", text_of(page), flags=re.M | re.S)
    headings = [
        re.sub(r"[^\w\- ]", "", line.lower()) for line in re.findall(r"^#+ (.*)", text, re.M)
    ]
    return {heading.replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", text_of(page)):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


FOLDERS = "src|lab|tests|templates|benchmarks|docs|examples"


def resolve(dotted: str) -> bool:
    """Whether a dotted name is a module, an object in one, or a group of entry points."""
    if entry_points(group=dotted):
        return True
    try:
        return bool(pkgutil.resolve_name(dotted))
    except (ImportError, AttributeError):
        return False


@pytest.mark.parametrize("page", NAMED, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_exists(page: Path) -> None:
    text = text_of(page)
    for path in re.findall(rf"(?<![\w/.-])((?:{FOLDERS})/[\w./-]*\w)", text):
        assert (ROOT / path).exists(), path
    for dotted in set(re.findall(r"`(anechoic(?:_lab)?(?:\.\w+)+)", text)):
        assert resolve(dotted), dotted


def test_a_new_name_in_the_table_of_renames_exists() -> None:
    rows = re.findall(r"^\| `anechoic[\w.]*` \| `(anechoic[\w.]*)`", RENAMES.read_text(), re.M)
    assert len(rows) > 50
    assert [name for name in rows if not resolve(name)] == []


@pytest.mark.parametrize("name", anechoic.__all__)
def test_a_public_name_resolves_and_has_a_docstring(name: str) -> None:
    text = inspect.getdoc(getattr(anechoic, name)) or ""
    assert text
    assert not text.startswith(f"{name}("), "a dataclass without one is given its signature"


@pytest.mark.parametrize("point", entry_points(group="anechoic.guidance"), ids=lambda p: p.name)
def test_a_guidance_names_its_source(point) -> None:
    assert "Source: " in (point.load().__doc__ or "")


ERRORS = [e for e in vars(errors).values() if inspect.isclass(e) and issubclass(e, Exception)]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_an_error_is_explained_and_somewhere_announced(error: type[Exception]) -> None:
    assert error.__dict__.get("__doc__")
    sources = [path.read_text() for path in (ROOT / "src").rglob("*.py")]
    announced = re.compile(rf"Raises:\n(?:(?! *\"\"\").*\n)*? +{error.__name__}: ")
    assert any(announced.search(source) for source in sources)
