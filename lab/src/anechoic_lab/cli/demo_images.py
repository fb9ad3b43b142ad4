"""`anechoic demo images`: the guards on a small Stable Diffusion that memorizes photographs."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anechoic.cli.options import Json
from anechoic.cli.output import print_json, print_table, progress_bar, progress_of
from anechoic.errors import BadSetting
from anechoic_lab.cli.options import (
    BenchWork,
    FigureOutput,
    Jobs,
    Methods,
    NewFolder,
    OverwriteFile,
    SeedCount,
    Seeds,
    TrainingSeed,
)

if TYPE_CHECKING:
    from anechoic_lab.bench import Plan

commands = typer.Typer(
    no_args_is_help=True, help="The guards on a small Stable Diffusion that memorizes photographs."
)
Data = Annotated[
    Path | None,
    typer.Option(help="A folder made by `anechoic demo images train`; by default the shipped one."),
]
Split = Annotated[str, typer.Option(help="Prompts: report, or tune, on which settings are chosen.")]


def register(app: typer.Typer) -> None:
    """Add `anechoic demo images`."""
    app.add_typer(commands, name="images")


@commands.command()
def train(
    output: NewFolder,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Train for fewer steps, to try it out.")
    ] = None,
    seed: TrainingSeed = 0,
) -> None:
    """Train the small Stable Diffusion from scratch, in some seven minutes on one core.

    Needs `pip install "anechoic-lab[train]"`, for the photographs that come with scikit-image.

    Example: `anechoic demo images train -o my-images`
    """
    from anechoic_lab.images.folder import build
    from anechoic_lab.images.train import ImageRecipe

    recipe = ImageRecipe(seed=seed)
    if steps is not None:
        recipe = recipe.shortened_to(steps)
    with progress_bar() as bar:
        task = bar.add_task("cutting the photographs", total=None)

        def report(what: str, step: int, steps: int, loss: float) -> None:
            bar.update(task, description=what, completed=step, total=steps)

        build(output, recipe, report)
    print(f"written: {output}")


@commands.command()
def evaluate(
    data: Data = None,
    seeds: Seeds = 4,
    as_json: Json = False,
) -> None:
    """Measure the unguarded model: does it copy, and does it follow its prompts?

    Exit code 1 if one of its targets is missed.

    Example: `anechoic demo images evaluate`
    """
    from anechoic_lab.images.evaluate import evaluate as measure
    from anechoic_lab.images.task import open_images

    with progress_of("seeds", seeds) as progress:
        model = open_images(data)
        lines = measure(model, range(seeds), progress)
    if as_json:
        about = {"seeds": seeds, "scale": model.scale, **model.known}
        print_json({**about, "lines": [asdict(line) for line in lines]})
    else:
        print_table(
            ("measured", "value", "95 % interval", "prompts x seeds", "target", "holds"),
            [
                (
                    line.what,
                    f"{line.share.value:.3f}",
                    f"[{line.share.low:.3f}, {line.share.high:.3f}]",
                    f"{line.share.n} x {seeds}",
                    line.target,
                    "yes" if line.holds else "NO",
                )
                for line in lines
            ],
        )
    raise typer.Exit(int(not all(line.holds for line in lines)))


@commands.command()
def table(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Table: .md, .csv, .parquet or .json.")
    ],
    split: Split = "report",
    data: Data = None,
    seeds: SeedCount = None,
    methods: Methods = None,
    work: BenchWork = Path("bench-work"),
    jobs: Jobs = 1,
    overwrite: OverwriteFile = False,
) -> None:
    """Compare the methods: similarity, copies, adherence, quality, time, with intervals.

    Example: `anechoic demo images table -o images.md`
    """
    from anechoic_lab.bench import Source, run, write
    from anechoic_lab.bench.table import tabulate
    from anechoic_lab.images.task import OPENS

    write.require_writable([output], write.FORMATS, overwrite)
    only = None if methods is None else [name.strip() for name in methods.split(",")]
    asked = _plan(split).only(methods=only, seeds=seeds)
    source = Source.of(OPENS, folder=None if data is None else str(data))
    with progress_of("cells") as progress:
        results = run(asked, source, work, jobs=jobs, progress=progress)
    write.write(
        output, tabulate(results, shlex.join(["anechoic", *sys.argv[1:]])), overwrite=overwrite
    )
    print(f"written: {output}")


@commands.command()
def sheet(
    output: Annotated[Path, typer.Option("-o", "--output", help="A .png file.")],
    split: Split = "report",
    data: Data = None,
    seed: Annotated[int, typer.Option(help="Seed of every image.")] = 0,
    overwrite: OverwriteFile = False,
) -> None:
    """Draw training images above the images that each method generates from their captions.

    Example: `anechoic demo images sheet -o images.png`
    """
    from anechoic_lab.bench import write
    from anechoic_lab.images.sheet import contact_sheet
    from anechoic_lab.images.task import open_images

    write.require_writable([output], (".png",), overwrite)
    plan = _plan(split)
    with progress_of("methods", len(plan.methods)) as progress:
        contact_sheet(output, open_images(data), plan, seed=seed, progress=progress)
    print(f"written: {output}")


@commands.command()
def basin(
    output: FigureOutput,
    split: Split = "report",
    data: Data = None,
    prompts: Annotated[int, typer.Option(min=2, help="Number of prompts in each group.")] = 6,
    seeds: Seeds = 2,
    points: Annotated[int, typer.Option(min=2, help="Number of sampled starts of guidance.")] = 14,
    overwrite: OverwriteFile = False,
    as_json: Json = False,
) -> None:
    """Show the attraction basin on Stable Diffusion's own schedule, and which claims hold.

    Example: `anechoic demo images basin -o basin.png`
    """
    from anechoic_lab.basin.claims import claims, sentence
    from anechoic_lab.basin.page import as_json as to_json
    from anechoic_lab.basin.page import table as tabulated
    from anechoic_lab.basin.plot import plot
    from anechoic_lab.basin.sweep import sweep
    from anechoic_lab.bench.plot import require_plot
    from anechoic_lab.images.basin import open_scene
    from anechoic_lab.images.task import open_images

    require_plot(output, overwrite)
    with progress_of("images") as progress:
        scene = open_scene(open_images(data), split, prompts)
        found = sweep(
            scene.generate,
            scene.prompts,
            range(seeds),
            scale=scene.scale,
            befores=(0.0, -1.0),
            points=points,
            batch=scene.batch,
            progress=progress,
        )
    plot(output, found, scene.judges, overwrite=overwrite)
    if as_json:
        print_json({"figure": str(output), **to_json(found, scene)})
        return
    first = scene.judges[0]
    print_table(*tabulated(found, first))
    for before in found.befores:
        print(sentence(found, first, before))
    for claim in claims(found, first):
        print(f"{claim.text} {claim.verdict}", *claim.evidence, sep="\n  ")
    print(f"written: {output}")


def _plan(split: str) -> Plan:
    from anechoic_lab.bench import Plan
    from anechoic_lab.images.task import PLANS, SPLITS

    if split not in SPLITS:
        raise BadSetting(f"expected the split {' or '.join(SPLITS)}, got '{split}'")
    return Plan.load(PLANS / f"{split}.toml")
