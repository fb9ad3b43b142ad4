"""What the numbers of a search plan buy: the table that decided them.

    python benchmarks/index_sweep.py --rows 500000 --codes 32 48 64 --hnsw
    python benchmarks/index_sweep.py --rows 500000 --codes --bytes

Over the vectors that `index_search.py` made: recall@1 of held-out windows, and the processor time
of one query, for probes and candidates side by side. `--hnsw` adds FAISS's graph over the
vectors, which keeps all of them in memory. `--bytes` tells what vectors stored as bytes would find,
in half the disk, and how far their scores would be off.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import index_search
import numpy as np
import synthetic

from anechoic.index import structure

PROBES, CANDIDATES = (4, 8, 12, 16, 32), (32, 64, 128, 256)
LINKS, EF_CONSTRUCTION = 32, 100
EF_SEARCH = (64, 256, 1024)
TIMED = 300  # queries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--codes", type=int, nargs="*", default=[64], help="bytes of a code")
    parser.add_argument("--hnsw", action="store_true")
    parser.add_argument("--bytes", action="store_true")
    options = parser.parse_args()
    folder = options.folder or Path(f"build/index-search-{options.rows}")
    query = index_search.queries(folder)[::2].copy()
    best = index_search.exact(folder, index_search.queries(folder))[::2]
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    print("| search | held-out recall@1 | one query, ms |\n|---|---|---|")
    for code_bytes in options.codes:
        plan = structure.plan(options.rows, synthetic.DIM, kind="ivfpq")
        plan = replace(plan, code_bytes=code_bytes, reduced_dim=4 * code_bytes)
        made = folder if code_bytes == 64 else _beside(folder, f"codes-of-{code_bytes}")
        index_search.build(made, options.rows, plan, seed=0)
        for name, ask in _ivfpq(made / "index.faiss", plan, vectors):
            _line(f"{code_bytes} bytes, {name}", ask, query, best)
    if options.hnsw:
        for name, ask in _hnsw(vectors):
            _line(name, ask, query, best)
    if options.bytes:
        plan = structure.plan(options.rows, synthetic.DIM, kind="ivfpq")
        _as_bytes(structure.open_searcher(folder / "index.faiss", plan), vectors, query, best)


def _beside(folder: Path, name: str) -> Path:
    """A folder for another structure over the same vectors."""
    made = folder / name
    made.mkdir(exist_ok=True)
    for file in ("vectors.npy", "held_out.npy", "noisy.npy"):
        if not (made / file).exists():
            (made / file).symlink_to((folder / file).resolve())
    (made / "phases.json").write_bytes((folder / "phases.json").read_bytes())
    return made


Ask = Callable[[np.ndarray], np.ndarray]  # queries [b, d] to the scores of what was found, [b]


def _ivfpq(path: Path, plan: structure.Plan, vectors: np.ndarray) -> Iterator[tuple[str, Ask]]:
    pairs = [(probes, plan.candidates) for probes in PROBES]
    pairs += [(plan.probes, candidates) for candidates in CANDIDATES]
    for probes, candidates in sorted(set(pairs)):
        tried = replace(plan, probes=probes, candidates=candidates)
        searcher = structure.open_searcher(path, tried)
        yield (
            f"{probes} probes, {candidates} candidates",
            lambda query, searcher=searcher: index_search.answer(searcher, vectors, query)[0][:, 0],
        )


def _as_bytes(
    searcher: structure.Searcher, vectors: np.ndarray, query: np.ndarray, best: np.ndarray
) -> None:
    """Candidates scored by vectors of 8 bits a number, and of one scale for each vector."""
    found, errors = [], []
    for one, highest in zip(query, best, strict=True):
        stored = vectors[searcher.candidates(one[None], searcher.plan.candidates)[0]]
        stored = stored.astype(np.float32)
        step = np.abs(stored).max(1, keepdims=True) / 127
        exact, rounded = stored @ one, ((stored / step).round() * step) @ one
        found.append(exact[rounded.argmax()] >= highest - index_search.TIE)
        errors.append(np.abs(exact - rounded))
    middle, most = np.quantile(errors, [0.5, 1])
    print(
        f"as bytes: recall@1 {np.mean(found):.3f}; scores off by {middle:.1e} (median), "
        f"{most:.1e} at most"
    )


def _hnsw(vectors: np.ndarray) -> Iterator[tuple[str, Ask]]:
    import faiss

    graph = faiss.IndexHNSWFlat(synthetic.DIM, LINKS, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = EF_CONSTRUCTION
    before = index_search.resident()["anonymous"]
    start = time.process_time()
    for first in range(0, len(vectors), index_search.PART // 10):
        graph.add(vectors[first : first + index_search.PART // 10].astype(np.float32))
    took = time.process_time() - start
    size = index_search.resident()["anonymous"] - before
    print(f"HNSW of {LINKS} links: {took:,.0f} s of processor to build, {size / 2**20:,.0f} MiB")
    for ef in EF_SEARCH:

        def ask(query: np.ndarray, ef: int = ef) -> np.ndarray:
            graph.hnsw.efSearch = ef
            return graph.search(query, 1)[0][:, 0]

        yield f"HNSW, ef {ef}", ask


def _line(name: str, ask: Ask, query: np.ndarray, best: np.ndarray) -> None:
    found = ask(query) >= best - index_search.TIE
    times = []
    for one in query[:TIMED]:
        start = time.process_time()
        ask(one[None])
        times.append(time.process_time() - start)
    print(f"| {name} | {found.mean():.3f} | {1e3 * np.median(times):.2f} |", flush=True)


if __name__ == "__main__":
    main()
