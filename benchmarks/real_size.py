"""Every guard at Stable Audio Open's real size on any machine: seconds, memory, passes.

    python benchmarks/real_size.py --out real-size              # goes on after a stop
    python benchmarks/real_size.py --tiny --out /tmp/tiny

The classes and the configuration are the real ones (`pipeline_size.py`), in float32; the weights
are random, which changes no figure but makes noise of the sound. Each guard generates once, in a
process of its own with one thread: its processor time and the most memory it held are then its own.
The network always computes all 1,024 latents, 47.6 s; `--seconds` of them are returned, and
compared with the index. Where a guard promises the pipeline's own output, bit for bit, that is
checked, and the exit status is 1 where it is not so.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pipeline_size import PROMPT, REAL, TINY, Size, make_clap, make_pipeline

from anechoic import TrainingIndex
from anechoic.auto import Auto
from anechoic.diffusers.generate import generate
from anechoic.diffusers.pipelines import call_arguments
from anechoic.environment import processor
from anechoic.guidance import AntiMemorization, ClassifierFree, Guidance, TransitionPoint

STEPS, SCALE = 3, 7.0
PLAIN = "no guard"
NEVER, ALWAYS = 0.9999, -1.0  # similarities at which a gate opens
Make = Callable[[TrainingIndex, Any], Guidance]
GUARDS: dict[str, Make | None] = {
    PLAIN: None,
    "`cfg`": lambda index, embed: ClassifierFree(SCALE),
    "`auto`, nothing near": lambda index, embed: Auto(index, embed, SCALE, NEVER),
    "AMG, gate shut": lambda index, embed: _amg(index, embed, NEVER),
    "static, scale 0 before 0.5": lambda index, embed: TransitionPoint(SCALE, 0.0, 0.5),
    "opposite guidance before 0.5": lambda index, embed: TransitionPoint(SCALE, -1.0, 0.5),
    "`auto`, every caption replaced": lambda index, embed: Auto(index, embed, SCALE, ALWAYS),
    "AMG, gate open": lambda index, embed: _amg(index, embed, ALWAYS),
}
SAME = list(GUARDS)[:4]  # give what the pipeline alone gives


@dataclass(frozen=True)
class Row:
    """What one generation took."""

    guard: str
    seconds: float  # of processor time, one thread
    network_s: float  # in the denoiser
    calls: int  # of the denoiser
    passes: int  # rows in these calls: a prompt, the empty prompt, or a caption
    peak_gib: float
    sha256: str  # of the sound's samples


def _amg(index: TrainingIndex, embed: Any, opens: float) -> Guidance:
    return AntiMemorization(
        index, embed, SCALE, lambda_min=opens, lambda_max=opens, c1=4.0, c2=3.0, c3=1e-3,
        gradient="x0",
    )  # fmt: skip


def measure(guard: str, size: Size, seconds: float) -> Row:
    """Generate once under a guard."""
    pipe, make = make_pipeline(size, torch.device("cpu")), GUARDS[guard]
    guidance = None
    if make is not None:
        embed, generator = make_clap(size), torch.Generator().manual_seed(0)
        index = TrainingIndex.from_embeddings(
            torch.randn(size.rows, embed.dim, generator=generator),
            [PROMPT + "," * (row % 3) for row in range(size.rows)],
            embedder_name=embed.name, sample_rate=embed.sample_rate, revision=embed.revision,
        )  # fmt: skip
        guidance = make(index, embed)
    spent, passes = [0.0], []

    def before(first: Any, arguments: tuple[Any, ...]) -> None:
        passes.append(len(arguments[0]))
        spent[0] -= time.process_time()

    def after(*_: Any) -> None:
        spent[0] += time.process_time()

    # the guard's own work hangs on the network, so its first and its last part are listened to
    pipe.transformer.preprocess_conv.register_forward_pre_hook(before)
    pipe.transformer.postprocess_conv.register_forward_hook(after)
    start = time.process_time()
    made = generate(pipe, PROMPT, 0, call_arguments(pipe, SCALE, STEPS, seconds), guidance)
    took = time.process_time() - start
    wav = made.samples.contiguous().numpy()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10
    return Row(
        guard, took, spent[0], len(passes), sum(passes), peak / 2**30,
        hashlib.sha256(wav.tobytes()).hexdigest(),
    )  # fmt: skip


def table(rows: list[Row], about: dict[str, Any]) -> str:
    plain = rows[0]
    lines = [
        f"{about['machine']}, torch {about['torch']}; float32, one thread, {STEPS} steps; "
        f"{about['seconds']:g} s returned and compared; an index of {about['rows']:,} clips.",
        "",
        "| guard | processor s | times plain | in the network, s | passes | peak GiB | sound |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        sound = "the same bits" if row.sha256 == plain.sha256 else "another"
        lines.append(
            f"| {row.guard} | {row.seconds:,.1f} | {row.seconds / plain.seconds:.2f} "
            f"| {row.network_s:,.1f} | {row.passes} | {row.peak_gib:.1f} | {sound} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="the same code on tiny sizes")
    parser.add_argument("--seconds", type=float, default=5.0, help="of sound that is returned")
    parser.add_argument("--out", type=Path, required=True, help="ends in nothing: .json and .md")
    parser.add_argument("--measure", choices=GUARDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    size = replace(TINY if options.tiny else REAL, dtype=torch.float32)
    if options.measure:
        torch.set_num_threads(1)
        print(json.dumps(asdict(measure(options.measure, size, options.seconds))))
        return 0
    about = {"machine": processor(), "torch": torch.__version__, "seconds": options.seconds,
             "rows": size.rows, "tiny": options.tiny}  # fmt: skip
    file = options.out.with_suffix(".json")
    known = json.loads(file.read_text()) if file.exists() else {}
    rows = [Row(**row) for row in known["guards"]] if known.get("about") == about else []
    for guard in list(GUARDS)[len(rows) :]:
        command = [sys.executable, __file__, "--measure", guard, "--seconds", str(options.seconds)]
        run = subprocess.run(
            [*command, "--out", str(options.out), *["--tiny"] * options.tiny],
            env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, check=True,
        )  # fmt: skip
        rows.append(Row(**json.loads(run.stdout)))
        print(f"{guard}: {rows[-1].seconds:.0f} s", file=sys.stderr, flush=True)
        kept = {"about": about, "guards": [asdict(row) for row in rows]}
        file.write_text(json.dumps(kept, indent=1) + "\n")
    text = table(rows, about)
    options.out.with_suffix(".md").write_text(text)
    print(text)
    return int(any(row.sha256 != rows[0].sha256 for row in rows if row.guard in SAME))


if __name__ == "__main__":
    sys.exit(main())
