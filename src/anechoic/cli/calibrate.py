"""`anechoic calibrate`: what is a score of this index worth?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anechoic.cli.options import EmbedderName, Json, Work, require_index, require_there
from anechoic.cli.output import print_json, print_table, say
from anechoic.cli.training import open_training, progress_of_audit
from anechoic.errors import IndexMismatch
from anechoic.models import index_folder

if TYPE_CHECKING:
    from anechoic.audit import TrainingSet
    from anechoic.detectors import Calibration
    from anechoic.detectors.protocol import Detector


def register(app: typer.Typer) -> None:
    """Add `anechoic calibrate`."""
    app.command()(calibrate)


def calibrate(
    held_out: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="Real sounds that are not in the training set but could have been.",
        ),
    ],
    index: Annotated[str, typer.Option("--index", help="Folder of an index, or demo.")],
    fpr: Annotated[
        float, typer.Option("--fpr", help="Share of such sounds that may be called a copy.")
    ] = 0.01,
    detector: Annotated[
        list[str] | None,
        typer.Option(help="As of audit, by default nearest; repeatable."),
    ] = None,
    longest: Annotated[float, typer.Option(help="Longer files are not used; in seconds.")] = 900.0,
    work: Work = Path("audit-work"),
    embedder_name: EmbedderName = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the calibration that is there.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Calibrate an index on real sound that is not in it, and store the calibration with it.

    From then on `check`, `generate` and `audit` call a copy what scores above the threshold of that
    rate, and say of each score how often such sound scores as high. Give sounds of the kind that
    the training set holds, as long as those that will be judged: 99 or more for a rate of 0.01.

    Example: `anechoic calibrate others --index clips.index`
    """
    require_there(held_out, what="folder")
    require_index(index)
    from anechoic.audit import HeldOut
    from anechoic.audit import calibrate as run
    from anechoic.audit.training import fit_anew
    from anechoic.detectors import calibration, stored

    folder = index_folder(index)
    calibration.require_free(folder, overwrite)
    training, embed = open_training(index, embedder_name)
    searching: dict[str, Detector] = {}
    new: dict[str, Detector] = {}
    for name in dict.fromkeys(detector or ["nearest"]):
        if (found := _kept(name, training)) is None:
            found = new[name] = fit_anew(name, training, embed)
        searching[name] = found
    with progress_of_audit("calibrating") as progress:
        result = run(
            HeldOut(held_out, fpr),
            training,
            embed,
            detectors=list(searching.values()),
            longest_s=longest,
            work=work,
            progress=progress,
        )
    made = list(result.calibrations.values())
    path = calibration.write(folder, made, overwrite=overwrite)
    for name, detects in new.items():
        stored.write(folder, name, detects, training.index.content)
    unused = [{"name": one.sample.name, "reason": one.reason} for one in result.unused]
    if as_json:
        rows = [{**one.to_dict(), "null": len(one.null)} for one in made]
        print_json({"calibrations": rows, "unused": unused, "notes": list(result.notes)})
        return
    _print(made)
    for one in unused:
        say(f"not used: {one['name']}: {one['reason']}")
    for note in result.notes:
        say(note)
    say(f"calibration: {path}")


def _kept(name: str, training: TrainingSet) -> Detector | None:
    """A detector that an earlier calibration kept; None, and a line on stderr, if it is useless."""
    from anechoic.audit.training import kept

    try:
        return kept(name, training)
    except IndexMismatch:
        say(
            f"detector '{name}' is fitted anew, because the one that the index keeps is damaged or "
            "of another recipe",
            error=True,
        )
        return None


def _print(made: Sequence[Calibration]) -> None:
    rows = []
    for one in made:
        low, high = one.threshold_interval
        above = f"{high:.3f}" if math.isfinite(high) else "not bounded"
        least, most = one.false_positive_interval
        rows.append(
            (
                one.detector,
                f"{len(one.null)}",
                f"{one.threshold:.3f}",
                f"{low:.3f} to {above}",
                f"{100 * least:.2g} % to {100 * most:.2g} %",
            )
        )
    columns = ("detector", "sounds", "threshold", "its 95 % interval", "its true rate")
    print_table(columns, rows, ("detector",))
