"""Search a large synthetic index, and FAISS's flat index beside it.

    python benchmarks/index_search.py --rows 500000
    python benchmarks/index_search.py --rows 10000000 --folder /data/ten-million

Makes the vectors (`synthetic.py`), builds the search with `anechoic.index.structure`, and measures
it: recall against exact answers, the time of one query on one thread with the stored vectors that
it is scored by, the queries a second on all cores, and what is resident in a process that opened
the index and answered 1,000 queries. What is in the folder is not made again. Prints the table,
writes it as results.md and results.json, and exits with 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import synthetic

from anechoic.index import structure

PART = 500_000  # vectors encoded as one file
QUERIES = 1_000  # of each sort, and in the fresh process that is timed
FLAT_ROWS = 2_000_000  # more are not put into a flat index: they would not fit in memory
FLAT_QUERIES = 200  # that the flat index is timed with
TIE = 1e-6  # a copy of the nearest row is as near


@dataclass(frozen=True)
class Target:
    """What is to be reached: `value` at most, or at least where `least` is set."""

    name: str
    measured: float
    value: float
    unit: str
    least: bool = False

    @property
    def met(self) -> bool:
        return self.measured >= self.value if self.least else self.measured <= self.value


def main() -> int:
    options = _options()
    if options.measure:
        print(json.dumps(measure(options.folder, options.measure, options.queries)))
        return 0
    folder = options.folder or Path(f"build/index-search-{options.rows}")
    plan = structure.plan(options.rows, synthetic.DIM, kind="ivfpq")
    changed = {name: value for name in OVERRIDES if (value := getattr(options, name)) is not None}
    plan = replace(plan, **changed)
    folder.mkdir(parents=True, exist_ok=True)
    phases = build(folder, options.rows, plan, options.seed)
    results = search(folder, options.rows, plan)
    results = {"machine": machine(), "seed": options.seed, "phases": phases, **results}
    targets = targets_of(results)
    results["targets"] = [asdict(target) | {"met": target.met} for target in targets]
    text = table(results, targets)
    (folder / "results.json").write_text(json.dumps(results, indent=1))
    (folder / "results.md").write_text(text)
    print(text)
    return 0 if all(target.met for target in targets) else 1


OVERRIDES = [field.name for field in fields(structure.Plan) if field.name != "kind"]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--folder", type=Path, help="where everything goes; build/... by default")
    parser.add_argument("--seed", type=int, default=0)
    for name in OVERRIDES:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help="instead of the plan's")
    parser.add_argument("--measure", choices=["ivfpq", "cold", "flat"], help=argparse.SUPPRESS)
    parser.add_argument("--queries", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


# --------------------------------------------------------------------------- to build it


def build(folder: Path, rows: int, plan: structure.Plan, seed: int) -> dict[str, Any]:
    """Make what is not there yet; gives what each phase took when it was done."""
    note = folder / "phases.json"
    phases = json.loads(note.read_text()) if note.exists() else {}
    of_data = {"rows": rows, "seed": seed}
    built = asdict(replace(plan, probes=0, candidates=0))  # those are the search's
    if phases.get("data") != of_data:
        for done in synthetic.write(folder, rows, QUERIES, seed):
            _tell("vectors", done, rows)
        phases = {"data": of_data}
        note.write_text(json.dumps(phases))
    if phases.get("plan") != built:
        vectors = np.load(folder / "vectors.npy", mmap_mode="r")
        with _phase(phases, "train"):
            picked = np.unique(np.linspace(0, rows - 1, plan.sample).round().astype(np.int64))
            trained = structure.train(vectors[picked].astype(np.float32), plan, seed)
        (folder / "trained.bin").write_bytes(trained)
        with _phase(phases, "encode"):
            parts = list(_encode(folder, vectors, trained))
        with _phase(phases, "assemble"):
            codes = (np.load(part, mmap_mode="r") for part in parts)
            structure.assemble(trained, codes, folder / "index.faiss")
        phases["plan"] = built
        note.write_text(json.dumps(phases))
    return phases


def _encode(folder: Path, vectors: np.ndarray, trained: bytes) -> Iterator[Path]:
    for start in range(0, len(vectors), PART):
        part = folder / f"codes-{start // PART:05d}.npy"
        np.save(part, structure.encode(trained, vectors[start : start + PART]))
        _tell("encode", min(start + PART, len(vectors)), len(vectors))
        yield part


@contextmanager
def _phase(phases: dict[str, Any], name: str) -> Iterator[None]:
    """Note the seconds by the clock and on the processors."""
    clock, cpu = time.perf_counter(), time.process_time()
    yield
    phases[name] = {"s": time.perf_counter() - clock, "cpu_s": time.process_time() - cpu}
    print(f"{name}: {phases[name]['s']:.0f} s", file=sys.stderr, flush=True)


def _tell(what: str, done: int, total: int) -> None:
    print(f"{what}: {done:,} of {total:,}", file=sys.stderr, flush=True)


# ------------------------------------------------------------------------ to measure it


def search(folder: Path, rows: int, plan: structure.Plan) -> dict[str, Any]:
    """Recall, times and memory of the built index."""
    (folder / "plan.json").write_text(json.dumps(asdict(plan)))
    query = queries(folder)
    best = exact(folder, query)
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    searcher = structure.open_searcher(folder / "index.faiss", plan)
    answer(searcher, vectors, query[:50])
    start = time.perf_counter()
    scores, _ = answer(searcher, vectors, query)
    per_second = len(query) / (time.perf_counter() - start)
    found = scores[:, 0] >= best - TIE
    results: dict[str, Any] = {
        "rows": rows,
        "plan": asdict(plan),
        "recall": {
            "together": float(found.mean()),
            "held-out windows": float(found[::2].mean()),
            "noisy copies": float(found[1::2].mean()),
        },
        "batch_queries_per_s": per_second,
        "index_bytes": (folder / "index.faiss").stat().st_size,
        "vectors_bytes": (folder / "vectors.npy").stat().st_size,
        "cold": _measured(folder, "cold", QUERIES // 10),
        "alone": _measured(folder, "ivfpq", QUERIES),
    }
    if rows <= FLAT_ROWS:
        results["flat"] = _measured(folder, "flat", FLAT_QUERIES)
    return results


def queries(folder: Path) -> np.ndarray:
    """Both sorts in turn: held-out windows at even places, noisy copies at odd ones."""
    both = [np.load(folder / f"{name}.npy") for name in ("held_out", "noisy")]
    return np.stack(both, axis=1).reshape(-1, synthetic.DIM)


def exact(folder: Path, query: np.ndarray) -> np.ndarray:
    """The score of each query's nearest row, by comparing all of them, [b]."""
    kept = folder / "exact.npy"
    if kept.exists() and kept.stat().st_mtime > (folder / "vectors.npy").stat().st_mtime:
        return np.load(kept)
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    if len(vectors) <= FLAT_ROWS:
        best = flat_index(vectors).search(query, 1)[0][:, 0]
    else:
        best = np.full(len(query), -np.inf, np.float32)
        for start in range(0, len(vectors), PART // 10):
            part = vectors[start : start + PART // 10].astype(np.float32)
            best = np.maximum(best, (query @ part.T).max(1))
            _tell("exact answers", start + len(part), len(vectors))
    np.save(kept, best)
    return best


def flat_index(vectors: np.ndarray) -> Any:
    import faiss

    flat = faiss.IndexFlatIP(synthetic.DIM)
    for start in range(0, len(vectors), PART // 10):
        flat.add(vectors[start : start + PART // 10].astype(np.float32))
    return flat


def answer(
    searcher: structure.Searcher, vectors: np.ndarray, query: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What `TrainingIndex.search` does with k = 1."""
    rows = searcher.candidates(query, searcher.plan.candidates)
    return structure.rerank(vectors, query, rows, 1)


def _measured(folder: Path, what: str, count: int) -> dict[str, Any]:
    """`measure` in a process of its own, with one thread."""
    command = [sys.executable, __file__, "--measure", what, "--folder", str(folder)]
    run = subprocess.run(
        [*command, "--queries", str(count)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(run.stdout)


def measure(folder: Path, what: str, count: int) -> dict[str, Any]:
    """Open the index, answer queries one by one; the times, and what is resident afterwards."""
    import faiss

    faiss.omp_set_num_threads(1)
    query = queries(folder)[:count].copy()
    _forget(folder, and_read=what == "ivfpq")
    before = resident()
    start = time.perf_counter()
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    if what == "flat":
        flat = flat_index(vectors)
        del vectors
    else:
        plan = structure.Plan(**json.loads((folder / "plan.json").read_text()))
        searcher = structure.open_searcher(folder / "index.faiss", plan)
    opened = time.perf_counter() - start
    times, waits = [], resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    for one in query:
        start = time.perf_counter()
        flat.search(one[None], 1) if what == "flat" else answer(searcher, vectors, one[None])
        times.append(time.perf_counter() - start)
    return {
        "queries": count,
        "open_s": opened,
        "median_ms": 1e3 * float(np.median(times)),
        "p95_ms": 1e3 * float(np.quantile(times, 0.95)),
        "times_others_took_the_core": resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - waits,
        "resident_before_bytes": before,
        "resident_bytes": resident(),
    }


def _forget(folder: Path, and_read: bool) -> None:
    """Have the system forget the files, and know them again if they are to be in its cache."""
    for name in ("index.faiss", "vectors.npy"):
        with (folder / name).open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while and_read and file.read(2**18):
                pass


def resident() -> dict[str, int]:
    """Bytes of this process in memory: its own, and of mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    values = {line.split()[0]: 1024 * int(line.split()[1]) for line in lines if "kB" in line}
    return {"anonymous": values["RssAnon:"], "file": values["RssFile:"]}


# -------------------------------------------------------------------------- to report it


def targets_of(results: dict[str, Any]) -> list[Target]:
    alone, recall = results["alone"], results["recall"]["together"]
    memory = sum(alone["resident_bytes"].values()) / 2**20
    if "flat" not in results:
        return [
            Target("recall@1 against exact", recall, 0.99, "", least=True),
            Target("one query, 1 thread, median", alone["median_ms"], 1.0, " ms"),
            Target("resident", memory, 2048, " MiB"),
        ]
    flat = results["flat"]
    flat_memory = sum(flat["resident_bytes"].values()) / 2**20
    return [
        Target("recall@1 against exact", recall, 0.99, "", least=True),
        Target("one query, 1 thread, median", alone["median_ms"], flat["median_ms"] / 100, " ms"),
        Target("resident", memory, flat_memory / 4, " MiB"),
    ]


def table(results: dict[str, Any], targets: list[Target]) -> str:
    lines = [
        f"{results['rows']:,} vectors, {synthetic.DIM}-d, seed {results['seed']}; "
        + ", ".join(f"{name} {value}" for name, value in results["plan"].items()),
        "",
        "| measure | target | measured | |",
        "|---|---|---|---|",
    ]
    for target in targets:
        sign, verdict = ("≥" if target.least else "≤"), ("met" if target.met else "**missed**")
        digits = ".3f" if target.unit in ("", " ms") else ",.0f"
        lines.append(
            f"| {target.name} | {sign} {target.value:{digits}}{target.unit} "
            f"| {target.measured:{digits}}{target.unit} | {verdict} |"
        )
    lines += [f"| {name} | | {value} | |" for name, value in _others(results)]
    return "\n".join(lines) + "\n"


def _others(results: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in list(results["recall"].items())[1:]:
        yield f"recall@1, {name}", f"{value:.3f}"
    for name, title in (("alone", "one query"), ("cold", "one query, nothing in memory")):
        run = results[name]
        yield f"{title}, median; 95th percentile", f"{run['median_ms']:.2f}; {run['p95_ms']:.2f} ms"
    if flat := results.get("flat"):
        yield (
            "flat index: median; 95th percentile; resident",
            f"{flat['median_ms']:.1f}; {flat['p95_ms']:.1f} ms; "
            f"{sum(flat['resident_bytes'].values()) / 2**20:,.0f} MiB",
        )
    memory = results["alone"]["resident_bytes"]
    before = sum(results["alone"]["resident_before_bytes"].values())
    yield (
        "resident: own; of files; before it was opened",
        f"{memory['anonymous'] / 2**20:,.0f}; {memory['file'] / 2**20:,.0f}; "
        f"{before / 2**20:,.0f} MiB",
    )
    yield (
        f"batch, {results['machine']['cores']} cores",
        f"{results['batch_queries_per_s']:,.0f} queries/s",
    )
    yield "opening", f"{results['alone']['open_s']:.2f} s"
    yield "structure on disk", f"{results['index_bytes'] / 2**20:,.0f} MiB"
    yield "vectors on disk", f"{results['vectors_bytes'] / 2**20:,.0f} MiB"
    for name in ("train", "encode", "assemble"):
        phase = results["phases"][name]
        yield f"to make: {name}", f"{phase['s']:,.0f} s ({phase['cpu_s']:,.0f} s of processor)"


def machine() -> dict[str, Any]:
    import faiss

    versions = {"python": platform.python_version(), "numpy": np.__version__}
    cores = len(os.sched_getaffinity(0))
    return {"processor": platform.machine(), "cores": cores, "faiss": faiss.__version__, **versions}


if __name__ == "__main__":
    sys.exit(main())
