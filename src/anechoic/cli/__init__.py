"""The command line: thin, one file a command.

Exit codes: 0 done; 1 a check that found copies; 2 input that cannot be used, with one sentence
on stderr; 130 interrupted. Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from typing import Annotated

import typer

from anechoic import __version__
from anechoic.errors import AnechoicError

COMMANDS = (
    "demo", "doctor", "generate", "index", "check", "calibrate", "screen", "audit", "bench", "basin"
)  # fmt: skip

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="markdown",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"anechoic {__version__}")
        raise typer.Exit


@app.callback()
def anechoic(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Keep text-to-audio generations from replicating training data, and prove it."""


for _name in COMMANDS:
    if find_spec(f"{__name__}.{_name}"):
        importlib.import_module(f"{__name__}.{_name}").register(app)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line on `arguments`, by default those of the process.

    Raises:
        SystemExit: always, with the exit code.
    """
    try:
        app(args=arguments)
    except AnechoicError as error:
        _fail(str(error))
    except OSError as error:  # a full disk, a folder that may not be written
        _fail(f"'{error.filename}': {error.strerror}" if error.filename else str(error))


def _fail(sentence: str) -> None:
    print("error:", " ".join(sentence.split("\n")), file=sys.stderr)
    raise SystemExit(2)
