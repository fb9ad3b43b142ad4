"""`anechoic check`: is this audio a copy of a training clip?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anechoic.cli.options import (
    EmbedderName,
    Indexes,
    Json,
    OverwriteFiles,
    SigningChain,
    SigningKeyFile,
    require_index,
    require_there,
    signing_key,
)
from anechoic.cli.output import print_json, print_table, say
from anechoic.cli.training import open_judges
from anechoic.errors import BadSetting, OutputExists

if TYPE_CHECKING:
    from torch import Tensor

    from anechoic.audit.judge import DetectorVerifier
    from anechoic.certificate import SigningKey
    from anechoic.verdict import Verdict, Verifier


def register(app: typer.Typer) -> None:
    """Add `anechoic check`."""
    app.command()(check)


def check(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILES...", help="Sound files, of any usual format.")
    ],
    indexes: Indexes,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Similarity from which on a sound is a copy. By default the calibration of the "
            "index decides, or the index's own threshold."
        ),
    ] = None,
    detector: Annotated[
        list[str] | None,
        typer.Option(
            help="As of audit, by default nearest; repeatable: a file is a copy if one of them "
            "says so. Calibrate the index with the same ones.",
        ),
    ] = None,
    embedder_name: EmbedderName = None,
    certify: Annotated[
        bool,
        typer.Option(
            "--certify",
            help="Write a certificate beside each file that is no copy, for 'anechoic verify'.",
        ),
    ] = False,
    share: Annotated[
        float | None,
        typer.Option(
            help="Of the training set that the index covers, 0 to 1, for the certificate."
        ),
    ] = None,
    signing_chain: SigningChain = None,
    signing_key_file: SigningKeyFile = None,
    overwrite: OverwriteFiles = False,
    as_json: Json = False,
) -> None:
    """Tell whether any stretch of a sound file is a copy of a training clip.

    Each file is cut into windows as long as the index's, a quarter of a window apart, and the start
    of the best is refined. "at" is the start of the match in the file, "in clip" its start in the
    training clip. Where the index is calibrated (`anechoic calibrate`), p is at most how often real
    sound that is not a copy scores as high.

    With several indexes a file is a copy if it is one of a clip of any of them. With several
    detectors it is one if any of them says so, and each has its part of the false-positive rate, so
    that together they call no more of the held-out sound a copy. `transposed` finds other pitches,
    tempos and reversals, `landmarks` filters and other sound on top, `notes` a melody on another
    instrument (`pip install 'anechoic[notes]'`).

    Exit codes: 0 no file is a copy; 1 a file is a copy; 2 a file cannot be used; 3 nothing is
    known to be a copy, but something could not be judged, as without a calibration; 70 a fault of
    anechoic, with a report to send in. Only a file that was judged and is no copy gets a
    certificate.

    Example: `anechoic check take1.wav take2.wav --index clips.index --threshold 0.9`
    """
    require_there(*files)
    require_index(*indexes)
    if not certify and (share, signing_chain, signing_key_file) != (None, None, None):
        raise BadSetting("'--share' and what signs are for a certificate: give '--certify', too")
    if certify:
        _require_free(files, overwrite)
    signing = signing_key(signing_chain, signing_key_file)
    named = [
        (index, one)
        for index in indexes
        for one in open_judges(index, embedder_name, threshold, detector or ())
    ]
    verifiers = [one for _, one in named]
    sounds = [_read(file) for file in files]  # all of them, before any is searched for
    judged = [[verifier(*sound) for verifier in verifiers] for sound in sounds]
    certificates: list[Path | None] = [None] * len(files)
    if certify:
        certificates = [
            _certify(file, wav, verdicts, verifiers, share, signing, overwrite)
            for file, (wav, _), verdicts in zip(files, sounds, judged, strict=True)
        ]
    if as_json:
        each = [
            {
                "index": index,
                "embedder": verifier.index.embedder_name,
                "detector": _detector(verifier),
                **rule_to_dict(verifier),
                "files": [
                    {
                        "file": str(file),
                        **to_dict(verifier, verdicts[number]),
                        "certificate": None if certificate is None else str(certificate),
                    }
                    for file, verdicts, certificate in zip(files, judged, certificates, strict=True)
                ],
            }
            for number, (index, verifier) in enumerate(named)
        ]
        print_json(
            each[0] if len(each) == 1 else {"indexes": each, "files": _together(files, judged)}
        )
    else:
        for number, verifier in enumerate(verifiers):
            found = [verdicts[number] for verdicts in judged]
            if len(verifiers) > 1:
                say(f"index '{verifier.index.name}', {_detector(verifier)}:")
            print_verdicts(verifier, ("file",), [(str(file),) for file in files], found)
        if len(verifiers) > 1:
            whole = [
                (one["file"], one["verdict"], "" if (p := one["p_value"]) is None else f"{p:.3g}")
                for one in _together(files, judged)
            ]
            say("all together:")
            print_table(("file", "verdict", "p-value"), whole)
        if certify:
            written = zip(files, certificates, strict=True)
            say(*(f"{file}: {path or 'gets no certificate'}" for file, path in written))
    raise typer.Exit(exit_code([verdict for verdicts in judged for verdict in verdicts]))


def _together(files: Sequence[Path], judged: Sequence[Sequence[Verdict]]) -> list[dict[str, Any]]:
    """What all indexes and detectors say of each file; no p-value if one of them has none."""
    from anechoic.detectors.calibration import family_p_value
    from anechoic.verdict import together

    found = []
    for file, verdicts in zip(files, judged, strict=True):
        p_values = [one.p_value for one in verdicts if one.p_value is not None]
        whole = family_p_value(p_values) if len(p_values) == len(verdicts) else None
        found.append({"file": str(file), "verdict": together(verdicts), "p_value": whole})
    return found


def _detector(verifier: Verifier | DetectorVerifier) -> str:
    """The name of what judges."""
    from anechoic.verdict import Verifier

    if isinstance(verifier, Verifier):
        from anechoic.detectors import NearestStretch

        return NearestStretch(verifier.index, verifier.embedder).name
    return verifier.detector.name


def _require_free(files: Sequence[Path], overwrite: bool) -> None:
    """Refuse, before anything is judged, certificates that are there. Raises `OutputExists`."""
    from anechoic.certificate import sidecar

    for path in map(sidecar, files):
        if path.exists() and not overwrite:
            raise OutputExists(f"'{path}' exists already; replace it with '--overwrite'")


def _certify(
    file: Path,
    wav: Tensor,
    verdicts: Sequence[Verdict],
    verifiers: Sequence[Verifier | DetectorVerifier],
    share: float | None,
    signing: SigningKey | None,
    overwrite: bool,
) -> Path | None:
    """Write the certificate of a file; None: it gets none."""
    from anechoic.certificate import Provenance, certify, samples_sha256
    from anechoic.verdict import together

    if together(verdicts) != "no copy":
        return None
    about, judged = Provenance(share=share), samples_sha256(wav)
    return certify(
        file, verdicts, list({id(one.index): one.index for one in verifiers}.values()), about,
        judged=judged, signing=signing, overwrite=overwrite,
    )  # fmt: skip


def _read(file: Path) -> tuple[Tensor, int]:
    """The sound of a file [c, t] and its sample rate in Hz.

    Raises:
        BadAudio: it is not usable sound.
    """
    from anechoic import audio

    wav, sample_rate = audio.read(file)
    sound = audio.mono(wav[None], sample_rate)
    audio.require_sound(sound, f"'{file}' without its constant offset")
    return wav, sample_rate


# --------------------------------------------------------------- verdicts, for `generate`, too


def exit_code(verdicts: Sequence[Verdict]) -> int:
    """1 if anything is a copy; else 3 if anything was not judged; else 0."""
    from anechoic.verdict import EXIT_CODES, together

    return EXIT_CODES[together(verdicts)] if verdicts else 0


def rule_to_dict(verifier: Verifier | DetectorVerifier | None) -> dict[str, Any]:
    """What was judged by, as JSON holds it; all None: nothing was."""
    rule = None if verifier is None else verifier.rule
    known = None if verifier is None else verifier.calibration
    return {
        "threshold": None if rule is None else rule.threshold,
        "false_positive_rate": None if rule is None else rule.false_positive_rate,
        "held_out": None if known is None else len(known.null),
    }


def to_dict(verifier: Verifier | DetectorVerifier, verdict: Verdict) -> dict[str, Any]:
    """A verdict as JSON holds it, with the file of the training clip."""
    content = verdict.to_dict()
    if verdict.clip is not None and verdict.match.row is not None:
        file = verifier.file(verdict.match.row)
        content["clip"]["path"] = None if file is None else str(file)
    return content


def print_verdicts(
    verifier: Verifier | DetectorVerifier,
    columns: Sequence[str],
    names: Sequence[Sequence[str]],
    verdicts: Sequence[Verdict],
) -> None:
    """Verdicts as a table, below what was not judged and why; `names` fill the first columns."""
    rule = verifier.rule
    unjudged = [verdict for verdict in verdicts if verdict.status == "not judged"]
    if unjudged:
        say(f"NOT JUDGED: {len(unjudged)} of {len(verdicts)}; {unjudged[0].reason}")
    if rule is None:
        from anechoic.verdict import CALIBRATE

        say(f"{CALIBRATE}, or give '--threshold' to 'anechoic check'")
    calibrated = verifier.calibration is not None
    rows = []
    for name, verdict in zip(names, verdicts, strict=True):
        match, clip = verdict.match, verdict.clip
        words = verdict.status if verdict.status == "no copy" else verdict.status.upper()
        if clip is None:
            rows.append((*name, words, *[""] * (4 + calibrated)))
            continue
        p_value = [] if not calibrated else [f"{verdict.p_value:.3g}"]
        where = ["" if at is None else f"{at:.2f}" for at in (match.start_s, match.match_start_s)]
        near = clip.id if clip.caption in clip.id else f"{clip.caption} ({clip.id})"
        if match.semitones is not None:
            near += f", {match.semitones:+.1f} semitones, tempo {match.tempo:g}"
            near += ", backwards" * match.backwards
        rows.append((*name, words, f"{match.score:.3f}", *p_value, *where, near))
    p_column = ["p"] if calibrated else []
    headers = ("verdict", "score", *p_column, "at s", "in clip s", "nearest")
    print_table((*columns, *headers), rows, ("prompt", "nearest"))
    if rule is not None:
        copies = sum(verdict.status == "copy" for verdict in verdicts)
        say(f"{copies} of {len(verdicts)} over the threshold of {rule.threshold:g}")
        if verifier.calibration is not None:
            count = len(verifier.calibration.null)
            say(f"p: the share of {count} held-out sounds that score as high, counting the file")
