"""`anechoic studio`: the page, on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from anechoic.cli.options import Device, require_index
from anechoic.cli.output import say
from anechoic.models import find, model_place


def register(app: typer.Typer) -> None:
    """Add `anechoic studio`."""
    app.command()(studio)


def studio(
    model: Annotated[
        str, typer.Option(help="Folder or hub id of a diffusers pipeline, or demo.")
    ] = "demo",
    index: Annotated[
        str | None,
        typer.Option(help="Folder of the index of its training set. By default the model's own."),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="0: the first that is free from 7860 on.")
    ] = 7860,
    guarded_only: Annotated[
        bool,
        typer.Option(
            "--guarded-only", help="Make nothing unguarded, not even to compare or to audit."
        ),
    ] = False,
    device: Device = None,
) -> None:
    """Open a page to generate under the guard, hear, check files and audit.

    It is there for this machine alone, at the address that is printed; what it makes is gone when
    it ends, unless it was downloaded.

    Example: `anechoic studio`, then open http://127.0.0.1:7860
    """
    require_index(index)
    model_place(find(model).pipeline)
    say("loading the model ...")
    with TemporaryDirectory(prefix="anechoic-studio-") as folder:
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": f"{folder}/page"}
        from anechoic_studio.page import serve
        from anechoic_studio.studio import Studio

        serve(Studio.open(model, Path(folder), index, device, guarded_only), port)
