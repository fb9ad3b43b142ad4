"""How long `Landmarks` searches one clip for, over training sets of growing size.

    python benchmarks/landmarks.py

The sets are made of the demo's clips: beyond them, each clip is one of theirs with its landmarks
moved in pitch, as many as the clip has. The sounds that are searched for are other clips of the
demo. Writes docs/evidence/landmarks.md.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from anechoic_lab.demo import assets, pairs
from anechoic_lab.demo.corpus import SAMPLE_RATE

from anechoic.detectors import Landmarks
from anechoic.environment import machine
from anechoic.index import Sound

ROOT = Path(__file__).parents[1]
SIZES = (20_000, 80_000, 320_000, 500_000)
QUERIES = 60


def grown(own: Landmarks, size: int, rng: np.random.Generator) -> Landmarks:
    """The clips, and copies of them in other pitches, up to `size`."""
    ends = own.ends.tolist()
    parts = list(zip([0, *ends[:-1]], ends, strict=True))
    chosen = [*range(len(parts)), *rng.integers(len(parts), size=size - len(parts)).tolist()]
    order = np.lexsort((own.frames.numpy(), own.rows.numpy()))  # clip after clip, in time
    hashes, times, made = own.hashes.numpy()[order], own.times.numpy(), []
    for place, number in enumerate(chosen):
        packed = hashes[slice(*parts[number])]
        if place >= len(parts):
            low = np.clip((packed >> 14) + int(rng.integers(-20, 21)), 2, 480)
            packed = ((low << 14) | (packed & 0x3FFF)).astype(np.int32)
        made.append(packed)
    when = [times[slice(*parts[number])] for number in chosen]
    return Landmarks.of(made, when, own.lengths[torch.tensor(chosen)].tolist())


def seconds(judge: Landmarks, queries: torch.Tensor) -> list[float]:
    """Processor time of each search, without what is done once."""
    judge(queries[:1], SAMPLE_RATE)
    found = []
    for query in queries:
        start = time.process_time()
        judge(query[None], SAMPLE_RATE)
        found.append(time.process_time() - start)
    return sorted(found)


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--page", type=Path, default=ROOT / "docs/evidence/landmarks.md")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    clips, sound = assets.training_set(assets.SHIPPED)
    split = pairs.split(clips, 0, 1, QUERIES, 1)
    own = Landmarks.fit(
        [Sound(clips[i].id, "", sound[i][None], SAMPLE_RATE) for i in split.catalogue]
    )
    queries, rows, points = sound[split.unrelated][:, None], [], []
    for size in chosen.sizes:
        judge = grown(own, size, np.random.default_rng(0))
        found = seconds(judge, queries)
        points.append((size, float(np.mean(found))))
        times = (found[len(found) // 2], points[-1][1], found[-1])
        shown = " | ".join(f"{1e3 * one:.0f} ms" for one in times)
        rows.append(f"| {size:,} | {len(judge.hashes) / 1e6:.1f} million | {shown} |")
        print(rows[-1], flush=True)
    (first, few), (last, many) = points[0], points[-1]
    chosen.page.write_text(TEXT.format(
        machine=", ".join(f"{what} {value}" for what, value in machine("1 of one thread").items()),
        rows="\n".join(rows), first=f"{first:,}", last=f"{last:,}", few=1e3 * few, many=1e3 * many,
    ), "utf-8")  # fmt: skip


TEXT = """\
# Landmarks: how long a search takes

Written by `python benchmarks/landmarks.py`; {machine}.

Processor time in which `landmarks` searches a clip of 1.024 s, over training sets of clips of that
length. The demo's clips are real; the others are made of them, with their landmarks moved in pitch.

| clips | landmarks | median | mean | slowest of 60 |
|---|---|---|---|---|
{rows}

The landmarks are sorted once, when they are fitted; `anechoic calibrate --detector landmarks` keeps
them so beside the index, 16 bytes each. A search looks up each of its own, counts the hits of every
clip, and aligns only the clips that have as many hits as the best alignment of the likeliest one
has votes. So the time grows with the hits: on average from {few:.0f} ms with {first} clips to
{many:.0f} ms with {last}.
"""


if __name__ == "__main__":
    main()
