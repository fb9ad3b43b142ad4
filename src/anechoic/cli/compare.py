"""`anechoic compare`: which copies went, came and stayed between two audits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anechoic.cli.options import Json, OverwriteFiles, require_there
from anechoic.cli.output import count, print_json, print_table, say

if TYPE_CHECKING:
    from anechoic.audit.comparison import Change, Comparison, Side

MOST = 10  # changes of a kind that are printed


def register(app: typer.Typer) -> None:
    """Add `anechoic compare`."""
    app.command()(compare)


def compare(
    before: Annotated[
        Path, typer.Argument(metavar="BEFORE", help="Report of an audit: its folder or its page.")
    ],
    after: Annotated[
        Path, typer.Argument(metavar="AFTER", help="Another, or the same with another guard.")
    ],
    guard_before: Annotated[
        str | None,
        typer.Option(help="The guard whose sounds are compared, where BEFORE has several."),
    ] = None,
    guard_after: Annotated[str | None, typer.Option(help="The same of AFTER.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Page to write, which ends in .html.")
    ] = None,
    overwrite: OverwriteFiles = False,
    as_json: Json = False,
) -> None:
    """Compare two audits, as before and after a guard, or of two checkpoints.

    The sounds are paired by prompt and seed. Both audits need the same index, detector, limit,
    prompts and seeds.

    Exit codes: 0 no copy came that was not there before; 1 one came; 2 the audits cannot be
    compared; 3 none came, but something was not examined; 70 a fault of anechoic, with a report to
    send in.

    Example: `anechoic compare report report --guard-before none --guard-after auto -o change.html`
    """
    require_there(before, after, what="report")
    from anechoic.audit.comparison import compare as compare_reports
    from anechoic.audit.comparison import write_comparison
    from anechoic.audit.stored import open_report

    found = compare_reports(open_report(before), open_report(after), guard_before, guard_after)
    page = None if output is None else write_comparison(found, output, overwrite=overwrite)
    if as_json:
        print_json(found.to_dict())
    else:
        _print(found, page)
    raise typer.Exit(1 if found.came else 3 if found.left_out else 0)


def _print(found: Comparison, page: Path | None) -> None:
    say(found.sentence, found.certainty)
    rows = [
        ("before", *_side(found.before, found.pairs)),
        ("after", *_side(found.after, found.pairs)),
    ]
    print_table(("", "guard", "copies", "share, 95 % interval", "report"), rows)
    kinds = (("came", found.came), ("stayed", found.stayed), ("went", found.went))
    changes = [_change(kind, one) for kind, those in kinds for one in those[:MOST]]
    if changes:
        columns = ("copy", "before", "after", "seed", "prompt", "training clip")
        print_table(columns, changes, text=("prompt", "training clip"))
    for kind, those in kinds:
        if len(those) > MOST:
            say(f"and {len(those) - MOST} more that {kind}")
    if found.left_out:
        lost = count(len(found.left_out), "sound")
        say(f"not compared, as one of the audits did not examine them: {lost}")
    if page is not None:
        say(f"page: {page}")


def _side(side: Side, of: int) -> tuple[str, str, str, str]:
    share = "-"
    if side.share is not None:
        value, low, high = (f"{100 * part:.0f} %" for part in side.share)
        share = f"{value} [{low}, {high}]"
    return side.label, f"{side.copies} of {of}", share, side.report


def _change(kind: str, one: Change) -> tuple[str, ...]:
    scores = ("-" if score is None else f"{score:.3f}" for score in (one.before, one.after))
    seed = "-" if one.seed is None else str(one.seed)
    return (kind, *scores, seed, one.prompt, one.clip)
