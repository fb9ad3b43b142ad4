"""`anechoic convert`: a checkpoint of stable-audio-tools to diffusers' folder, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anechoic.cli.options import require_there
from anechoic.cli.output import say
from anechoic.errors import BadSetting, OutputExists


def register(app: typer.Typer) -> None:
    """Add `anechoic convert`."""
    app.command()(convert)


def convert(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            help="Checkpoint of stable-audio-tools: model.safetensors, model.ckpt, one of a "
            "training, or the folder of one; or the folder of a diffusers pipeline.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Folder to write; on the way back, a .safetensors file."
        ),
    ],
    config: Annotated[
        Path | None,
        typer.Option("--config", help="Its model_config.json. By default the one beside it."),
    ] = None,
    text_encoder: Annotated[
        str | None,
        typer.Option(
            "--text-encoder",
            help="Folder or hub id of its T5 encoder, which a checkpoint does not hold. By "
            "default the one that model_config.json names, from the hub's cache.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output.")] = False,
) -> None:
    """Convert a model of Stable Audio Open's kind between stable-audio-tools and diffusers.

    It works without a network and without stable-audio-tools, and there and back every weight is
    the same, bit for bit. Of a training checkpoint, the averaged weights are taken. A model that
    diffusers' classes cannot express is refused. To generate, audit or examine a checkpoint, give
    it to `--model` itself.

    Exit codes: 0 written; 2 the input cannot be used; 70 a fault of anechoic, with a report to
    send in.

    Example: `anechoic convert mine/model.ckpt -o mine-diffusers`
    """
    require_there(source, what="checkpoint or folder")
    require_there(config)
    back = (source / "model_index.json").is_file()
    if back != (output.suffix == ".safetensors"):
        wanted = "a .safetensors file" if back else "a folder"
        kind = "the folder of a diffusers pipeline" if back else "a checkpoint"
        raise BadSetting(f"'{source}' is {kind}, which becomes {wanted}, got '{output}'; name one")
    if output.exists() and not (overwrite and _replaceable(output)):
        raise OutputExists.at(output)
    from anechoic.diffusers.original import to_file, to_folder
    from anechoic.diffusers.original.checkpoint import find_checkpoint

    if back:
        to_file(source, output, config, overwrite=overwrite)
    elif found := find_checkpoint(source, config):
        to_folder(found, output, text_encoder)
    else:
        raise BadSetting(
            f"'{source}' is no checkpoint of stable-audio-tools (.safetensors or .ckpt, with its "
            "model_config.json), nor the folder of a diffusers pipeline; name one"
        )
    say(f"wrote '{output}'")


def _replaceable(output: Path) -> bool:
    """Whether no files of another kind would be lost."""
    if output.is_file() or (output / "model_index.json").is_file():
        return True
    raise BadSetting(
        f"'{output}' is not the folder of a diffusers pipeline, so it is not replaced; name "
        "another output"
    )
