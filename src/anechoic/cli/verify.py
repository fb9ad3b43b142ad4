"""`anechoic verify`: does the certificate of a sound file still fit?"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anechoic.cli.options import IndexesOrNone, Json, require_there
from anechoic.cli.output import count, print_json, say
from anechoic.errors import BadSetting
from anechoic.models import index_folder

if TYPE_CHECKING:
    from anechoic.certificate import Certificate, Verification

DIFFERS = 1  # exit code


def register(app: typer.Typer) -> None:
    """Add `anechoic verify`."""
    app.command()(verify)


def verify(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Sound file, or evidence of `anechoic evidence`."),
    ],
    certificate: Annotated[
        Path | None,
        typer.Option(
            help="Its certificate. By default the signed one in FILE, or FILE.anechoic.json."
        ),
    ] = None,
    indexes: IndexesOrNone = None,
    recheck: Annotated[
        bool,
        typer.Option("--recheck", help="With '--index': judge FILE again, and compare the scores."),
    ] = False,
    trust: Annotated[
        Path | None,
        typer.Option(
            help="Certificates, PEM, of the authorities whose signers are trusted; without such a "
            "signature FILE is then not verified."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Tell whether the certificate of a sound file fits it, its signature and the index; or whether
    a file of evidence is as it was written.

    A certificate beside a file (FILE.anechoic.json) is not signed: anyone could have written it. A
    signed one is inside the file, in WAV, FLAC and MP3, and needs 'anechoic[c2pa]' to be read.

    Exit codes: 0 verified, as far as it was compared; 1 something differs: the sound, the file, the
    certificate, its signature, the index, a limit or a score; 2 the input cannot be used, as where
    there is no certificate; 70 a fault of anechoic, with a report to send in.

    Example: `anechoic verify out.wav --index clips.index --recheck`
    """
    require_there(file)
    folders = [index_folder(index) for index in indexes or ()]
    if is_zip(file):
        if certificate is not None or recheck:
            raise BadSetting(
                "'--certificate' and '--recheck' are for sound files, and this is a file of "
                "evidence; leave them out"
            )
        from anechoic.evidence import verify_evidence

        found = verify_evidence(file, folders, trust=trust)
    else:
        from anechoic.certificate import verify as verify_file

        found = verify_file(file, certificate, folders, recheck=recheck, trust=trust)
    if as_json:
        print_json(found.to_dict())
    else:
        _print(found)
    raise typer.Exit(0 if found.verified else DIFFERS)


def is_zip(file: Path) -> bool:
    """Whether a file is a ZIP, by its name or its content, so that no damaged one is taken for
    sound."""
    return file.suffix.lower() == ".zip" or zipfile.is_zipfile(file)


def _print(found: Verification) -> None:
    words = {True: "holds", False: "DIFFERS", None: "note"}
    if found.certificate is not None:
        _describe(found.certificate)
    for one in found.findings:
        say(f"{words[one.holds]}: {one.sentence}")
    differs = sum(one.holds is False for one in found.findings)
    if found.verified:
        by = "" if found.certificate is None else "the certificate "
        say(f"{found.file}: verified by {by}{found.source}")
    else:
        say(f"{found.file}: NOT VERIFIED, {count(differs, 'finding')} against it")


def _describe(certificate: Certificate) -> None:
    """What it says, and what it is worth."""
    for one in certificate.detectors:
        p_value = "" if one.p_value is None else f", p {one.p_value:.3g}"
        limit = f"its limit is {one.limit:.4g} ({one.origin})"
        say(f"{certificate.verdict}: '{one.detector}' scores {one.score:.4g}{p_value}; {limit}")
    indexes = (certificate.index, *certificate.further)
    share = certificate.provenance.share
    part = "an unknown share" if share is None else f"{share:.3g}"
    for index in indexes:
        say(f"index '{index.name}': {count(index.clips, 'clip')}, {part} of the training set")
    say(certificate.promise, certificate.not_promised)
