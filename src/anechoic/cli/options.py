"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str, typer.Option("--model", help="Folder or hub id of a diffusers pipeline, or demo.")
]
Steps = Annotated[
    int | None, typer.Option(min=1, help="Of the sampler. By default the model's own.")
]
Seconds = Annotated[
    float | None, typer.Option(help="Length of the sound. By default the model's longest.")
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
    int | None, typer.Option(min=2, help="Of the sampler. By default the model's own.")
]
Work = Annotated[Path, typer.Option(help="Folder of what is finished, to go on from after a stop.")]
