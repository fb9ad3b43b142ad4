"""Measures repellency on the demo's report prompts, at radii read off the training latents.

    python benchmarks/repellency.py [QUANTILE ...]

Each radius is a quantile of the distances of the training clips to their nearest others.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from anechoic_lab.demo import assets, scenarios
from anechoic_lab.demo.run import Bench, generate_and_judge
from anechoic_lab.demo.task import open_demo

from anechoic.guidance.repellency import Repellency
from anechoic.index.latents import LatentIndex, reduced

SEEDS = (0, 1)


@torch.no_grad()
def training_latents(pipe) -> torch.Tensor:
    _, sound = assets.training_set()
    return torch.cat([pipe.vae.encode(part[:, None]).latent_dist.mean for part in sound.split(256)])


def main(quantiles: list[float]) -> None:
    pipe = assets.pipeline()
    bench, task = Bench.load(assets.SHIPPED, pipe), open_demo(quality="magmel")
    latents = training_latents(pipe)
    distances = torch.cdist(reduced(latents), reduced(latents)).fill_diagonal_(torch.inf)
    nearest, store = distances.amin(1), LatentIndex.of(latents)
    by_id = {clip.id: clip for clip in bench.clips}
    asked = task.prompts(scenarios.SHIPPED, "report")
    groups = {
        name: [by_id[prompt.id] for prompt in asked if (prompt.group == "ordinary") == ordinary]
        for name, ordinary in (("memorized", False), ("ordinary", True))
    }
    for quantile in [None, *quantiles]:
        radius = None if quantile is None else nearest.quantile(quantile).item()
        method = None if radius is None else Repellency(store, assets.CFG_SCALE, radius)
        print("unguarded" if radius is None else f"quantile {quantile:g}: radius {radius:.1f}")
        for name, prompts in groups.items():
            rows, seconds = generate_and_judge(pipe, bench, prompts, SEEDS, method)
            judged = [one for row in rows for one in row]
            kept = [one.adherence for one in judged if one.adherence is not None]
            print(
                f"  {name}: copies {sum(one.copied for one in judged)}, confirmed "
                f"{sum(one.confirmed for one in judged)} of {len(judged)}, mel "
                f"{np.mean([one.mel for one in judged]):.3f}, kept {np.mean(kept):.3f}, "
                f"{seconds:.2f} s a clip",
                flush=True,
            )


if __name__ == "__main__":
    main([float(word) for word in sys.argv[1:]] or [0.25, 0.5, 0.75, 0.9])
