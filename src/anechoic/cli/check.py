"""`anechoic check`: is this audio a copy of a training clip?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anechoic.cli.index import EmbedderName, Json, describe, open_index, print_table
from anechoic.errors import BadSetting

if TYPE_CHECKING:
    from anechoic.index import TrainingIndex

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
        typer.Option(help="Score from which on it is a copy. By default the index's own."),
    ] = None,
    embedder_name: EmbedderName = None,
    as_json: Json = False,
) -> None:
    """Tell whether any stretch of a sound file is a copy of a training clip.

    Each file is cut into windows as long as the index's, a quarter of a window apart, and the start
    of the best is refined; "at" is where in the file, "in clip" where in the training clip the
    compared row starts.

    The exit code is 1 if any file is a copy, 0 if none is, 2 if a file cannot be used.

    Example: `anechoic check take1.wav take2.wav --index clips.index --threshold 0.9`
    """
    from anechoic import audio
    from anechoic.index import locate

    store, embed = open_index(index, embedder_name)
    limit = _threshold(store, threshold)
    sounds = [audio.read(file) for file in files]
    matches = [locate(wav, sample_rate, store, embed)[0] for wav, sample_rate in sounds]
    copies = [match.score >= limit for match in matches]
    results = list(zip(files, matches, copies, strict=True))
    if as_json:
        checked = [{"file": str(f), "copy": c, **describe(store, m)} for f, m, c in results]
        about = {"index": index, "embedder": store.embedder_name, "threshold": limit}
        print(json.dumps({**about, "files": checked}, indent=2))
    else:
        rows = []
        for file, match, copy in results:
            clip = store.clips[match.row]
            where = (f"{match.start_s:.2f}", f"{clip.start_s:.2f}")
            verdict = "COPY" if copy else "no copy"
            rows.append((str(file), verdict, f"{match.score:.3f}", clip.caption, clip.id, *where))
        print_table(("file", "verdict", "score", "nearest", "clip", "at s", "in clip s"), rows)
        print(f"{sum(copies)} of {len(files)} over the threshold of {limit:g}")
    raise typer.Exit(int(any(copies)))


def _threshold(index: TrainingIndex, given: float | None) -> float:
    """The threshold to judge by.

    Raises:
        BadSetting: none was given and the index has none, or it is no cosine.
    """
    limit = index.thresholds.get(COPY) if given is None else given
    if limit is None:
        raise BadSetting(
            f"index '{index.name}' has no calibrated threshold for copies; give one with "
            "'--threshold', from scores of audio that is known not to be in the training set"
        )
    if not -1 <= limit <= 1:
        raise BadSetting(f"threshold {limit:g} is no cosine similarity; give one in -1 to 1")
    return limit
