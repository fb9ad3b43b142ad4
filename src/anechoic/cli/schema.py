"""`anechoic schema`: what the `--json` of a command holds, as JSON Schema."""

from __future__ import annotations

import json
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Annotated, Any

import typer

from anechoic.cli import GROUP
from anechoic.cli.output import print_json, say
from anechoic.errors import BadSetting, did_you_mean
from anechoic.plugins import entry_points

PACKAGES = ("anechoic.cli",)  # and those whose commands are added, by the group of entry points
DOCUMENTS = {  # schemas of what is written as a file, too
    "audit": ("anechoic.audit", "report.schema.json"),
    "certificate": ("anechoic.certificate", "certificate.schema.json"),
}


def register(app: typer.Typer) -> None:
    """Add `anechoic schema`."""
    app.command()(schema)


def schema(
    command: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="COMMAND", help="A command that has --json, or certificate; by default all."
        ),
    ] = None,
) -> None:
    """Print the JSON Schema of what a command prints with --json, or list these commands.

    Example: `anechoic schema index search`
    """
    known = schemas()
    if not command:
        say(*known)
        return
    name = " ".join(command)
    if name not in known:
        raise BadSetting(
            f"there is no schema of '{name}', only of {', '.join(known)}{did_you_mean(name, known)}"
        )
    print_json(document(name))


def schemas() -> dict[str, Traversable]:
    """The file of each schema, by the words that call its command.

    A package that adds commands has theirs in the folder `schemas` beside them.
    """
    added = (point.module.rpartition(".")[0] for point in entry_points(group=GROUP))
    found = {name: files(package) / file for name, (package, file) in DOCUMENTS.items()}
    for package in dict.fromkeys((*PACKAGES, *added)):
        folder = files(package) / "schemas"
        for file in folder.iterdir() if folder.is_dir() else ():
            found[file.name.removesuffix(".json").replace("-", " ")] = file
    return dict(sorted(found.items()))


def document(name: str) -> dict[str, Any]:
    """The schema of a command; an audit by several indexes prints a report for each."""
    content: dict[str, Any] = json.loads(schemas()[name].read_text("utf-8"))
    if name != "audit":
        return content
    draft, parts, report = content.pop("$schema"), content.pop("$defs"), {"$ref": "#/$defs/report"}
    several = {"type": "array", "items": report, "minItems": 2}
    return {
        "$schema": draft,
        "title": "anechoic audit --json",
        "oneOf": [
            report,
            {
                "type": "object",
                "required": ["indexes"],
                "additionalProperties": False,
                "properties": {"indexes": several},
            },
        ],
        "$defs": {**parts, "report": content},
    }
