"""What an index costs at three sizes: rates measured on one core here, and the estimate they give.

    python benchmarks/scale.py

Rates are per CPU second of one thread, so that a machine that is busy beside it tells the same.
Everything that was not measured stands under ASSUMED, with its reason; GPUs were not. Prints the
tables of docs/evidence/scale.md.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before the libraries that read it

import numpy as np
import synthetic
import torch
from torch.utils.flop_counter import FlopCounterMode

from anechoic import audio
from anechoic.embedders import embedder
from anechoic.embedders.clap import Clap, Parts
from anechoic.index import shards, structure
from anechoic.index.clips import Clip
from anechoic.index.plan import plan as plan_of
from anechoic.storage import Storage

RATE, SECONDS, WINDOW_S, HOP_S, DIM = 44_100, 30, 10, 5, 512
ROWS = 65_536  # a shard
# ASSUMED
CORE_DOLLARS = 0.04  # an hour of one rented core
GPU_DOLLARS = 1.0  # an hour of one rented GPU with GPU_FLOPS
GPU_FLOPS = 30e12  # float32 multiplications and additions a second, by its data sheet
GPU_SHARE = 0.2  # of them that a network of this kind gets
CORES, GPUS = 64, 8  # that work at once
ALONE = 16  # of the cores, on the one machine that trains
STORE_DOLLARS = 0.023  # a GB of an object store, a month


@dataclass(frozen=True)
class Job:
    """A training set of some size."""

    name: str
    rows: float
    units: float  # that are decoded: hours of MP3, or images
    decoded: str  # the rate of decoding
    network: str  # the rate of embedding, and the FLOP of it


JOBS = (  # 7,300 h: Stable Audio Open, arXiv:2407.14358; an hour of windows has 3600 / HOP_S rows
    Job("0.5 M clips (7,300 h)", 7_300 * 3600 / HOP_S, 7_300, "MP3", "CLAP"),
    Job("100 M windows (139,000 h)", 100e6, 100e6 * HOP_S / 3600, "MP3", "CLAP"),
    Job("5 G images", 5e9, 5e9, "JPEG", "ResNet-50"),
)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--rows", type=int, default=250_000, help="of the structure")
    asked = options.parse_args()
    torch.set_num_threads(1)
    rates: Rates = {}
    with tempfile.TemporaryDirectory() as scratch:
        rates |= decoding(Path(scratch))
        more, flops = embedding()
        found, train_s = searching(Path(scratch), asked.rows)
        rates |= more | storing(Path(scratch)) | found
    print("| what one core does | rate |\n|---|---|")
    for name, (rate, unit) in rates.items():
        print(f"| {name} | {rate:,.4g} {unit} |")
    print(f"\nFLOP a row: {', '.join(f'{k} {v / 1e9:.1f} G' for k, v in flops.items())}")
    print(f"{processor()}, one thread; python {platform.python_version()}, torch "
          f"{torch.__version__}, numpy {np.__version__}\n")  # fmt: skip
    estimate({name: rate for name, (rate, _) in rates.items()}, flops, train_s)


# -------------------------------------------------------------------------------------- measured


Rates = dict[str, tuple[float, str]]


def per_second(work: Callable[[], Any], amount: float, least_s: float = 2.0) -> float:
    """Amount a CPU second; what is done first is not timed."""
    work()
    begun, times = time.process_time(), 0
    while time.process_time() - begun < least_s or times < 2:
        work()
        times += 1
    return amount * times / (time.process_time() - begun)


def decoding(scratch: Path) -> Rates:
    """Sound of 30 s, 44.1 kHz stereo, noise that falls by 3 dB an octave; images of 256 x 256."""
    import soundfile
    from PIL import Image

    rng = np.random.default_rng(0)
    spectrum = np.fft.rfft(rng.standard_normal((RATE * SECONDS, 2)), axis=0)
    wav = np.fft.irfft(spectrum / np.maximum(1, np.arange(len(spectrum)))[:, None] ** 0.5, axis=0)
    wav = (0.5 * wav / np.abs(wav).max()).astype(np.float32)
    found: Rates = {}
    for suffix in ("flac", "mp3"):
        file = scratch / f"noise.{suffix}"
        soundfile.write(file, wav, RATE)
        hours = per_second(lambda file=file: audio.read(file), SECONDS / 3600) * 3600
        found[f"decode {suffix.upper()}"] = (hours, "h of sound an hour")
    pixels = rng.normal(128, 40, (16, 16, 3)).clip(0, 255).astype(np.uint8)
    jpeg = io.BytesIO()
    Image.fromarray(pixels).resize((256, 256)).save(jpeg, "JPEG", quality=90)

    def decode() -> None:
        for _ in range(50):
            np.asarray(Image.open(io.BytesIO(jpeg.getvalue())).convert("RGB"))

    found["decode JPEG"] = (per_second(decode, 50), "images/s")
    return found


def embedding() -> tuple[Rates, dict[str, float]]:
    """Rows of 10 s at the embedder's rate, in batches; random weights have the time of others."""
    from transformers import (
        ClapConfig,
        ClapFeatureExtractor,
        ClapModel,
        ResNetConfig,
        ResNetModel,
    )

    torch.manual_seed(0)
    extractor = ClapFeatureExtractor(truncation="rand_trunc", padding="repeatpad", frequency_min=50)
    clap = Clap(parts=Parts(ClapModel(ClapConfig()).eval(), extractor, "random"))
    magmel = embedder(f"magmel:seconds={WINDOW_S}")
    resnet = ResNetModel(ResNetConfig()).eval()  # of SSCD, which takes 288 x 288
    networks: dict[str, tuple[Callable[[torch.Tensor], Any], torch.Tensor]] = {
        "magmel": (lambda x: magmel(x, 16_000), torch.randn(8, 1, 16_000 * WINDOW_S)),
        "CLAP": (lambda x: clap(x, 48_000), torch.randn(8, 1, 48_000 * WINDOW_S)),
        "ResNet-50": (resnet, torch.randn(8, 3, 288, 288)),
    }
    rates: Rates = {}
    flops = {}
    with torch.no_grad():
        for name, (network, batch) in networks.items():
            rate = per_second(lambda n=network, b=batch: n(b), len(batch))
            rates[f"embed {name}"] = (rate, "rows/s")
            with FlopCounterMode(display=False) as counter:
                network(batch[:1])
            flops[name] = float(counter.get_total_flops())
    del flops["magmel"]  # its transforms are not counted
    return rates, flops


def storing(scratch: Path) -> Rates:
    """A shard of float16, 512-d."""
    place, rng = Storage(scratch / "parquet"), np.random.default_rng(0)
    emb = rng.standard_normal((ROWS, DIM), np.float32).astype(np.float16)
    clips = [Clip(f"clip-{i // 10}", f"a caption of usual length, number {i // 10}",
                  f"folder/{i // 10}.mp3", 5.0 * (i % 10), 10.0) for i in range(ROWS)]  # fmt: skip
    shard = shards.write(place, "s", clips, emb, ROWS)
    megabytes = shard.bytes / 1e6
    return {
        "write a shard": (
            per_second(lambda: shards.write(place, "s", clips, emb, ROWS), megabytes), "MB/s"),
        "read a shard": (
            per_second(lambda: shards.embeddings_of(shards.read_table(place, shard)), ROWS),
            "rows/s"),
    }  # fmt: skip


def searching(scratch: Path, rows: int) -> tuple[Rates, float]:
    """The structure of `rows` synthetic rows, its parts and its answers; and the seconds that a
    training vector costs for each list and direction."""
    vectors = synthetic.World(rows // synthetic.WINDOWS).rows(0, rows, 1).stored
    plan = plan_of(rows, DIM)
    begun = time.process_time()
    trained = structure.train(vectors[:: max(1, rows // plan.sample)][: plan.sample], plan)
    spent = time.process_time() - begun
    file = scratch / "index.faiss"
    codes = [structure.encode(trained, vectors[i : i + ROWS]) for i in range(0, rows, ROWS)]
    lists = f"{plan.lists:,} lists"
    encode = per_second(lambda: structure.encode(trained, vectors[:ROWS]), ROWS)
    put_together = per_second(lambda: structure.assemble(trained, codes, file), rows)
    searcher = structure.open_searcher(file, plan)
    queries = vectors[:: rows // 100][:100]

    def ask() -> None:
        for query in queries:
            found = searcher.candidates(query[None], plan.candidates)
            structure.rerank(vectors, query[None], found, 1)

    flat = per_second(lambda: vectors @ queries[0], rows)
    rates = {
        f"train {lists}": (plan.sample / spent, "rows/s"),
        f"encode, {lists}": (encode, "rows/s"),
        "assemble": (put_together, "rows/s"),
        f"search {rows:,} rows": (per_second(ask, 100), "queries/s"),
        "compare all rows": (flat, "rows/s"),
    }
    return rates, spent / (plan.sample * plan.lists * plan.reduced_dim)


# ------------------------------------------------------------------------------------- estimated


def estimate(rates: dict[str, float], flops: dict[str, float], train_s: float) -> None:
    """Print what each job takes, in hours of cores and GPUs, in time and in money."""
    encode = next(rate for name, rate in rates.items() if name.startswith("encode"))
    print(f"| with {CORES} cores and {GPUS} GPUs | {' | '.join(job.name for job in JOBS)} |")
    print("|---" * (len(JOBS) + 1) + "|")
    table: dict[str, list[str]] = {}
    for job in JOBS:
        decode = rates[f"decode {job.decoded}"]
        decode_h = job.units / decode if job.decoded == "MP3" else job.units / decode / 3600
        cpu_h = job.rows / rates[f"embed {job.network}"] / 3600
        gpu_h = job.rows * flops[job.network] / (GPU_FLOPS * GPU_SHARE) / 3600
        bytes_row = DIM * 2 + 60
        write_h = job.rows * bytes_row / rates["write a shard"] / 1e6 / 3600
        encode_h = job.rows * (1 / encode + 1 / rates["read a shard"]) / 3600
        alone_h = job.rows * (1 / rates["read a shard"] + 1 / rates["assemble"]) / 3600
        plan = plan_of(int(job.rows), DIM)
        train_h = plan.sample * plan.lists * plan.reduced_dim * train_s / 3600
        parts = {
            "decoding": decode_h / CORES,
            "embedding": gpu_h / GPUS,
            "writing": write_h / CORES,
            "encoding": encode_h / CORES,
            "training": train_h / ALONE,
            "laying out and assembling": alone_h,
        }
        # decoding and embedding go on side by side
        whole = sum(parts.values()) - min(parts["decoding"], parts["embedding"])
        slowest = max(parts.items(), key=lambda part: part[1])
        cores_h = decode_h + write_h + encode_h + train_h + alone_h
        for name, told in {
            "rows": f"{job.rows:,.3g}",
            "decode, core h": f"{decode_h:,.3g}",
            "embed on cores, core h": f"{cpu_h:,.3g}",
            "embed on GPUs, GPU h (not measured)": f"{gpu_h:,.3g}",
            "write, core h": f"{write_h:,.3g}",
            "read and encode, core h": f"{encode_h:,.3g}",
            "train, core h (extrapolated)": f"{train_h:,.3g}",
            "lay out and assemble, h of one core": f"{alone_h:,.3g}",
            "embeddings, GB": f"{job.rows * bytes_row / 1e9:,.3g}",
            "structure, GB": f"{job.rows * (plan.code_bytes + 8) / 1e9:,.3g}",
            "time, h": f"{whole:,.3g}",
            "the longest part of it": f"{slowest[0]}, {slowest[1]:,.3g} h",
            "cost with GPUs, $": f"{cores_h * CORE_DOLLARS + gpu_h * GPU_DOLLARS:,.3g}",
            "cost on cores alone, $": f"{(cores_h + cpu_h) * CORE_DOLLARS:,.3g}",
            "keep the embeddings, $ a month": f"{job.rows * bytes_row / 1e9 * STORE_DOLLARS:,.3g}",
        }.items():
            table.setdefault(name, []).append(told)
    for name, cells in table.items():
        print(f"| {name} | {' | '.join(cells)} |")


def processor() -> str:
    from anechoic.environment import processor as name

    return name()


if __name__ == "__main__":
    main()
