"""`anechoic check`: is this audio a copy of a training clip?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anechoic.cli.index import EmbedderName, Json, describe, open_index, print_table
from anechoic.cli.training import calibration_of, copy_rule
from anechoic.errors import BadSetting
from anechoic.lazy import uncollected

if TYPE_CHECKING:
    from torch import Tensor

COPY = "copy"  # the threshold of an index above which a score is called a copy


def register(app: typer.Typer) -> None:
    """Add `anechoic check`."""
    app.command()(check)


def check(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILES...", help="Sound files: WAV, FLAC, OGG, MP3.")
    ],
    index: Annotated[str, typer.Option("--index", help="Folder of an index, or demo.")],
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Score from which on it is a copy. By default that of the index's calibration, or "
            "the index's own."
        ),
    ] = None,
    embedder_name: EmbedderName = None,
    as_json: Json = False,
) -> None:
    """Tell whether any stretch of a sound file is a copy of a training clip.

    Each file is cut into windows as long as the index's, a quarter of a window apart, and the start
    of the best is refined; "at" is where in the file, "in clip" where in the training clip the
    compared row starts. Where the index is calibrated (`anechoic calibrate`), p is how often real
    sound that is no copy scores as high.

    The exit code is 1 if any file is a copy, 0 if none is, 2 if a file cannot be used.

    Example: `anechoic check take1.wav take2.wav --index clips.index --threshold 0.9`
    """
    with uncollected():
        from anechoic.detectors import locate

    store, embed = open_index(index, embedder_name)
    if threshold is not None and not -1 <= threshold <= 1:
        raise BadSetting(f"threshold {threshold:g} is no cosine similarity; give one in -1 to 1")
    known = calibration_of(index, store, embed, needed=threshold is None)
    rule = copy_rule(store, known, threshold)
    if rule is None:
        raise BadSetting(
            f"index '{store.name}' has no calibrated threshold for copies; calibrate it with "
            "'anechoic calibrate FOLDER', a folder of sound that is known not to be in the "
            "training set, or give one with '--threshold'"
        )
    sounds = [_heard(file) for file in files]
    matches = [locate(wav, sample_rate, store, embed)[0] for wav, sample_rate in sounds]
    copies = [rule.replicates(match) for match in matches]
    p_values = [None if known is None else known.p_value(match.score) for match in matches]
    results = list(zip(files, matches, copies, p_values, strict=True))
    if as_json:
        told = {
            "index": index,
            "embedder": store.embedder_name,
            "threshold": rule.threshold,
            "false_positive_rate": rule.false_positive_rate,
            "held_out": None if known is None else len(known.null),
            "files": [
                {"file": str(file), "copy": copy, "p_value": p, **describe(store, match)}
                for file, match, copy, p in results
            ],
        }
        print(json.dumps(told, indent=2))
    else:
        rows = []
        for file, match, copy, p in results:
            clip = match.clip_in(store.clips)
            where = (f"{match.start_s:.2f}", f"{clip.start_s:.2f}")
            scores = (f"{match.score:.3f}", *([] if p is None else [f"{p:.3g}"]))
            verdict = "COPY" if copy else "no copy"
            rows.append((str(file), verdict, *scores, clip.caption, clip.id, *where))
        columns = ("score", "nearest") if known is None else ("score", "p", "nearest")
        print_table(("file", "verdict", *columns, "clip", "at s", "in clip s"), rows)
        print(f"{sum(copies)} of {len(files)} over the threshold of {rule.threshold:g}")
        if known is not None:
            of = f"of {len(known.null)} held-out sounds"
            print(f"p: the share {of} that score as high, counting the file among them")
    raise typer.Exit(int(any(copies)))


def _heard(file: Path) -> tuple[Tensor, int]:
    """The sound of a file as detectors hear it, one channel [1, t], and its sample rate in Hz.

    Raises:
        BadAudio: it is no usable sound.
    """
    from anechoic import audio
    from anechoic.detectors.sound import is_silent, mono
    from anechoic.errors import BadAudio

    wav, sample_rate = audio.read(file)
    heard = mono(wav[None], sample_rate)
    if is_silent(heard):
        raise BadAudio(f"'{file}' is a constant offset, which is silence; leave it out")
    return heard, sample_rate
