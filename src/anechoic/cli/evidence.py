"""`anechoic evidence`: one file that holds the evidence of an audit."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from anechoic.cli.options import (
    OverwriteFiles,
    SigningChain,
    SigningKeyFile,
    require_there,
    signing_key,
)
from anechoic.cli.output import say
from anechoic.errors import BadSetting


def register(app: typer.Typer) -> None:
    """Add `anechoic evidence`."""
    app.command()(evidence)


def evidence(
    audit: Annotated[
        Path, typer.Argument(metavar="AUDIT", help="Report of an audit: its folder or its page.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The ZIP to write.")],
    cases: Annotated[
        list[int] | None,
        typer.Option(
            "--case",
            metavar="N",
            help="A case, by its number in the report; repeatable. By default all replications.",
        ),
    ] = None,
    examiner: Annotated[str, typer.Option(help="Who packs it, as the PDF shows.")] = "",
    ordinary: Annotated[
        Path | None,
        typer.Option(
            help="Those prompts of the audit that an ordinary user could write, one a line, or - "
            "for stdin: the copies in 1,000 of them are given.",
        ),
    ] = None,
    share: Annotated[
        float | None,
        typer.Option(
            help="Share of the training set that the index holds, as 0.8, if you know it."
        ),
    ] = None,
    paper: Annotated[str, typer.Option(help="a4 or letter.")] = "a4",
    fonts: Annotated[
        list[Path] | None,
        typer.Option(
            "--font",
            metavar="FILE",
            help="A font, TTF or OTF, for scripts that DejaVu does not have; repeatable.",
        ),
    ] = None,
    work: Annotated[
        Path, typer.Option(help="Work folder of the audit: the examined files are enclosed.")
    ] = Path("audit-work"),
    at: Annotated[
        str | None,
        typer.Option(help="When it is made, as 2026-11-29T12:00:00Z. By default now."),
    ] = None,
    signing_chain: SigningChain = None,
    signing_key_file: SigningKeyFile = None,
    overwrite: OverwriteFiles = False,
) -> None:
    """Pack the evidence of an audit into one file: a PDF, the report, sound, pictures and hashes.

    Needs 'anechoic[pdf]'. `anechoic verify` finds out whether the file is still as it was written.

    Exit codes: 0 written, whole; 2 the input cannot be used; 3 written, but something is missing
    from it, as an examined file that was not found; 70 a fault of anechoic, with a report to send
    in.

    Example: `anechoic evidence report --case 1 --examiner "A. Expert" -o case.zip`
    """
    require_there(audit, what="report")
    require_there(*fonts or (), None if str(ordinary) == "-" else ordinary)
    created = _moment(at)
    key = signing_key(signing_chain, signing_key_file)
    from anechoic.audit.prompts import read_prompts
    from anechoic.audit.stored import open_report
    from anechoic.evidence import Statement, write_evidence
    from anechoic.evidence.file import sha256_of

    named = () if ordinary is None else tuple(read_prompts(ordinary))
    missing = write_evidence(
        open_report(audit),
        output,
        Statement(created, examiner, share, named),
        cases or (),
        work=work,
        paper=paper,
        fonts=fonts or (),
        signing=key,
        overwrite=overwrite,
    )
    say(*(f"missing: {sentence}" for sentence in missing))
    say(f"evidence: {output}", f"sha256: {sha256_of(output.read_bytes())}")
    raise typer.Exit(3 if missing else 0)


def _moment(text: str | None) -> datetime:
    try:
        found = datetime.now(UTC) if text is None else datetime.fromisoformat(text)
    except ValueError as error:
        raise BadSetting(
            f"expected '--at' as 2026-11-29T12:00:00Z, got '{text}' ({error}); write it so"
        ) from error
    if found.tzinfo is None or found.year < 1980:
        raise BadSetting(f"expected '--at' with a zone, from 1980 on, got '{text}'; end it with Z")
    return found.astimezone(UTC).replace(microsecond=0)
