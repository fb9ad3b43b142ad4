"""What the test of a catalogue's membership finds on the demo model, and how often it errs.

    python benchmarks/membership.py --work demo-work

The corpus is rendered anew, with what was held out, as for `anechoic demo train`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from anechoic_lab.demo import assets, corpus
from anechoic_lab.membership import compare, scores
from torch import Tensor

from anechoic.index import Sound

SPLITS = 2_000


def takes(work: Path, seed: int) -> tuple[list[Sound], list[Sound]]:
    """Renderings of notes that the model was trained on once, and the one of each note that was
    held out."""
    clips, waves = corpus.build(work, seed)
    held = {clip.caption for clip in clips if clip.split == "held-out take"}
    found: dict[str, list[Sound]] = {"train": [], "held-out take": []}
    for clip, wav in zip(clips, waves, strict=True):
        if clip.caption in held and clip.split in found and clip.copies == 1:
            sound = Sound(clip.id, clip.caption, torch.from_numpy(wav)[None], corpus.SAMPLE_RATE)
            found[clip.split].append(sound)
    return found["train"], found["held-out take"]


def rate(ours: Tensor, theirs: Tensor, level: float, rng: np.random.Generator) -> float:
    """How often the test is positive at a level, of sets of half as many clips as there are of
    theirs; those of `theirs` itself where both are the same."""
    half, positive = len(theirs) // 2, 0
    for _ in range(SPLITS):
        drawn = rng.permutation(len(theirs))
        other = drawn[half : 2 * half] if ours is theirs else rng.permutation(len(ours))[:half]
        positive += compare(ours[other], theirs[drawn[:half]]).p_value < level
    return positive / SPLITS


def main() -> None:
    """Print the figures of docs/how-to/membership.md."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--work", type=Path, default=Path("demo-work"))
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    pipe, rng = assets.pipeline(), np.random.default_rng(chosen.seed)
    ours, theirs = (scores(pipe, sounds) for sounds in takes(chosen.work, chosen.seed))
    print(compare(ours, theirs))
    for level in (0.05, 0.01):
        print(f"at {level:g}: false alarms {rate(theirs, theirs, level, rng):.4f}, "
              f"found {rate(ours, theirs, level, rng):.4f}")  # fmt: skip
    single = float((ours > theirs.quantile(0.95)).float().mean())
    print(f"single clips above 95 % of the held-out ones: {single:.4f}")


if __name__ == "__main__":
    main()
