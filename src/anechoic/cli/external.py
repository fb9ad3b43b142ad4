"""`--generator`: sound from a command or an endpoint in place of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anechoic.errors import BadSetting

if TYPE_CHECKING:
    from anechoic.generators import CommandLine, Endpoint

ExternalGenerator = Annotated[
    str | None,
    typer.Option(
        "--generator",
        metavar="COMMAND_OR_URL",
        help="In place of a model, a command such as 'my-tts {prompt} --seed {seed} -o {output}', "
        "with {seed} and {seconds} only if it takes them; or the address of an endpoint.",
    ),
]
Timeout = Annotated[
    float, typer.Option("--timeout", help="Seconds that each sound of '--generator' may take.")
]


def open_external(
    text: str, seconds: float | None, timeout_s: float, model_options: Mapping[str, Any]
) -> CommandLine | Endpoint:
    """The generator of '--generator'.

    Raises:
        BadSetting: it cannot be called, or an option of a model was given as well.
    """
    if given := [name for name, value in model_options.items() if value not in (None, [])]:
        raise BadSetting(
            f"'{given[0]}' is for a model that runs here, and '--generator' runs by itself; leave "
            "one of them out"
        )
    from anechoic.generators import external

    return external(text, seconds=seconds, timeout_s=timeout_s)
