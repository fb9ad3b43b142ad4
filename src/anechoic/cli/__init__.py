"""The command line: thin, one file a command.

Exit codes: 0 done; 1 a check that found copies; 2 input that cannot be used, with one sentence
on stderr; 130 interrupted. Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from anechoic import __version__
from anechoic.errors import AnechoicError

COMMANDS = (
    "demo", "doctor", "generate", "index", "check", "calibrate", "screen", "audit", "bench", "basin"
)  # fmt: skip


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


def application(commands: Sequence[str] = COMMANDS) -> typer.Typer:
    """The command line, or some of its commands: to build them all takes a tenth of a second."""
    app = typer.Typer(
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        rich_markup_mode="markdown",
    )
    app.callback()(anechoic)
    for name in commands:
        importlib.import_module(f"{__name__}.{name}").register(app)
    return app


def main(arguments: list[str] | None = None) -> None:
    """Run the command line on `arguments`, by default those of the process.

    Raises:
        SystemExit: always, with the exit code.
    """
    given = sys.argv[1:] if arguments is None else arguments
    asked = given[:1] if given and given[0] in COMMANDS else COMMANDS
    try:
        application(asked)(args=given)
    except AnechoicError as error:
        _fail(str(error))
    except OSError as error:  # a full disk, a folder that may not be written
        _fail(f"'{error.filename}': {error.strerror}" if error.filename else str(error))


def _fail(sentence: str) -> None:
    print("error:", " ".join(sentence.split("\n")), file=sys.stderr)
    raise SystemExit(2)
