"""`anechoic doctor`: would this model run under a guard here, and how long would it take?"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anechoic.cli.generate import chosen_guard, shown
from anechoic.cli.options import (
    Device,
    Dtype,
    EmbedderName,
    IndexesOrNone,
    Json,
    Loras,
    Model,
    Seconds,
    Steps,
)
from anechoic.cli.output import print_json, print_table, say
from anechoic.models import find, index_folder

if TYPE_CHECKING:
    from anechoic.guidance.base import Guidance
    from anechoic.index import JoinedIndex, TrainingIndex
    from anechoic.types import Embedder
    from anechoic_lab.doctor import Examination


def register(app: typer.Typer) -> None:
    """Add `anechoic doctor`."""
    app.command()(doctor)


def doctor(
    model: Model,
    indexes: IndexesOrNone = None,
    loras: Loras = None,
    embedder_name: EmbedderName = None,
    guard: Annotated[
        str | None,
        typer.Option(
            "--guard", help="As in 'anechoic generate'. By default auto with an index, else static."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A setting of the guard; repeatable."),
    ] = None,
    steps: Steps = None,
    seconds: Seconds = None,
    device: Device = None,
    dtype: Dtype = "float32",
    measure: Annotated[
        bool,
        typer.Option(help="Load the model and time it, if no problem was found."),
    ] = True,
    as_json: Json = False,
) -> None:
    """Check whether a model can be guarded here, with which settings, and how long it takes.

    Small files are checked first, so most problems are found without loading or downloading the
    weights. Each problem is shown with its fix.

    The exit code is 0 if everything is ready, 2 if not.

    Example: `anechoic doctor --model demo --index demo`
    """
    from anechoic_lab.doctor import Wanted, examine

    known = find(model)
    name = guard or ("auto" if indexes else "static")

    def make(store: TrainingIndex | JoinedIndex | None, embed: Embedder | None) -> Guidance:
        return chosen_guard(name, known, settings or [], store, embed)

    wanted = Wanted(
        known.pipeline,
        make,
        tuple(map(index_folder, indexes or ())),
        embedder_name,
        steps or known.steps,
        seconds,
        device,
        dtype,
        (*known.loras, *(loras or ())),
    )
    found = examine(wanted, measure)
    if as_json:
        print_json(_as_json(model, indexes, name, found))
    else:
        _print(found)
    raise typer.Exit(0 if found.ready else 2)


def _print(found: Examination) -> None:
    rows = [
        (finding.name, "ok", finding.told) if finding.ok else (finding.name, "PROBLEM", "see below")
        for finding in found.findings
    ]
    print_table(("what", "", "found"), rows)
    if found.run:
        say("would run: " + ", ".join(f"{name} {value}" for name, value in found.run.items()))
    problems = [finding for finding in found.findings if not finding.ok]
    for finding in problems:
        say(f"{finding.name}: {finding.told}")
    say(f"not ready: {len(problems)} to fix" if problems else "ready")


def _as_json(
    model: str, indexes: list[str] | None, guard: str, found: Examination
) -> dict[str, Any]:
    memory = found.memory
    return {
        "model": model,
        "index": shown(indexes),
        "guard": guard,
        "ready": found.ready,
        "findings": [asdict(finding) for finding in found.findings],
        "run": found.run,
        "memory": memory and {**asdict(memory), "needed": memory.needed},
        "time": {
            state: {**asdict(pace), "sound_s": pace.sound_s} for state, pace in found.pace.items()
        },
    }
