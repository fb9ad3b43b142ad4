"""The search of a large index beside others, in one run, on the same vectors.

    python benchmarks/index_peers.py --rows 30000
    python benchmarks/index_peers.py --rows 500000

Peers: FAISS's flat index and HNSW; FAISS's own refinement (`IndexRefine`) of our structure by the
same mapped vectors, with and without unmapping them after each query, as ours does; and, where they
are installed (`pip install usearch lancedb`), USearch's HNSW, and LanceDB's IVF-PQ of our lists,
probes, code, candidates and training. A query is one of `index_search.py`: half are held-out
windows, half are noisy copies. Times are processor time, of which other programs take none, and the
median of all queries; all but LanceDB answer on one thread. Peers take turns, round by round.
Recall@1 is against exact answers.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from index_search import TIE, answer, build, exact, flat_index, machine, queries

from anechoic.index import structure
from anechoic.index.plan import SAMPLE_OF_LIST

K = 17  # what a search of the nearest clip takes from the candidates, to score it again
ROUNDS = 3
BATCH = 50_000  # vectors given to LanceDB at once
LINKS, EF_CONSTRUCTION, EF = 32, 100, 256  # of HNSW

Ask = Callable[[np.ndarray], np.ndarray]  # a query [1, d] to the row that is found


@dataclass(frozen=True)
class Peer:
    """One way to search."""

    name: str
    ask: Ask
    build_s: float  # processor time, beyond what all share
    held: int  # bytes that it holds in memory beside mapped files
    disk: int  # bytes of its files


def main() -> int:
    import faiss

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--folder", type=Path, help="as index_search.py's; build/... by default")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--out", type=Path, help="a JSON file")
    options = parser.parse_args()
    faiss.omp_set_num_threads(1)
    folder = options.folder or Path(f"build/index-search-{options.rows}")
    folder.mkdir(parents=True, exist_ok=True)
    plan = structure.plan(options.rows, 512, kind="ivfpq")
    phases = build(folder, options.rows, plan, seed=0)
    query, best = queries(folder), exact(folder, queries(folder))
    query, best = query[: options.queries], best[: options.queries]
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    found = list(
        peers(folder, vectors, plan, sum(p["cpu_s"] for p in phases.values() if "cpu_s" in p))
    )
    times: dict[str, list[float]] = {peer.name: [] for peer in found}
    rows: dict[str, list[int]] = {}
    for _ in range(ROUNDS):
        for peer in found:
            rows[peer.name] = []
            for one in query:
                start = time.process_time_ns()
                row = peer.ask(one[None])
                times[peer.name].append((time.process_time_ns() - start) / 1e6)
                rows[peer.name].append(int(row))
    results = []
    for peer in found:
        scores = np.einsum("nd,nd->n", vectors[rows[peer.name]].astype(np.float32), query)
        results.append({
            "peer": peer.name, "recall": float((scores >= best - TIE).mean()),
            "median_ms": statistics.median(times[peer.name]), "build_s": peer.build_s,
            "held_mib": peer.held / 2**20, "disk_mib": peer.disk / 2**20,
        })  # fmt: skip
    about = {"rows": options.rows, "queries": len(query), "plan": asdict(plan), **machine()}
    print(table(about, results))
    if options.out:
        options.out.write_text(json.dumps({"about": about, "peers": results}, indent=1) + "\n")
    return 0


def peers(folder: Path, vectors: np.ndarray, plan: structure.Plan, built_s: float) -> Any:
    """All ways to search that this machine has."""
    import faiss

    searcher = structure.open_searcher(folder / "index.faiss", plan)
    disk = (folder / "index.faiss").stat().st_size + vectors.nbytes
    yield Peer("anechoic", lambda q: answer(searcher, vectors, q)[1][0, 0], built_s, 0, disk)
    refined = faiss.IndexRefine(searcher._index, mapped(vectors))

    def refine(query: np.ndarray) -> Any:
        return refined.search(query, K, params=parameters(plan))[1][0, 0]

    def unmapped(query: np.ndarray) -> Any:
        row = refine(query)
        structure._advise(vectors, "MADV_DONTNEED")
        return row

    yield Peer("FAISS `IndexRefine`, mapped", refine, built_s, 0, disk)
    yield Peer("FAISS `IndexRefine`, unmapped after each query", unmapped, built_s, 0, disk)
    start = time.process_time()
    flat, size = flat_index(vectors), 4 * vectors.size
    took = time.process_time() - start
    yield Peer("FAISS flat", lambda q: flat.search(q, 1)[1][0, 0], took, size, size)
    start = time.process_time()
    graph = faiss.IndexHNSWFlat(vectors.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction, graph.hnsw.efSearch = EF_CONSTRUCTION, EF
    graph.add(vectors.astype(np.float32))
    held = size + 4 * graph.hnsw.neighbors.size()
    took = time.process_time() - start
    yield Peer(f"FAISS HNSW, ef {EF}", lambda q: graph.search(q, 1)[1][0, 0], took, held, held)
    if importlib.util.find_spec("usearch"):
        yield usearch(vectors)
    if importlib.util.find_spec("lancedb"):
        yield lancedb(folder, vectors, plan)


def usearch(vectors: np.ndarray) -> Peer:
    from usearch.index import Index

    start = time.process_time()
    index = Index(
        ndim=vectors.shape[1], metric="ip", dtype="f16", connectivity=LINKS,
        expansion_add=EF_CONSTRUCTION, expansion_search=EF,
    )  # fmt: skip
    index.add(np.arange(len(vectors)), np.asarray(vectors), threads=1)
    took = time.process_time() - start
    held = index.memory_usage
    name = f"USearch {version('usearch')}, HNSW of float16, ef {EF}"
    return Peer(name, lambda q: index.search(q[0], 1, threads=1).keys[0], took, held, held)


def lancedb(folder: Path, vectors: np.ndarray, plan: structure.Plan) -> Peer:
    """On disk, as ours; its own threads count, since times are of the processor."""
    import lancedb
    import pyarrow as pa
    from lancedb.index import IvfPq

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, len(vectors), BATCH):
            values = pa.array(np.asarray(vectors[start : start + BATCH]).ravel())
            rows = np.arange(start, min(start + BATCH, len(vectors)))
            vector = pa.FixedSizeListArray.from_arrays(values, vectors.shape[1])
            yield pa.record_batch([pa.array(rows), vector], schema=schema)

    start = time.process_time()
    schema = pa.schema([("row", pa.int64()), ("vector", pa.list_(pa.float16(), vectors.shape[1]))])
    place = folder / "lancedb"
    shutil.rmtree(place, ignore_errors=True)  # it would keep an earlier table beside the new one
    table = lancedb.connect(str(place)).create_table("vectors", batches(), schema=schema)
    table.create_index("vector", config=IvfPq(
        distance_type="dot", num_partitions=plan.lists, num_sub_vectors=plan.code_bytes,
        sample_rate=SAMPLE_OF_LIST, max_iterations=structure.CLUSTERING_STEPS,
    ))  # fmt: skip
    took = time.process_time() - start
    refined = -(-plan.candidates // K)

    def ask(query: np.ndarray) -> Any:
        search = table.search(query[0]).distance_type("dot").nprobes(plan.probes)
        found = search.refine_factor(refined).limit(K).select(["row", "_distance"]).to_arrow()
        return found["row"][0].as_py()

    disk = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    name = f"LanceDB {version('lancedb')}, IVF-PQ of the same plan"
    return Peer(name, ask, took, 0, disk)


def mapped(vectors: np.ndarray) -> Any:
    """FAISS's quantizer of float16 over the vectors in their file, without a copy."""
    import faiss

    kind = faiss.ScalarQuantizer.QT_fp16
    stored = faiss.IndexScalarQuantizer(vectors.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
    raw = np.asarray(vectors).view(np.uint8)
    stored.codes = type(stored.codes).create_view(
        faiss.swig_ptr(raw), raw.nbytes, stored.codes.owner
    )
    stored.ntotal = len(vectors)
    return stored


def parameters(plan: structure.Plan) -> Any:
    """What `Searcher` gives FAISS, and the candidates that are refined."""
    import faiss

    graph = faiss.SearchParametersHNSW(efSearch=max(structure.EF_ENCODING, 2 * plan.probes))
    lists = faiss.IVFSearchParameters(nprobe=plan.probes, quantizer_params=graph)
    base = faiss.SearchParametersPreTransform(index_params=lists)
    made = faiss.IndexRefineSearchParameters(k_factor=plan.candidates / K, base_index_params=base)
    made.keeps = (graph, lists, base)  # FAISS does not hold them
    return made


def table(about: dict[str, Any], results: list[dict[str, Any]]) -> str:
    ours = results[0]["median_ms"]
    lines = [
        f"{about['rows']:,} vectors of 512, {about['queries']} queries, FAISS {about['faiss']}",
        "",
        "| search | recall@1 | one query, ms | times ours | build, s | held, MiB | on disk, MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['peer']} | {r['recall']:.3f} | {r['median_ms']:.2f} | {r['median_ms'] / ours:.2f} "
        f"| {r['build_s']:,.0f} | {r['held_mib']:,.0f} | {r['disk_mib']:,.0f} |"
        for r in results
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
