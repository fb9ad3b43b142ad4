"""`anechoic bench`: methods x scenarios x seeds on any model, as one table and one plot."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anechoic.cli.options import Json, Loras, OverwriteFiles
from anechoic.cli.output import print_json, print_table, progress_bar, say
from anechoic.errors import BadSetting
from anechoic_lab.cli.options import BenchWork, Jobs, Methods, SeedCount

if TYPE_CHECKING:
    from anechoic_lab.bench import Plan, Results, Source
    from anechoic_lab.bench.table import Line, Table

COLUMN = 16  # width of a method in a terminal, in characters


def register(app: typer.Typer) -> None:
    """Add `anechoic bench`."""
    app.command()(bench)


def bench(
    plan: Annotated[
        Path | None, typer.Argument(metavar="PLAN", help="A TOML file; by default a preset.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="A plan that ships with anechoic; by default 'methods'.")
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            help="demo; the folder or hub id of a diffusers pipeline; a checkpoint of "
            "stable-audio-tools; a task that a package "
            "adds, or module:factory."
        ),
    ] = "demo",
    index: Annotated[
        str | None, typer.Option(help="Folder of the index of a pipeline's training set.")
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(help="CSV, JSONL or Parquet: caption, and id, group, scenario, split."),
    ] = None,
    judge: Annotated[
        list[str] | None,
        typer.Option(help="Folder of an index of the same clips by another embedder; repeatable."),
    ] = None,
    adherence: Annotated[
        str | None, typer.Option(help="Embedder of sound and text that measures adherence: clap.")
    ] = None,
    quality: Annotated[
        str | None, typer.Option(help="Embedder for FAD and KAD. By default the index's.")
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="Folder of real sound for FAD and KAD.")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Similarity above which it is a copy. By default the index's."),
    ] = None,
    scale: Annotated[float | None, typer.Option(help="Guidance scale of a pipeline.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Sound length of a pipeline.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps.")] = None,
    device: Annotated[str | None, typer.Option(help="cuda or cpu.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
    loras: Loras = None,
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--option", metavar="NAME=VALUE", help="An option of another task; repeatable."
        ),
    ] = None,
    methods: Methods = None,
    scenarios: Annotated[
        str | None, typer.Option(metavar="A,B", help="Scenarios, in place of the plan's.")
    ] = None,
    seeds: SeedCount = None,
    work: BenchWork = Path("bench-work"),
    jobs: Jobs = 1,
    engine: Annotated[
        str, typer.Option(help="local, or ray: the processes are tasks on a Ray cluster.")
    ] = "local",
    outputs: Annotated[
        list[Path] | None,
        typer.Option("-o", "--output", help="Table: .md, .csv, .parquet or .json; repeatable."),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Plot: .png or .svg.")] = None,
    listening: Annotated[
        Path | None,
        typer.Option(
            help="Page of a blind listening test, .html: generations against training clips."
        ),
    ] = None,
    listening_trials: Annotated[
        int, typer.Option(min=1, help="Questions of the listening test, over all methods.")
    ] = 24,
    overwrite: OverwriteFiles = False,
    listed: Annotated[bool, typer.Option("--list", help="List the presets, and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Compare methods: similarity to the training set, copies, adherence, quality, time.

    Killed at any moment and started again with the same WORK, it continues with the unfinished
    cells. Every figure has a 95 % interval. Methods with several strengths are ranked by the area
    under their frontier of similarity against adherence.

    The exit code is 0 if the table is made, 2 if something cannot be used or a cell fails.

    Example: `anechoic bench --preset amg-ablation --jobs 2 -o ablation.md --plot ablation.png`
    """
    if listed:
        _list()
        return
    from anechoic_lab.bench import write
    from anechoic_lab.bench.table import tabulate

    write.require_writable(outputs or [], write.FORMATS, overwrite)
    if plot is not None:
        from anechoic_lab.bench.plot import LEAVE_OUT, require_plot
        from anechoic_lab.bench.plot import plot as draw

        require_plot(plot, overwrite, LEAVE_OUT)
    if listening is not None:
        write.require_writable([listening], [".html"], overwrite)
    asked = _plan(plan, preset, steps, quality)
    asked = asked.only(_names(methods), _names(scenarios), seeds)
    options_of_task = {
        "index": index, "prompts": prompts, "judges": tuple(judge) if judge else None,
        "adherence": adherence, "quality": asked.quality, "reference": reference,
        "threshold": threshold, "scale": scale, "seconds": seconds, "device": device,
        "dtype": dtype, "loras": tuple(loras) if loras else None, **_pairs(options or []),
    }  # fmt: skip
    source = _source(model, options_of_task)
    if listening is not None:
        _listening(listening, source, asked, listening_trials, f"{asked.name}, {model}")
    results = _run(asked, source, work, jobs, engine)
    table = tabulate(results, shlex.join(["anechoic", *sys.argv[1:]]))
    for output in outputs or []:
        write.write(output, table, overwrite=overwrite)
    if plot is not None:
        draw(plot, table, overwrite=overwrite)
    if as_json:
        print_json(write.as_json(table))
    else:
        _print(table)


def _list() -> None:
    from anechoic_lab.bench import Plan, presets

    rows = []
    for name in presets():
        plan = Plan.load(name)
        rows.append((name, f"{len(plan.methods)}", plan.about))
    print_table(("preset", "methods", "what it compares"), rows)


def _plan(path: Path | None, preset: str | None, steps: int | None, quality: str | None) -> Plan:
    from anechoic_lab.bench import Plan
    from anechoic_lab.bench.plan import DEFAULT

    if path is not None and preset is not None:
        raise BadSetting(f"both a plan '{path}' and the preset '{preset}' were given; give one")
    if path is not None and path.suffix != ".toml":
        raise BadSetting(f"plan '{path}' is not a .toml file; for a preset, use '--preset {path}'")
    plan = Plan.load(path or preset or DEFAULT)
    return replace(plan, steps=steps or plan.steps, quality=quality or plan.quality)


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _pairs(texts: Sequence[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    for text, (name, separator, _) in zip(texts, pairs, strict=True):
        if not (name and separator):
            raise BadSetting(f"expected an option as NAME=VALUE, got {text!r}")
    return {name: value for name, _, value in pairs}


def _source(model: str, options: Mapping[str, Any]) -> Source:
    from anechoic_lab.bench.task import PIPELINE, Source, is_task

    if is_task(model):
        return Source.of(model, **options)
    if options["index"] is None or options["prompts"] is None:
        raise BadSetting(
            f"the pipeline '{model}' needs the index of its training set and prompts; give "
            "'--index' and '--prompts'"
        )
    return Source.of(PIPELINE, model=model, **options)


def _listening(path: Path, source: Source, plan: Plan, count: int, title: str) -> None:
    from anechoic_lab.bench import open_task
    from anechoic_lab.bench.listening import trials, write_page

    found = trials(open_task(source), plan, count)
    write_page(path, found, title)
    say(f"{path}: {len(found)} questions for listeners")


def _run(plan: Plan, source: Source, work: Path, jobs: int, engine: str) -> Results:
    from anechoic_lab.bench import run

    with progress_bar() as bar:
        task = bar.add_task("loading", total=None)

        def progress(done: int, total: int) -> None:
            bar.update(task, description="cells", completed=done, total=total)

        try:
            return run(
                plan, source, work, jobs=jobs, engine=engine,
                progress=progress, note=bar.console.print,
            )  # fmt: skip
        except KeyboardInterrupt:
            bar.console.print(f"stopped; finished cells are saved in '{work}', to continue from")
            raise


def _print(table: Table) -> None:
    """Print the table on end: a block for each scenario, and as many methods as there is room."""
    from rich.console import Console

    from anechoic_lab.bench import write

    room = max(Console().width // COLUMN - 1, 1)
    for scenario in dict.fromkeys(line.scenario for line in table.lines):
        say(f"{table.title}: {scenario}")
        lines = [line for line in table.lines if line.scenario == scenario]
        for first in range(0, len(lines), room):
            _print_block(table, lines[first : first + room])
    for text in write.sentences(table):
        say(text)
    for note in table.notes:
        say(f"Note: {note}.")
    for key, value in table.about.items():
        say(f"{key}: {value}")


def _print_block(table: Table, lines: Sequence[Line]) -> None:
    from anechoic_lab.bench.write import format_figure

    rows = [
        (measure.label, *(format_figure(line, measure, "\n") for line in lines))
        for measure in table.measures
    ]
    print_table(("", *(line.label for line in lines)), rows)
