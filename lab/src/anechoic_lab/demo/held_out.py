"""Writes the demo's held-out clips as sound files, to calibrate its index.

    python -m anechoic_lab.demo.held_out -o held-out
    anechoic calibrate held-out --index demo --fpr 0.05 --overwrite

wrote the calibration that ships with the demo's index. The clips are those that the model was not
trained on, encoded and decoded by its codec, as a generation is.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from anechoic import audio
from anechoic.errors import OutputExists
from anechoic_lab.demo import assets, corpus
from anechoic_lab.demo.build import round_trip
from anechoic_lab.demo.corpus import SAMPLE_RATE, Clip


def held_out(work: Path, seed: int = 0, data: Path = assets.SHIPPED) -> tuple[list[Clip], Tensor]:
    """The held-out clips, encoded and decoded, [n, t].

    Args:
        work: folder for the unpacked Debian packages, as for `anechoic demo train`.
        seed: seed of the corpus.
        data: the demo folder with the codec.
    """
    clips, wavs = corpus.build(work, seed)
    rows = [i for i, clip in enumerate(clips) if clip.split != "train"]
    decoded = round_trip(assets.pipeline(data).vae, torch.from_numpy(wavs[rows]))
    return [clips[i] for i in rows], decoded


def write(folder: Path, clips: Sequence[Clip], wavs: Tensor, rate: int = SAMPLE_RATE) -> None:
    """Write each clip as a FLAC file named by its id.

    Raises:
        OutputExists: the folder exists.
    """
    if folder.exists():
        raise OutputExists(f"'{folder}' exists already; name another output")
    for clip, wav in zip(clips, wavs, strict=True):
        audio.write(folder / f"{clip.id}.flac", wav[None], rate)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("demo-work"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=assets.SHIPPED)
    chosen = parser.parse_args()
    clips, wavs = held_out(chosen.work, chosen.seed, chosen.data)
    write(chosen.output, clips, wavs)
    print(f"{chosen.output}: {len(clips)} held-out clips")


if __name__ == "__main__":
    main()
