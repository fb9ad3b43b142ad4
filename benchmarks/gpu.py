"""All that only a GPU can tell, as one JSON file: what `gpu.sh` runs.

Each part stands in the file as soon as it is done; one that failed says why and the rest goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from anechoic_lab.doctor.latency import measure_latency
from pipeline_size import (
    PLAIN,
    PROMPT,
    REAL,
    STEPS,
    TINY,
    Size,
    make_clap,
    make_methods,
    make_pipeline,
)

from anechoic.environment import processor

SECONDS = 10.0  # of sound that is generated and compared
METHODS = (
    PLAIN, "cfg", "amg, gate shut", "amg, gradient=x0", "amg", "volume, gradient=x0", "static",
    "static, opposite", "dynamic", "interval",
)  # fmt: skip
COMPILED = {"compiled": "default", "CUDA graphs": "reduce-overhead"}
GUARDED = (PLAIN, "cfg", "static", "amg, gradient=x0")  # also with a compiled network


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, on the CPU too")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if not options.tiny and not torch.cuda.is_available():
        print("there is no GPU here; --tiny runs the same code on the CPU")
        return 1
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = TINY if options.tiny else REAL
    report: dict[str, Any] = {
        "machine": torch.cuda.get_device_name() if device.type == "cuda" else processor(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "tiny": options.tiny,
        "dtype": str(size.dtype),
    }
    parts: dict[str, Callable[[Size, torch.device], Any]] = {
        "methods": methods, "compiled": compiled, "embedding": embedding, "search": search,
    }  # fmt: skip
    failed = 0
    for name, part in parts.items():
        start = time.perf_counter()
        try:
            report[name] = part(size, device)
        except (
            Exception
        ) as error:  # of torch or the driver: the other parts still have their figures
            report[name], failed = {"failed": f"{type(error).__name__}: {error}"[:500]}, failed + 1
        report[f"{name}, s"] = round(time.perf_counter() - start, 2)
        options.out.write_text(json.dumps(report, indent=1) + "\n")
        print(f"{name}: {report[f'{name}, s']} s", file=sys.stderr, flush=True)
    return int(failed > 0)


def methods(size: Size, device: torch.device) -> list[dict[str, Any]]:
    """Seconds a step and peak memory of every method, in each batch size."""
    pipe, make = make_pipeline(size, device), make_methods(size)
    return [
        {"method": name, "batch": batch} | _latency(pipe, make[name](), batch, device)
        for batch in size.batches
        for name in METHODS
    ]


def compiled(size: Size, device: torch.device) -> list[dict[str, Any]]:
    """The same with a compiled network, and how far its sound is from that of the plain one."""
    rows = []
    for name, mode in COMPILED.items():
        torch._dynamo.reset()
        pipe, make = make_pipeline(size, device), make_methods(size)
        # without a GPU nothing is compiled; that it is traced and guarded is what is tried there
        chosen = {"mode": mode} if device.type == "cuda" else {"backend": "eager"}
        pipe.transformer.compile(**chosen)
        for method in GUARDED:
            rows.append(
                {"network": name, "method": method} | _latency(pipe, make[method](), 1, device)
            )
    return rows


def _latency(pipe: Any, guidance: Any, batch: int, device: torch.device) -> dict[str, Any]:
    length = SECONDS if device.type == "cuda" else None
    return asdict(measure_latency(pipe, guidance, [PROMPT] * batch, STEPS, length))


def embedding(size: Size, device: torch.device) -> dict[str, float]:
    """Windows of 10 s a second through CLAP."""
    clap = make_clap(size)
    batch = 64 if device.type == "cuda" else 2
    wav = torch.randn(batch, 1, int(SECONDS * clap.sample_rate), device=device)
    rates = []
    for _ in range(5):
        start = time.perf_counter()
        with torch.no_grad():
            clap(wav, clap.sample_rate).sum().item()  # waits for it
        rates.append(batch / (time.perf_counter() - start))
    return {"windows_per_s": float(np.median(rates[1:])), "batch": batch}


def search(size: Size, device: torch.device) -> dict[str, Any]:
    """Queries a second over ten million vectors in the GPU's memory, by torch and by FAISS."""
    rows, batch = (10_000_000, 64) if device.type == "cuda" else (2_000, 4)
    torch.manual_seed(0)
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    vectors = torch.empty(rows, 512, dtype=dtype, device=device)
    for part in vectors.split(500_000):
        part.copy_(
            torch.nn.functional.normalize(torch.randn_like(part, dtype=torch.float32), dim=1)
        )
    query = vectors[:batch].clone()
    found: dict[str, Any] = {"rows": rows, "batch": batch}
    for _ in range(3):
        start = time.perf_counter()
        best = (query @ vectors.T).argmax(1).tolist()  # waits for it
        found["torch_queries_per_s"] = batch / (time.perf_counter() - start)
    found["found"] = best == list(range(batch))
    import faiss

    if not hasattr(faiss, "StandardGpuResources"):
        return found | {"faiss": "this build has no GPU"}
    flat = faiss.GpuIndexFlatIP(faiss.StandardGpuResources(), 512)
    flat.add(vectors[:1_000_000].float().cpu().numpy())
    asked = query.float().cpu().numpy()
    flat.search(asked, 1)
    start = time.perf_counter()
    flat.search(asked, 1)
    return found | {"faiss_flat_queries_per_s_of_a_million": batch / (time.perf_counter() - start)}


if __name__ == "__main__":
    sys.exit(main())
