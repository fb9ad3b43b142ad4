"""Building an index against the bare embedder on arrays that are ready; and a search in a step.

    python benchmarks/index_build.py

Writes sound files (noise in bands, 44.1 kHz stereo FLAC), embeds them once as arrays that are in
memory and once with `anechoic index build`'s own code from the files to finished shards, in turn,
and takes the median of the pairs. Decoding, embedding and writing overlap as far as there are
cores, so the embedder gets one thread. Then it takes the share of the searches in generations of
the demo model guarded by AMG. Prints a table with targets, and exits with 1 where one is missed.
"""

from __future__ import annotations

import argparse
import platform
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from anechoic import audio, guard
from anechoic.embedders import embedder
from anechoic.embedders.clap import Clap, Parts
from anechoic.index.build import Work, build
from anechoic.index.embedding import BATCH, Windows
from anechoic.index.manifest import About
from anechoic.index.sources.opening import open_source

SHARE = 0.90  # of the bare embedder's rate
STEP = 0.01  # of a guarded generation
RATE = 44_100


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--clips", type=int, default=128, help="of 5 s each")
    options.add_argument("--pairs", type=int, default=3)
    asked = options.parse_args()
    torch.set_num_threads(1)
    missed = 0
    print("| what | measured | target | verdict |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        folder = _clips(Path(scratch, "clips"), asked.clips)
        for name, made, target in (
            ("CLAP's size, random weights", _clap(), SHARE),
            ("magmel, which costs less than decoding", embedder("magmel:seconds=5"), None),
        ):
            share, rate, memory = _against_bare(folder, made, asked.pairs)
            met = target is None or share >= target
            missed += not met
            told = "none" if target is None else f">= {target:g}"
            verdict = "" if target is None else "met" if met else "missed"
            found = f"{share:.3f} ({rate:.1f} clips/s, {memory:.0f} MiB more resident)"
            print(f"| build from files over bare embedder, {name} | {found} | {told} | {verdict} |")
    for how, settings, target in (
        ("as the demo guards", {}, STEP),
        ("compared at every step", {"start": None, "every": 1}, None),
    ):
        share, searches, search = _search_in_a_generation(settings)
        met = target is None or share <= target
        missed += not met
        told = "none" if target is None else f"<= {target:g}"
        verdict = "" if target is None else "met" if met else "missed"
        print(f"| searches of the demo's index in a generation guarded by AMG, {how} | "
              f"{share:.4f} of its time ({searches} of {search * 1e3:.2f} ms) | {told} "
              f"| {verdict} |")  # fmt: skip
    versions = f"python {platform.python_version()}, torch {torch.__version__}"
    print(f"\nclips {asked.clips}, medians of {asked.pairs} pairs, one thread; "
          f"{platform.machine()}, {versions}")  # fmt: skip
    return int(missed > 0)


def _clips(folder: Path, count: int) -> Path:
    generator = torch.Generator().manual_seed(0)
    lines = ["file_name,caption"]
    for number in range(count):
        wav = 0.1 * torch.randn(2, 5 * RATE, generator=generator).cumsum(1).diff(dim=1, n=1)
        audio.write(folder / f"{number}.flac", wav, RATE)
        lines.append(f"{number}.flac,noise {number}")
    (folder / "metadata.csv").write_text("\n".join(lines))
    return folder


def _clap() -> Clap:
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

    torch.manual_seed(0)
    extractor = ClapFeatureExtractor(truncation="rand_trunc", padding="repeatpad", frequency_min=50)
    return Clap(parts=Parts(ClapModel(ClapConfig()).eval(), extractor, "random"))


def _against_bare(folder: Path, made: Any, pairs: int) -> tuple[float, float, float]:
    """The median share of the bare rate, the rate in clips a second, and the memory in MiB."""
    source = open_source(folder)
    items = [item for unit in source.units() for item in unit.items()]
    ready = [item.read()[0] for item in items]
    shares, rates = [], []
    memory = 0.0
    for _ in range(pairs):
        bare = _seconds(lambda: _embed_all(made, ready))
        out = folder.parent / "index"
        shutil.rmtree(out, ignore_errors=True)
        about = About(made.name, made.sample_rate)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        whole = _seconds(
            lambda out=out, about=about: build(
                source, Work(str(out), lambda: made, Windows()), about
            )
        )
        memory = max(memory, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
        shares.append(bare / whole)
        rates.append(len(items) / whole)
    return statistics.median(shares), statistics.median(rates), memory


@torch.no_grad()
def _embed_all(made: Any, ready: list[torch.Tensor]) -> None:
    for start in range(0, len(ready), BATCH):
        made(torch.stack(ready[start : start + BATCH]), RATE)


def _search_in_a_generation(settings: dict[str, Any]) -> tuple[float, int, float]:
    """The share of a generation's processor time that goes to searches, how many there are and
    the median of one; over memorized and ordinary prompts."""
    from anechoic_lab.demo import assets
    from anechoic_lab.demo.methods import METHODS
    from anechoic_lab.demo.show import prompts_to_tune

    from anechoic.guidance import AntiMemorization
    from anechoic.index import TrainingIndex

    pipe, index = assets.pipeline(), assets.index()
    method = AntiMemorization(
        index, embedder(index.embedder_name), assets.CFG_SCALE, **METHODS["amg"].settings | settings
    )
    plain, searches = TrainingIndex.search, []

    def timed(self: TrainingIndex, *asked: Any) -> Any:
        begun = time.process_time()
        found = plain(self, *asked)
        searches.append(time.process_time() - begun)
        return found

    def generate(caption: str) -> None:
        with guard(pipe, method):
            pipe(caption, num_inference_steps=assets.STEPS, guidance_scale=assets.CFG_SCALE,
                 generator=torch.Generator().manual_seed(0))  # fmt: skip

    memorized, ordinary = prompts_to_tune(assets.training_clips())
    captions = [clip.caption for clip in (*memorized[:4], *ordinary[:4])]
    for caption in captions[:3]:  # until the index has looked for its directions
        generate(caption)
    TrainingIndex.search = timed  # type: ignore[method-assign]
    begun = time.process_time()
    for caption in captions:
        generate(caption)
    whole = time.process_time() - begun
    TrainingIndex.search = plain  # type: ignore[method-assign]
    return sum(searches) / whole, len(searches) // len(captions), statistics.median(searches)


def _seconds(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


if __name__ == "__main__":
    sys.exit(main())
