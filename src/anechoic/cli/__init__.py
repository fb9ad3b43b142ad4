"""The command line: thin, one file a command.

A package adds a command through the entry point group "anechoic.commands": its name, and a
function that adds it to the typer application it is given, as `anechoic-lab` does.

Exit codes are in the help of `anechoic`; 1 is never anything else than a copy that was found, or
a certificate that does not fit.
Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from anechoic import __version__
from anechoic.cli.output import QUIET, quietly, say
from anechoic.errors import AnechoicError
from anechoic.lazy import uncollected
from anechoic.plugins import entry_points

# the commands of other distributions, each with the extra that installs it
EXTRAS = {"demo": "lab", "doctor": "lab", "bench": "lab", "basin": "lab", "serve": "serve",
          "studio": "studio"}  # fmt: skip
COMMANDS = (
    "generate", "index", "check", "verify", "calibrate", "screen", "audit", "compare",
    "evidence", "sweep", "convert", "guards", "embedders", "models", "schema",
)  # fmt: skip
GROUP = "anechoic.commands"
UNUSABLE = 2  # exit code: the input cannot be used
FAULT = 70  # exit code: a fault of ours, EX_SOFTWARE of sysexits.h


def _version(wanted: bool) -> None:
    if wanted:
        print(f"anechoic {__version__}")
        raise typer.Exit


def _quiet(context: typer.Context, wanted: bool) -> None:
    if wanted:
        context.with_resource(quietly())


def anechoic(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet",
            callback=_quiet,
            is_eager=True,
            expose_value=False,
            envvar=QUIET,
            help="Print only the result and errors: no progress, colours or warnings.",
        ),
    ] = False,
) -> None:
    """Keep text-to-audio generations from replicating training data, and prove it.

    Exit codes: 0 done, and what was judged is no copy; 1 a copy was found, or a certificate does
    not fit; 2 the input cannot be used; 3 no copy was found, but something was not judged; 70 a
    fault of anechoic, with a report to send in; 130 interrupted; 141 the reader of the output went
    away.
    """


def application(commands: Sequence[str] | None = None) -> TyperGroup:
    """The command line, or only some of its commands: building all takes a tenth of a second.

    Each command has the option `--quiet` of `anechoic` itself.
    """
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
    built = typer.main.get_command(app)
    assert isinstance(built, TyperGroup)
    _add([one for one in built.params if one.name == "quiet"], built)
    return built


def _add(options: Sequence[Any], group: TyperGroup) -> None:
    """Give each command of a group the options, and those of the groups inside it."""
    for command in group.commands.values():
        command.params.extend(options)
        if isinstance(command, TyperGroup):
            _add(options, command)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line on `arguments`, by default those of the process.

    Raises:
        SystemExit: always, with the exit code.
    """
    # what is left at the end goes with the process; to look for garbage in it takes a third as long
    # as torch took to load
    atexit.register(gc.freeze)
    given = sys.argv[1:] if arguments is None else arguments
    asked = given[:1] if given and given[0] in COMMANDS else None
    if given and given[0] in EXTRAS and given[0] not in entry_points(group=GROUP).names:
        _fail(
            f"'anechoic {given[0]}' is not installed; install it with "
            f"pip install 'anechoic[{EXTRAS[given[0]]}]'"
        )
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # names that the terminal's encoding cannot show
            stream.reconfigure(errors="backslashreplace")
    # the hub's client repeats what it tells of a failure five times; a sentence ends it
    logging.getLogger("huggingface_hub.utils._http").setLevel(logging.ERROR)
    try:
        _run(asked, given)
    except AnechoicError as error:
        _fail(str(error))
    except BrokenPipeError:  # whoever read the output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise SystemExit(141) from None
    except OSError as error:  # a full disk, a folder that may not be written
        _fail(f"'{error.filename}': {error.strerror}" if error.filename else str(error))
    except Exception as error:
        _fail(_report(error), FAULT)


def _run(commands: Sequence[str] | None, arguments: Sequence[str]) -> None:
    try:
        with uncollected():
            app = application(commands)
        app(args=arguments)
    except SystemExit as end:
        sys.stdout.flush()
        if isinstance(end.__context__, BrokenPipeError):  # typer makes a 1 of it
            raise end.__context__ from None
        raise


def _report(error: Exception) -> str:
    """Write what is needed to find a fault into a file: a sentence that names it."""
    import tempfile
    import traceback

    from anechoic.environment import machine

    what = f"anechoic failed inside ({type(error).__name__}: {error}), and judged nothing"
    facts = {"command": shlex.join(sys.argv), **machine("1")}
    lines = (f"{name}: {value}" for name, value in facts.items())
    text = "\n".join([*lines, *traceback.format_exception(error)])
    handle, name = tempfile.mkstemp(".txt", "anechoic-fault-")
    with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
    return f"{what}; please report it with '{name}', after a look at the names in that file"


def _fail(sentence: str, code: int = UNUSABLE) -> NoReturn:
    say(f"error: {sentence}", error=True)
    raise SystemExit(code)
