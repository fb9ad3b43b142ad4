"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anechoic.errors import BadSetting, IndexMismatch, OutputExists
from anechoic.models import index_folder

PARTS = ("", ".new", ".old")  # what the folder's name ends in while it is replaced

if TYPE_CHECKING:
    from anechoic.certificate import SigningKey


def require_there(*paths: Path | None, what: str = "file") -> None:
    """Refuse paths that do not exist, before anything heavy is imported.

    Raises:
        BadSetting: naming the first.
    """
    for path in paths:
        if path is not None and not path.exists():
            raise BadSetting(f"there is no {what} '{path}'; check the path")


def require_index(*names: str | None) -> None:
    """Refuse indexes that do not exist, before anything heavy is imported.

    Raises:
        IndexMismatch: one does not exist, nor what a stopped replacement of it left.
    """
    for name in names:
        folder = "" if name is None else index_folder(name)
        if name is None or "://" in folder or any(Path(folder + end).exists() for end in PARTS):
            continue
        raise IndexMismatch(
            f"index '{name}' does not exist (no manifest.json); build one with 'anechoic index "
            "build'"
        )


def require_source(clips: str) -> None:
    """Refuse a source of clips that does not exist, before anything heavy is imported.

    Raises:
        BadSetting: it is neither there, nor a pattern, nor a URL, nor on the hub.
    """
    if not clips.startswith("hf:") and not any(mark in clips for mark in ("://", *"*?[{")):
        require_there(Path(clips), what="folder or file")


def require_page(output: Path, overwrite: bool) -> None:
    """Refuse a page to write, before anything heavy is imported.

    Raises:
        BadSetting: its name does not end in .html.
        OutputExists: it exists, and `overwrite` is off.
    """
    if output.suffix != ".html":
        raise BadSetting(f"expected a page that ends in .html after '-o', got '{output}'")
    if output.exists() and not overwrite:
        raise OutputExists.at(output)


_MODEL = typer.Option(
    "--model",
    help="Folder or hub id of a diffusers pipeline, a checkpoint of stable-audio-tools, or demo.",
)
Model = Annotated[str, _MODEL]
ModelOrNone = Annotated[str | None, _MODEL]
_INDEXES = typer.Option(
    "--index",
    help="Folder of an index of the training set, or demo; repeatable, as for that of a LoRA's "
    "clips.",
)
Indexes = Annotated[list[str], _INDEXES]
IndexesOrNone = Annotated[list[str] | None, _INDEXES]
Loras = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        metavar="FILE[:WEIGHT]",
        help="A LoRA of peft, diffusers or stable-audio-tools to apply, by default at weight 1; "
        "repeatable.",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Steps of the sampler. By default the model's own."),
]
Seconds = Annotated[
    float | None, typer.Option(help="Length of the sound. By default the model's own.")
]
Device = Annotated[str | None, typer.Option(help="By default cuda if there is a GPU, or cpu.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16.")]
EmbedderName = Annotated[
    str | None,
    typer.Option("--embedder", help="By default the one that built the index; another is refused."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
OverwriteFiles = Annotated[bool, typer.Option("--overwrite", help="Replace files.")]
SeveralSteps = Annotated[
    int | None,
    typer.Option(min=2, metavar="N", help="Steps of the sampler. By default the model's own."),
]
Work = Annotated[Path, typer.Option(help="Folder of what is finished, to go on from after a stop.")]

SigningChain = Annotated[
    Path | None,
    typer.Option(
        "--signing-chain",
        help="Certificates, PEM, the signer's own first: with '--signing-key' the certificate also "
        "goes into the file as a signed C2PA manifest (WAV, FLAC, MP3).",
    ),
]
SigningKeyFile = Annotated[
    Path | None, typer.Option("--signing-key", help="The signer's private key, PEM: P-256 or RSA.")
]


def signing_key(chain: Path | None, key: Path | None) -> SigningKey | None:
    """Who signs; None: nobody was named.

    Raises:
        BadSetting: only one of the two was given, or they cannot sign.
    """
    if (chain is None) != (key is None):
        raise BadSetting("to sign, '--signing-chain' and '--signing-key' are both needed")
    if chain is None or key is None:
        return None
    from anechoic.certificate import SigningKey

    return SigningKey.load(chain, key)
