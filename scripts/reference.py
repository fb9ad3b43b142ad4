"""Writes the pages of the docs that are made of something else.

docs/reference/cli.md has each command, argument and option of the command line. It is in the
repository; a test fails if it is out of date. docs/project/changelog.md is CHANGELOG.md with links
that hold on the site, and is not in the repository.

    python scripts/reference.py
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anechoic import cli

ROOT = Path(__file__).parents[1]
COMMANDS, CHANGES = ROOT / "docs/reference/cli.md", ROOT / "docs/project/changelog.md"
ROW = "| {} | {} | {} |"
HEAD = """# Command line

`python scripts/reference.py` writes this page from the commands themselves.

`--help` after any command shows the same text, and [exit codes](exit-codes.md) says what each
command returns. `demo`, `doctor`, `bench` and `basin` come with the laboratory,
`pip install "anechoic[lab]"`, `serve` with `pip install "anechoic[serve]"`, and `studio` with
`pip install "anechoic[studio]"`.

For completion by the Tab key run `anechoic --install-completion` once, and open a new shell. It
knows bash, zsh, fish and PowerShell; `anechoic --show-completion` prints the script instead.

Every command takes `--quiet`, before its name or after it: it then prints only the result and
errors, without progress, colours or warnings of libraries. The variable `NO_COLOR` takes away the
colours alone.
"""


def walk(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """A command and those inside it, each with the words that call it."""
    yield path, command
    for name, inner in sorted(getattr(command, "commands", {}).items()):
        yield from walk(inner, f"{path} {name}")


def commands() -> dict[str, Any]:
    """All commands by the words that call them, such as "anechoic index build"."""
    return dict(walk(cli.application(), "anechoic"))


def cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").strip()


def anchor(path: str) -> str:
    return path.replace(" ", "-")


def name_of(parameter: Any, context: Any) -> str:
    """An option with its value, or an argument, as a user writes it."""
    if not parameter.opts[0].startswith("-"):
        return f"`{parameter.metavar or parameter.name.upper()}`"
    names = sorted([*parameter.opts, *parameter.secondary_opts], key=len, reverse=True)
    kind = re.match(r"(?:list\[)?([^ \]]*)", parameter.display_type(context).strip("<>"))[1]
    kind = parameter.metavar or {"str": "TEXT", "int": "N"}.get(kind, kind.upper())
    value = "" if parameter.is_flag else f" {kind}".replace("|", "\\|")
    return ", ".join(f"`{name}{value}`" if name == names[0] else f"`{name}`" for name in names)


def default_of(parameter: Any) -> str:
    if parameter.required:
        return "required"
    value = parameter.default
    if value in (None, False, [], ()) or callable(value):
        return ""
    return f"`{'yes' if value is True else getattr(value, 'value', value)}`"


def section(path: str, command: Any) -> Iterator[str]:
    """The Markdown of one command."""
    yield f"{'#' * min(1 + len(path.split()), 4)} {path}" if " " in path else "## Every command"
    help_text = inspect.cleandoc(command.help or "")
    yield re.sub(r"\n(?=Exit codes?\b)", "\n", help_text)
    if inner := getattr(command, "commands", {}):
        yield "\n".join(f"- [`{path} {name}`](#{anchor(path)}-{name})" for name in sorted(inner))
    context = type(command).context_class(command, info_name=path)
    rows = [
        ROW.format(name_of(one, context), default_of(one), cell(one.help or ""))
        for one in command.params
        if not one.hidden and one.name not in (("help", "quiet") if " " in path else ("help",))
    ]
    if rows:
        yield "\n".join([ROW.format("argument or option", "default", "what it does"),
                         "|---|---|---|", *rows])  # fmt: skip


def page() -> str:
    """The whole page."""
    parts = [part for path, command in commands().items() for part in section(path, command)]
    return "\n\n".join([HEAD.strip(), *parts]) + "\n"


def changelog() -> str:
    """The changelog, with links to pages of the docs from where it stands on the site."""
    return (ROOT / "CHANGELOG.md").read_text("utf-8").replace("](docs/", "](../")


if __name__ == "__main__":
    COMMANDS.write_text(page(), "utf-8")
    CHANGES.write_text(changelog(), "utf-8")
