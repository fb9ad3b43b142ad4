"""Options that several commands of the laboratory share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Seeds = Annotated[int, typer.Option(min=1, help="Seeds for each prompt.")]
NewFolder = Annotated[Path, typer.Option("-o", "--output", help="A new folder.")]
OverwriteFile = Annotated[bool, typer.Option("--overwrite", help="Replace a file.")]
Methods = Annotated[str | None, typer.Option(metavar="A,B", help="Only these methods or families.")]
SeedCount = Annotated[
    int | None, typer.Option(min=1, help="Number of seeds, in place of the plan's.")
]
BenchWork = Annotated[
    Path, typer.Option(help="Folder of finished cells, to continue from after a stop.")
]
Jobs = Annotated[int, typer.Option(min=1, help="Processes.")]
TrainingSeed = Annotated[int, typer.Option(help="Seed of the training.")]
FigureOutput = Annotated[Path, typer.Option("-o", "--output", help="The figure: .png or .svg.")]
FewerSteps = Annotated[
    int | None, typer.Option(min=2, help="Train for fewer steps, to try it out.")
]
