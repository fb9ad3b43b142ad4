"""`anechoic basin`: where the attraction basin of memorized prompts ends, in a figure."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anechoic.cli.options import Json, OverwriteFiles
from anechoic.cli.output import print_json, print_table, progress_bar, say
from anechoic.errors import BadSetting
from anechoic_lab.cli.options import FigureOutput, Seeds

if TYPE_CHECKING:
    from anechoic_lab.basin.sweep import Sweep, SweepTask

DEMO = "demo"
SCALE = 7.0  # default guidance scale of a pipeline


def register(app: typer.Typer) -> None:
    """Add `anechoic basin`."""
    app.command()(basin)


def basin(
    model: Annotated[
        str, typer.Option(help="demo, or the folder or hub id of a diffusers pipeline.")
    ] = DEMO,
    index: Annotated[
        str | None,
        typer.Option(help="Folder of the index of a pipeline's training set, or demo."),
    ] = None,
    memorized: Annotated[
        list[str] | None,
        typer.Option(metavar="PROMPT", help="A prompt that returns a training clip; repeatable."),
    ] = None,
    ordinary: Annotated[
        list[str] | None,
        typer.Option(metavar="PROMPT", help="A prompt to compare with; repeatable."),
    ] = None,
    prompts: Annotated[
        int, typer.Option(min=1, help="On the demo: prompts of each kind if none are named.")
    ] = 2,
    scale: Annotated[
        float | None, typer.Option(help="Guidance scale. By default 2 on the demo, else 7.")
    ] = None,
    opposite: Annotated[float, typer.Option(help="Scale of opposite guidance, below 0.")] = -1.0,
    seeds: Seeds = 2,
    steps: Annotated[int, typer.Option(min=3, help="Denoising steps.")] = 50,
    points: Annotated[
        int, typer.Option(min=2, help="Steps sampled, from the first to the last.")
    ] = 12,
    seconds: Annotated[
        float | None, typer.Option(help="Sound length of a pipeline. By default its own.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Clips at once. By default 8 on the demo, else 1.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Device of a pipeline: cuda or cpu.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Dtype of a pipeline: float32, bfloat16 or float16.")
    ] = None,
    output: FigureOutput = Path("anechoic-basin.png"),
    page: Annotated[
        Path | None, typer.Option(help="Also write a Markdown page with tables and verdicts: .md.")
    ] = None,
    overwrite: OverwriteFiles = False,
    as_json: Json = False,
) -> None:
    """Show the attraction basin: similarity against the step at which guidance starts.

    Guidance is zero or reversed until some step, and that step moves along the run. A sample that
    is attracted to a training clip stays near it until that step reaches the end of the basin. The
    figure also shows the difference of the estimates with and without the prompt along the run.

    Without arguments it runs on the demo, in about two minutes on one core.

    Example: `anechoic basin -o basin.svg`
    """
    from anechoic.environment import machine
    from anechoic.processes import threads_each
    from anechoic.storage import write_whole
    from anechoic_lab.basin.page import as_json as to_json
    from anechoic_lab.basin.page import markdown
    from anechoic_lab.basin.plot import plot
    from anechoic_lab.basin.sweep import sweep
    from anechoic_lab.bench.plot import require_plot
    from anechoic_lab.bench.write import require_writable

    require_plot(output, overwrite)
    if page is not None:
        require_writable([page], [".md"], overwrite)
    if not opposite < 0:
        raise BadSetting(f"expected a scale below 0 for opposite guidance, got {opposite:g}")
    with progress_bar() as bar:
        task = bar.add_task("loading", total=None)
        scene = _scene(
            model, index, memorized or [], ordinary or [], prompts, scale, steps, seconds, batch,
            device, dtype,
        )  # fmt: skip
        found = sweep(
            scene.generate,
            scene.prompts,
            range(seeds),
            scale=scene.scale,
            befores=(0.0, opposite),
            points=points,
            batch=scene.batch,
            progress=lambda done, total: bar.update(
                task, description="clips", completed=done, total=total
            ),
        )
    plot(output, found, scene.judges, overwrite=overwrite)
    if page is not None:
        figure = Path(os.path.relpath(output, page.parent)).as_posix()
        command = shlex.join(["anechoic", *sys.argv[1:]])
        measured_on = machine(f"1 x {threads_each(1)} threads")
        write_whole(page, markdown(found, scene, figure, command, measured_on).encode())
    if as_json:
        files = {"figure": str(output), "page": None if page is None else str(page)}
        print_json(files | to_json(found, scene))
    else:
        _print(found, scene, [output, *([page] if page else [])])


def _scene(
    model: str,
    index: str | None,
    memorized: Sequence[str],
    ordinary: Sequence[str],
    each: int,
    scale: float | None,
    steps: int,
    seconds: float | None,
    batch: int | None,
    device: str | None,
    dtype: str | None,
) -> SweepTask:
    if model == DEMO and index in (None, DEMO):
        if (seconds, device, dtype) != (None, None, None):
            raise BadSetting(
                "the demo makes 1.024 s in float32 on the CPU; leave out '--seconds', '--device' "
                "and '--dtype'"
            )
        from anechoic_lab.demo import assets
        from anechoic_lab.demo.basin import open_demo

        return open_demo(
            memorized,
            ordinary,
            each=each,
            scale=assets.CFG_SCALE if scale is None else scale,
            steps=steps,
            batch=batch or 8,
        )
    if index is None or not memorized or not ordinary:
        raise BadSetting(
            f"the pipeline '{model}' needs the index of its training set and your prompts; give "
            "'--index', '--memorized' and '--ordinary'"
        )
    from anechoic_lab.basin.sweep import ORDINARY, open_scene
    from anechoic_lab.bench.task import MEMORIZED, BenchPrompt

    asked = [(MEMORIZED, memorized), (ORDINARY, ordinary)]
    return open_scene(
        _folder(model, "model"),
        _folder(index, "index"),
        [BenchPrompt(text, text, group) for group, texts in asked for text in texts],
        scale=SCALE if scale is None else scale,
        steps=steps,
        seconds=seconds,
        batch=batch or 1,
        device=device,
        dtype=dtype or "float32",
    )


def _folder(name: str, part: str) -> str:
    """The name, or the path of that part of the demo."""
    if name != DEMO:
        return name
    from anechoic_lab.demo import assets

    return str(assets.SHIPPED / part)


def _print(sweep: Sweep, scene: SweepTask, files: Sequence[Path]) -> None:
    from anechoic_lab.basin.claims import sentence
    from anechoic_lab.basin.page import table

    first = scene.judges[0]
    say(f"similarity by {first.name}: {first.about}")
    print_table(*table(sweep, first))
    for before in sweep.befores:
        say(sentence(sweep, first, before))
    say("written: " + ", ".join(map(str, files)))
