"""The documentation is true: its examples run, and it names everything public."""

from __future__ import annotations

import inspect
import pkgutil
import re
import shlex
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
import typer

import anechoic
from anechoic import audio, cli, errors

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
RENAMES = ROOT / "docs/project/renames.md"
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
NAMED = [page for page in PAGES if page != RENAMES and page.name != "CHANGELOG.md"]
RATE = 16_000


def blocks(language: str, page: Path = README) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S)
    return [block.replace("\\\n", " ") for block in found]


def commands() -> list[list[str]]:
    lines = "".join(block for page in PAGES for block in blocks("sh", page)).splitlines()
    found = [shlex.split(line, comments=True) for line in lines]
    return [words[1:] for words in found if words[:1] == ["anechoic"]]


@pytest.fixture
def clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a reader of the README has: clips/ and captions.csv, in the working directory."""
    monkeypatch.chdir(tmp_path)
    time = torch.arange(3 * RATE) / RATE
    for i in range(3):
        tone = torch.sin(2 * torch.pi * 220 * (i + 1) * time) * torch.exp(-(i + 1) * time)
        audio.write(tmp_path / f"clips/{i}.wav", tone[None], RATE)
    rows = "".join(f"{i}.wav,a tone\n" for i in range(3))
    Path("captions.csv").write_text("file_name,caption\n" + rows)


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_an_example_of_the_readme_runs(clips: None, number: int) -> None:
    block = blocks("python")[number]
    exec(compile(block, f"README.md, python block {number}", "exec"), {})


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_a_command_of_the_docs_is_understood(words: list[str]) -> None:
    command, rest = typer.main.get_command(cli.application()), list(words)
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


def test_the_readme_names_every_command_and_plug_in() -> None:
    added = [point.name for point in entry_points(group=cli.GROUP)]
    text = README.read_text()
    assert {"demo", "bench", "basin"} <= set(added)
    for name in (*cli.COMMANDS, *added):
        assert f"anechoic {name}" in text
    for group in ("anechoic.guidance", "anechoic.embedders"):
        for point in entry_points(group=group):
            assert f"`{point.name}`" in text


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    headings = [
        re.sub(r"[^\w\- ]", "", line.lower()) for line in re.findall(r"^#+ (.*)", text, re.M)
    ]
    return {heading.replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


FOLDERS = "src|lab|tests|benchmarks|docs|examples"


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
    text = page.read_text()
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
