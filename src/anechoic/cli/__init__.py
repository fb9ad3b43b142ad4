"""The command line: thin, one file a command.

A package adds a command through the entry point group "anechoic.commands": its name, and a
function that adds it to the typer application it is given, as `anechoic-lab` does.

Exit codes: 0 done, and where something was judged, nothing is a copy; 1 something is a copy;
2 the input cannot be used, with one sentence on stderr; 3 nothing is known to be a copy, but
something was not judged; 130 interrupted. Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Annotated

import typer

from anechoic import __version__
from anechoic.errors import AnechoicError

LABORATORY = ("demo", "doctor", "bench", "basin")  # the commands of anechoic-lab
COMMANDS = ("generate", "index", "check", "calibrate", "screen", "audit")
GROUP = "anechoic.commands"


def _version(wanted: bool) -> None:
    if wanted:
        print(f"anechoic {__version__}")
        raise typer.Exit


def anechoic(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Keep text-to-audio generations from replicating training data, and prove it."""


def application(commands: Sequence[str] | None = None) -> typer.Typer:
    """The command line, or only some of its commands: building all takes a tenth of a second."""
    app = typer.Typer(
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        rich_markup_mode="markdown",
    )
    app.callback()(anechoic)
    if commands is None:
        added = {point.name: point for point in entry_points(group=GROUP)}
        commands = (*COMMANDS, *(name for name in added if name not in COMMANDS))
    else:
        added = {}
    for name in commands:
        if name in COMMANDS:
            importlib.import_module(f"{__name__}.{name}").register(app)
        else:
            added[name].load()(app)
    return app


def main(arguments: list[str] | None = None) -> None:
    """Run the command line on `arguments`, by default those of the process.

    Raises:
        SystemExit: always, with the exit code.
    """
    given = sys.argv[1:] if arguments is None else arguments
    asked = given[:1] if given and given[0] in COMMANDS else None
    if given and given[0] in LABORATORY and given[0] not in entry_points(group=GROUP).names:
        _fail(
            f"'anechoic {given[0]}' is part of the laboratory, which is not installed; install it "
            "with pip install 'anechoic[lab]'"
        )
    try:
        application(asked)(args=given)
    except AnechoicError as error:
        _fail(str(error))
    except OSError as error:  # a full disk, a folder that may not be written
        _fail(f"'{error.filename}': {error.strerror}" if error.filename else str(error))


def _fail(sentence: str) -> None:
    print("error:", " ".join(sentence.split("\n")), file=sys.stderr)
    raise SystemExit(2)
