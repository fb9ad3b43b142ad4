"""What a monitor costs a real training: the demo's trainer, timed around each call of it.

    python benchmarks/monitor.py --steps 2400

The demo's model is fine-tuned plainly, as `anechoic demo remedies` does it, under a monitor with
its default share of 3 % of the time. Prints how often it looked, and the share that all calls took
(docs/evidence/fine-tuning.md).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from anechoic_lab.demo import remedies
from anechoic_lab.demo.train import Phase, TrainingRecipe, train
from anechoic_lab.demo.watch import Previews

from anechoic.environment import machine
from anechoic.training import Monitor, Panel, Repeats
from anechoic.training.trackers import console


def main() -> None:
    """Train, and print what the monitor took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--captions", type=int, default=8)
    parser.add_argument("--every", type=int, default=100)
    asked = parser.parse_args()
    known = remedies.material()
    captions = [clip.caption for clip in known.clips if clip.copies > 1][: asked.captions]
    previews = Previews()
    with tempfile.TemporaryDirectory() as folder:
        watch = Monitor(
            previews, known.verifier, Panel(tuple(captions)), Path(folder),
            every=asked.every, limit=1, act="warn", track=[console],
        )  # fmt: skip
        inside = 0.0

        def step(done: int, loss: float, averaged: Any) -> None:
            nonlocal inside
            previews.pipe = averaged
            start = time.monotonic()
            watch(done)
            inside += time.monotonic() - start

        recipe = TrainingRecipe((Phase(asked.steps, 5e-4, shift=10, tilt=0.05),))
        design = remedies.Remedied(clips=known.clips, repeats=Repeats({}))
        start = time.monotonic()
        train(
            [replace(clip, split="train") for clip in known.clips], known.sound.numpy(), recipe,
            step, design,
        )  # fmt: skip
        whole = time.monotonic() - start
    print(
        f"{asked.steps} steps in {whole:.0f} s; {len(watch.observations)} looks at a panel of "
        f"{asked.captions} captions took {inside:.1f} s, {inside / whole:.2%} of the time"
    )
    print(", ".join(f"{name} {value}" for name, value in machine("1").items()))


if __name__ == "__main__":
    main()
