"""The embedder and windows that `anechoic index build` chooses where none are asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from support.commands import Run

from anechoic.embedders import embedder
from anechoic.index import TrainingIndex
from anechoic.index.embedding import SUITABLE

RATE = 8000


def clips(folder: Path, *seconds: float) -> Path:
    folder.mkdir()
    rows = ["file_name,caption"]
    for number, length in enumerate(seconds):
        noise = 0.1 * np.random.default_rng(number).standard_normal(round(length * RATE))
        soundfile.write(folder / f"{number}.wav", noise, RATE)
        rows.append(f"{number}.wav,clip {number}")
    (folder / "metadata.csv").write_text("\n".join(rows))
    return folder


@pytest.mark.parametrize(
    ("seconds", "name", "window_s"),
    [
        ((0.4, 1.0), "magmel", None),
        ((0.5, 3.56), "magmel:seconds=5.0", None),
        ((10.0, 2.0), "magmel:seconds=10.0", None),
        ((14.0, 2.0), "magmel:seconds=10.0", 10.0),
    ],
)
def test_the_embedder_suits_the_longest_clip(
    command: Run,
    tmp_path: Path,
    seconds: tuple[float, ...],
    name: str,
    window_s: float | None,
) -> None:
    folder = clips(tmp_path / "clips", *seconds)
    code, _, err = command("index", "build", folder, "-o", tmp_path / "index")
    assert code == 0
    index = TrainingIndex.load(tmp_path / "index")
    assert (index.embedder_name, index.window_s) == (name, window_s)
    assert (f"'{name}'" in err) == (name != "magmel")


def test_each_embedder_to_choose_takes_in_the_seconds_it_is_chosen_by() -> None:
    made = [embedder(name) for name in SUITABLE]
    assert {one.name: one.seconds for one in made} == SUITABLE


def test_a_clip_that_the_named_embedder_would_cut_is_refused_with_the_way_on(
    command: Run, tmp_path: Path
) -> None:
    folder, options = clips(tmp_path / "clips", 3.56), ("--embedder", "magmel")
    code, _, err = command("index", "build", folder, "-o", tmp_path / "index", *options)
    assert code == 2
    assert "'--embedder magmel:seconds=4'" in err
