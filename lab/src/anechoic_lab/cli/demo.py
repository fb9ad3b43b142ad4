"""`anechoic demo`: guards on a small model that memorizes, and how that model was made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from anechoic.cli.options import Json
from anechoic.cli.output import print_json, progress_bar
from anechoic_lab.cli import demo_images
from anechoic_lab.cli.options import (
    FewerSteps,
    FigureOutput,
    NewFolder,
    OverwriteFile,
    Seeds,
    TrainingSeed,
)

if TYPE_CHECKING:
    from rich.table import Table

    from anechoic.audit.supplement import Supplement

commands = typer.Typer(invoke_without_command=True)
demo_images.register(commands)
Data = Annotated[
    Path | None,
    typer.Option(help="A folder made by `anechoic demo train`; by default the shipped one."),
]


def register(app: typer.Typer) -> None:
    """Add `anechoic demo`."""
    app.add_typer(commands, name="demo")


@commands.callback()
def demo(
    context: typer.Context,
    output: Annotated[Path, typer.Option("-o", "--output", help="The page: .html.")] = Path(
        "anechoic-demo.html"
    ),
    data: Data = None,
    seeds: Seeds = 2,
    steps: Annotated[int | None, typer.Option(min=3, help="Denoising steps.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing page.")] = False,
    as_json: Json = False,
) -> None:
    """Show the same prompts and seeds unguarded and under each guard.

    Needs no network. Prints a table and writes one self-contained page: an audit of some of the
    generations, with players, spectrograms and curves.

    Example: `anechoic demo -o demo.html`
    """
    if context.invoked_subcommand is not None:
        return
    from anechoic.audit import write_page
    from anechoic.errors import OutputExists
    from anechoic_lab.demo import assets
    from anechoic_lab.demo.show import run, supplement, tell

    if output.exists() and not overwrite:
        raise OutputExists.at(output)
    with _progress("loading the model") as report:
        show = run(
            data or assets.SHIPPED,
            tuple(range(seeds)),
            steps=steps or assets.STEPS,
            report=report,
        )
    found = supplement(show)
    with TemporaryDirectory(prefix="anechoic-demo-") as work:
        write_page(tell(show, Path(work)), output, overwrite=overwrite)
    if as_json:
        guards = {
            row.guard: {key: asdict(figure) for key, figure in row.figures.items()}
            for row in found.guards
        }
        about = {"page": str(output), "seeds": list(show.seeds), "guards": guards}
        print_json(about)
        return
    _print(_table(found))
    print(f"{found.sentence}\nThe page with sound and pictures: {output}")


@commands.command()
def clips(
    output: NewFolder,
    data: Data = None,
) -> None:
    """Write the demo's training clips as sound files with a metadata.csv.

    Example: `anechoic demo clips -o clips`, then `anechoic index build clips -o clips.index`
    """
    from anechoic_lab.demo import assets

    count = assets.write_training_set(output, data or assets.SHIPPED)
    print(f"{output}: {count} clips, with captions and licences in metadata.csv")


@commands.command()
def picture(
    prompt: Annotated[str, typer.Argument(help="The caption of one of the training clips.")],
    output: FigureOutput,
    guard: Annotated[str, typer.Option(help="A guard, at the demo's settings.")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Seed of both generations.")] = 0,
    overwrite: OverwriteFile = False,
) -> None:
    """Draw a training clip beside what its caption generates without a guard and with one.

    Needs `pip install "anechoic-lab[plot]"`.

    Example: `anechoic demo picture "recording of a crow" -o crow.png`
    """
    from anechoic_lab.demo.picture import draw

    with _progress("loading the model") as report:
        panels = draw(
            output, prompt, guard, seed, overwrite=overwrite, progress=partial(report, "generating")
        )
    print(f"{output}: " + "; ".join(f"{panel.title}: {panel.below}" for panel in panels[1:]))


@commands.command()
def train(
    output: NewFolder,
    work: Annotated[
        Path, typer.Option(help="Where the Debian packages with the sounds are unpacked.")
    ] = Path("demo-corpus"),
    steps: FewerSteps = None,
    seed: Annotated[int, typer.Option(help="Seed of the corpus and the training.")] = 0,
    monitor: Annotated[
        Path, typer.Option(help="Folder of the monitor's log; what it sees is printed.")
    ] = Path("demo-monitor"),
) -> None:
    """Rebuild the demo's model, index and judges from scratch, under a monitor.

    Needs `pip install "anechoic-lab[train]"` and Debian's libfluidsynth3.

    Example: `anechoic demo train -o my-demo`, then `anechoic demo --data my-demo`
    """
    from anechoic_lab.demo.build import build
    from anechoic_lab.demo.train import TrainingRecipe

    recipe = TrainingRecipe(seed=seed)
    if steps is not None:
        recipe = recipe.shortened_to(steps)
    with _progress("starting") as report:
        build(output, work, recipe, report, monitor)
    print(f"written: {output}")


@commands.command()
def scenarios(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of all scenarios.")],
    only: Annotated[
        list[str] | None, typer.Option("--only", help="A scenario; repeatable. By default all.")
    ] = None,
    data: Data = None,
    steps: FewerSteps = None,
    seed: TrainingSeed = 0,
) -> None:
    """Fine-tune the demo model into the other scenarios of the bench.

    A few minutes each; scenarios that exist already are skipped.

    Example: `anechoic demo scenarios -o scenarios`, then
    `anechoic bench --option scenarios=scenarios`
    """
    from anechoic_lab.demo import assets
    from anechoic_lab.demo.scenarios import SCENARIOS, train

    with _progress("starting") as report:
        train(output, only or tuple(SCENARIOS), data or assets.SHIPPED, seed, steps, report)
    print(f"trained: {output}")


@commands.command()
def remedies(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of all trainings.")],
    only: Annotated[
        list[str] | None, typer.Option("--only", help="A remedy; repeatable. By default all.")
    ] = None,
    steps: FewerSteps = None,
    figure: Annotated[
        Path | None, typer.Option(help="Draw the copy rate over the steps: .png or .svg.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a small model with repeated clips, plainly and with what helps against copies.

    Stop it when you like and run it again: it goes on where it was. Several processes may train
    several remedies, with `--only`.

    Example: `anechoic demo remedies -o remedies --figure remedies.svg`
    """
    from anechoic.training.trackers import console
    from anechoic_lab.demo import remedies as found

    total = steps or found.STEPS
    track = [] if as_json else [console]
    with _progress("starting") as report:
        found.run(output, only or (), total, track, report)
    if only:
        return
    if figure is not None:
        from anechoic_lab.demo.remedies_plot import draw

        draw(output, figure, total)
    lines, curve = found.outcomes(output, total), found.curve(output, total)
    if as_json:
        rates = [
            {"step": step, "copies": {str(times): asdict(rate) for times, rate in known.items()}}
            for step, known in curve
        ]
        told = {"steps": total, "limit": found.LIMIT, "lines": [asdict(one) for one in lines]}
        print_json({**told, "curve": rates})
        return
    from rich.table import Table

    shape = r"{0.value:.2f} \[{0.low:.2f}, {0.high:.2f}]"
    plain = Table("step of the plain training", *(f"{times} times" for times in curve[0][1]))
    for step, known in curve:
        plain.add_row(f"{step}", *(shape.format(rate) for rate in known.values()))
    _print(plain)
    table = Table("training", "steps", "copies", "adherence", "adherence, ordinary prompts")
    for one in lines:
        rate = one.copies
        spread = (rate.value, rate.low, rate.high)
        cells = (
            f"{value:.2f} " + rf"\[{low:.2f}, {high:.2f}]"
            for value, low, high in (spread, one.adherence, one.ordinary)
        )
        table.add_row(one.name, f"{one.step}", *cells)
    _print(table)


@commands.command()
def evaluate(
    data: Data = None,
    seeds: Seeds = 5,
    ordinary: Annotated[int, typer.Option(min=1, help="Ordinary prompts, drawn.")] = 96,
    as_json: Json = False,
) -> None:
    """Measure what the demo model is worth as an instrument, unguarded.

    Exit code 1 if one of its targets is missed.

    Example: `anechoic demo evaluate --seeds 5`
    """
    from anechoic_lab.demo import assets
    from anechoic_lab.demo.evaluate import evaluate as measure

    with _progress("generating") as report:
        lines, _, calibration = measure(
            data or assets.SHIPPED,
            range(seeds),
            ordinary,
            report=partial(report, "generating"),
        )
    if as_json:
        about = {"seeds": seeds, "scale": assets.CFG_SCALE, "calibration": calibration}
        print_json({**about, "lines": [asdict(line) for line in lines]})
    else:
        from rich.table import Table

        table = Table("measured", "value", "95 % interval", "prompts x seeds", "target", "holds")
        for line in lines:
            spread = rf"\[{line.low:.3f}, {line.high:.3f}]"  # escaped: rich parses bare brackets
            table.add_row(
                line.what,
                f"{line.value:.3f}",
                spread,
                f"{line.prompts} x {seeds}",
                line.target,
                "yes" if line.holds else "NO",
            )
        _print(table)
    raise typer.Exit(int(not all(line.holds for line in lines)))


@contextmanager
def _progress(what: str) -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr; it yields what draws a step: its name, done, of how many."""
    with progress_bar() as bar:
        task = bar.add_task(what, total=None)
        yield lambda what, done, total: bar.update(
            task, description=what, completed=done, total=total
        )


def _print(table: Table) -> None:
    import sys

    from rich.console import Console

    # a pipe has no width: give the table room rather than cut its figures
    Console(width=None if sys.stdout.isatty() else 150).print(table)


def _table(found: Supplement) -> Table:
    from rich.table import Table

    table = Table("guard", *(column.label for column in found.columns))
    for row in found.guards:
        cells = []
        for column in found.columns:
            figure = row.figures[column.key]
            spread = figure.interval(column.format).replace("[", r"\[")
            cells.append(f"{figure.value:{column.format}} {spread}".strip())
        table.add_row(row.label, *cells)
    return table
