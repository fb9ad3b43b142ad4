"""`anechoic screen`: which prompts are memorized, before anything is generated?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anechoic.cli.options import Device, Dtype, Json, Model, SeveralSteps, require_there
from anechoic.cli.output import print_json, print_table, progress_bar, say
from anechoic.errors import BadSetting
from anechoic.models import SCALE, find, model_place

if TYPE_CHECKING:
    from anechoic.audit.screen import Look, ScreenedPrompt

CHEAP = ("magnitude", "first-step", "angle")  # shown together: one evaluation each


def register(app: typer.Typer) -> None:
    """Add `anechoic screen`."""
    app.command()(screen)


def screen(
    prompts: Annotated[
        str, typer.Argument(metavar="PROMPTS", help="Text file with a prompt a line; - for stdin.")
    ],
    model: Model,
    ordinary: Annotated[
        Path | None,
        typer.Option(
            help="Prompts that are known not to be memorized, one a line: p-values are taken "
            "against them, and without them nothing is judged.",
        ),
    ] = None,
    by: Annotated[
        str,
        typer.Option(
            help="What decides: magnitude (of the guidance vector on pure noise, at a level where "
            "it tells most), first-step (of the model's own schedule), angle, or run (the whole "
            "run, without decoding).",
        ),
    ] = "magnitude",
    fpr: Annotated[
        float, typer.Option("--fpr", help="Share of ordinary prompts that may be called memorized.")
    ] = 0.05,
    seeds: Annotated[int, typer.Option(min=1, help="Noises to look at each prompt under.")] = 4,
    scale: Annotated[
        float | None, typer.Option(help="Guidance scale of a run. By default 7, or the demo's.")
    ] = None,
    steps: SeveralSteps = None,
    device: Device = None,
    dtype: Dtype = "float32",
    as_json: Json = False,
) -> None:
    """Tell which prompts a model has memorized, without generating and without an index.

    The network is shown pure noise with and without each prompt, once a seed, and how far the two
    answers part is compared with ordinary prompts. The riskiest prompts stand first. A p-value is
    the share of ordinary prompts that score as high: of many prompts screened at a rate of
    0.05, one in twenty is called memorized by chance.

    The exit code is 1 if any prompt is over, 0 if none is, 2 if the input cannot be used.

    Example: `anechoic screen prompts.txt --model demo --ordinary ordinary.txt`
    """
    require_there(None if prompts == "-" else Path(prompts), ordinary)
    model_place((own := find(model)).pipeline)
    from anechoic.audit.prompts import read_prompts
    from anechoic.audit.screen import LOOKS, screen
    from anechoic.diffusers.loading import load_pipeline

    if by not in LOOKS:
        raise BadSetting(f"'--by' is one of {', '.join(LOOKS)}, got {by!r}")
    looks = {name: LOOKS[name] for name in (CHEAP if by == CHEAP[0] else (by,))}
    asked = list(dict.fromkeys(read_prompts(prompts)))
    known = list(dict.fromkeys(read_prompts(ordinary))) if ordinary else []
    pipe = load_pipeline(model, device, dtype)
    pipe.set_progress_bar_config(disable=True)
    with progress_bar() as bar:
        task = bar.add_task("looking", total=None)
        rows = screen(
            pipe,
            asked,
            ordinary=known,
            looks=looks,
            seeds=range(seeds),
            false_positive_rate=fpr,
            scale=scale or own.scale or SCALE,
            steps=steps or own.steps,
            report=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if as_json:
        about = {
            "model": model,
            "by": by,
            "looks": {name: look.name for name, look in looks.items()},
            "seeds": seeds,
            "ordinary": len(known),
            "false_positive_rate": fpr if known else None,
            "prompts": [asdict(row) for row in rows],
        }
        print_json(about)
    else:
        _print(rows, looks, fpr, len(known))
    raise typer.Exit(int(any(row.over for row in rows)))


def _print(
    rows: Sequence[ScreenedPrompt], looks: Mapping[str, Look], rate: float, known: int
) -> None:
    verdicts = {True: "MEMORIZED", False: "ordinary", None: "not judged"}
    table = []
    for rank, row in enumerate(rows, 1):
        scores = [_cell(row, name) for name in looks]
        table.append((f"{rank}", verdicts[row.over], *scores, row.prompt))
    print_table(("rank", "verdict", *looks, "prompt"), table)
    if not known:
        say("nothing was judged: to have it judged, give ordinary prompts with '--ordinary'")
        return
    over = sum(bool(row.over) for row in rows)
    say(f"{over} of {len(rows)} over, at a rate of {rate:g} of {known} ordinary prompts")


def _cell(row: ScreenedPrompt, look: str) -> Any:
    score = f"{row.scores[look]:.3f}"
    return f"{score} (p {row.p_values[look]:.3f})" if row.p_values else score
