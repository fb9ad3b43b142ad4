"""Nearest neighbours in a large set: an inverted file of quantized vectors, searched from disk.

A search scans a FAISS IVF-PQ structure: a projection onto the principal directions, lists around
the centroids of a clustering, and for each vector a short code of its offset from its centroid. It
returns candidates, which are scored by their stored vectors (`rerank`). The structure is trained
once, vectors are encoded in any number of parts, on any number of machines, and the codes are
assembled. Rows are numbered in the order of the codes.

Source: Jégou et al., 2011 (product quantization, doi:10.1109/TPAMI.2010.57); Douze et al., 2024
(FAISS, arXiv:2401.08281).
"""

from __future__ import annotations

import hashlib
import math
import mmap
import os
import struct
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anechoic.errors import BadSetting, CannotWrite, IndexMismatch
from anechoic.index.plan import CENTROIDS, ID_BYTES, Plan, plan
from anechoic.processes import threads_each
from anechoic.storage import whole_file

__all__ = [
    "Plan",
    "Searcher",
    "assemble",
    "encode",
    "open_searcher",
    "plan",
    "rerank",
    "take",
    "train",
]

CLUSTERING_STEPS = 10
PRUNED_DIM = 32  # from this dimension on, FAISS clusters by SuperKMeans, in a third of the time
NEIGHBOURS, EF_CONSTRUCTION = 32, 200  # settings of the graph over the lists' centroids
EF_ENCODING = 64  # centroids that are compared to find a vector's list
BLOCK = 65_536  # vectors encoded at once, and those that give the principal directions
GATHER_BYTES = 32 * 2**20  # bytes of stored vectors that each thread scores at once
END = struct.Struct("<8sQ32s")  # after FAISS's bytes: a mark, the start of the lists, a hash
MARK = b"anechoic"
MAPS = os.name != "nt"  # FAISS maps no lists on Windows: there they are read into memory
ROUNDED = 0.01  # rounding to float16 changes squared norms by less


def train(sample: np.ndarray, plan: Plan, seed: int = 0) -> bytes:
    """Train an empty structure: the same bytes for the same sample, plan, seed and threads.

    Args:
        sample: vectors spread evenly over the set, [s, d] float32; `plan.sample` are enough.
        plan: a plan of kind "ivfpq".
        seed: seed of the clustering.

    Raises:
        BadSetting: an exact plan, too few vectors, or a plan whose numbers do not match.
        IndexMismatch: a vector that is NaN or infinite.
    """
    faiss = _faiss()

    _require_trainable(sample, plan)
    sample = np.ascontiguousarray(sample, np.float32)
    # the random rotation spreads the variance over the bytes of the code
    projection = faiss.PCAMatrix(sample.shape[1], plan.reduced_dim, 0, True)
    projection.train(sample[:: math.ceil(len(sample) / BLOCK)])
    reduced = projection.apply(sample)
    graph = faiss.IndexHNSWFlat(plan.reduced_dim, NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction, graph.hnsw.efSearch = EF_CONSTRUCTION, EF_ENCODING
    with _one_thread():  # several would link the graph in any order
        graph.add(_cluster(reduced, plan.lists, seed))
    lists = faiss.IndexIVFPQ(
        graph, plan.reduced_dim, plan.lists, plan.code_bytes, 8, faiss.METRIC_INNER_PRODUCT
    )
    lists.pq.cp.seed, lists.pq.cp.min_points_per_centroid = seed + 1, 1
    lists.train(reduced)
    return bytes(faiss.serialize_index(faiss.IndexPreTransform(projection, lists)))


def _require_trainable(sample: np.ndarray, plan: Plan) -> None:
    if plan.kind != "ivfpq":
        raise BadSetting(f"a search '{plan.kind}' has no structure to train")
    if sample.ndim != 2 or not 1 <= plan.reduced_dim <= sample.shape[1]:
        raise BadSetting(
            f"expected vectors [s, d] to train a plan for {plan.reduced_dim} directions, got "
            f"{list(sample.shape)}"
        )
    if plan.lists < 1 or plan.code_bytes < 1 or plan.reduced_dim % plan.code_bytes:
        raise BadSetting(
            f"expected code bytes that divide the {plan.reduced_dim} directions, got "
            f"{plan.code_bytes} in {plan.lists} lists"
        )
    if len(sample) < (needed := max(plan.lists, CENTROIDS)):
        raise BadSetting(f"{len(sample)} vectors are too few to train with; give {needed} or more")
    if not np.isfinite(sample).all():
        raise IndexMismatch("a vector to train with is NaN or infinite; rebuild the index")


def _cluster(vectors: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Unit centroids [count, d] of vectors [n, d], by cosine."""
    faiss = _faiss()

    dim = vectors.shape[1]
    narrow = dim < PRUNED_DIM
    settings = faiss.ClusteringParameters() if narrow else faiss.SuperKMeansParameters()
    settings.niter, settings.seed, settings.spherical = CLUSTERING_STEPS, seed, True
    settings.min_points_per_centroid = 1
    settings.max_points_per_centroid = len(vectors)  # FAISS would drop vectors past 256 a centroid
    if narrow:
        clustering = faiss.Clustering(dim, count, settings)
        clustering.train(vectors, faiss.IndexFlatIP(dim))
    else:
        clustering = faiss.SuperKMeans(dim, count, settings)
        clustering.train(vectors)
    return np.reshape(faiss.vector_to_array(clustering.centroids), (count, -1))


def _faiss() -> Any:
    """FAISS without its type stubs, which are incomplete."""
    import faiss

    return faiss


@contextmanager
def _one_thread() -> Iterator[None]:
    faiss = _faiss()

    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


def encode(trained: bytes, vectors: np.ndarray) -> np.ndarray:
    """The codes of vectors: the list, and the offset from its centroid.

    Args:
        trained: the output of `train`.
        vectors: [n, d] float32 or float16.

    Returns:
        [n, c] uint8.

    Raises:
        IndexMismatch: vectors of another dimension, NaN or infinite, or a damaged structure.
    """
    index = _trained(trained)
    if vectors.ndim != 2 or vectors.shape[1] != index.d:
        raise IndexMismatch(
            f"expected vectors [n, {index.d}] for this trained search, got {list(vectors.shape)}; "
            "train it anew"
        )
    codes = np.empty((len(vectors), index.sa_code_size()), np.uint8)
    for start in range(0, len(vectors), BLOCK):
        block = np.ascontiguousarray(vectors[start : start + BLOCK], np.float32)
        if not np.isfinite(block).all():
            raise IndexMismatch("a vector to encode is NaN or infinite; rebuild the index")
        codes[start : start + BLOCK] = index.sa_encode(block)
    return codes


def _trained(trained: bytes) -> Any:
    faiss = _faiss()

    try:
        return faiss.deserialize_index(np.frombuffer(trained, np.uint8))
    except RuntimeError as error:
        raise IndexMismatch("the trained search structure is damaged; train it anew") from error


def assemble(trained: bytes, codes: Iterable[np.ndarray], path: Path) -> None:
    """Write the structure with all its codes to `path`, whole or not at all.

    The codes are in memory until they are written: code and 8 bytes a row, and for a while up to
    twice that.

    Args:
        trained: the output of `train`.
        codes: arrays [n, c], in the order of the rows.
        path: the file to write.

    Raises:
        CannotWrite: the disk is full, or the folder is read-only or does not exist.
        IndexMismatch: codes of another structure, or none.
    """
    faiss = _faiss()

    whole = _trained(trained)
    lists = faiss.extract_index_ivf(whole)
    for part in codes:
        if part.ndim != 2 or part.dtype != np.uint8 or part.shape[1] != whole.sa_code_size():
            raise IndexMismatch(
                f"expected codes uint8 [n, {whole.sa_code_size()}] for this search structure, got "
                f"{part.dtype} {list(part.shape)}; encode them with it"
            )
        try:
            lists.add_sa_codes(np.ascontiguousarray(part))
        except RuntimeError as error:
            raise IndexMismatch("codes are damaged; encode them again") from error
    if lists.ntotal == 0:
        raise IndexMismatch("expected codes for a search, got none; encode vectors first")
    whole.ntotal = lists.ntotal  # the wrapper does not count new codes
    try:
        with whole_file(path, alone=True) as file:
            faiss.write_index(whole, str(file))
            _finish(file, lists.ntotal * (lists.code_size + ID_BYTES))
    except (OSError, RuntimeError) as error:
        raise CannotWrite(f"'{path}' cannot be written ({error}); make room for it") from error


def _finish(file: Path, lists_bytes: int) -> None:
    """Append a hash that shows later whether the file is whole."""
    start = file.stat().st_size - lists_bytes
    with file.open("r+b") as out:
        digest = hashlib.sha256(out.read(start)).digest()
        out.seek(0, os.SEEK_END)
        out.write(END.pack(MARK, start, digest))


def open_searcher(path: Path, plan: Plan) -> Searcher:
    """Map a structure into memory.

    Raises:
        BadSetting: an exact plan, or no probes.
        IndexMismatch: the file does not exist, was cut off or changed, or has another plan.
    """
    if plan.kind != "ivfpq" or plan.probes < 1:
        raise BadSetting(f"a search '{plan.kind}' of {plan.probes} probes opens no structure")
    path = Path(path)
    start = _require_whole(path)
    faiss = _faiss()

    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP if MAPS else 0)
        lists = faiss.extract_index_ivf(index)
        stored = faiss.downcast_InvertedLists(lists.invlists)
        end = start + lists.ntotal * (lists.code_size + ID_BYTES)
        held = stored.compute_ntotal()
    except (RuntimeError, AttributeError) as error:
        raise _damaged(path, "is not a search structure") from error
    if end != path.stat().st_size - END.size or held != lists.ntotal:
        raise _damaged(path, "was cut off or changed")
    planned, found = (plan.lists, plan.code_bytes), (lists.nlist, lists.code_size)
    if planned != found:
        raise _damaged(path, f"has (lists, code bytes) {found}, but the plan has {planned}")
    stored.prefetch_nthread = 0  # FAISS would start threads for each query, to read ahead
    return Searcher(index, plan, str(path))


def _require_whole(path: Path) -> int:
    """Where the lists start, after a check that all other bytes are undamaged."""
    try:
        with path.open("rb") as file:
            file.seek(-END.size, os.SEEK_END)
            mark, start, digest = END.unpack(file.read())
            whole = mark == MARK and start <= file.tell()
            file.seek(0)
            if not whole or hashlib.sha256(file.read(start)).digest() != digest:
                raise _damaged(path, "was cut off or changed")
            return int(start)
    except FileNotFoundError as error:
        raise _damaged(path, "does not exist") from error
    except OSError as error:  # it is shorter than the appended hash, or cannot be read
        raise _damaged(path, "was cut off, or cannot be read") from error


def _damaged(path: Path, what: str) -> IndexMismatch:
    return IndexMismatch(
        f"the search structure '{path}' {what}; make it again with 'anechoic index optimise'"
    )


class Searcher:
    """An open structure, which any number of threads may search at once."""

    def __init__(self, index: Any, plan: Plan, name: str):
        self.plan = plan
        self.name = name
        self.dim: int = index.d
        self._index = index

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def candidates(self, query: np.ndarray, count: int) -> np.ndarray:
        """Rows that are probably the nearest, best first by their codes.

        One query runs on one thread, several on all cores. A query whose lists hold too few rows
        scans more lists, and finally all.

        Args:
            query: [b, d] float32.
            count: rows for each query.

        Returns:
            [b, count] int64.

        Raises:
            BadSetting: more rows than there are, or none.
            IndexMismatch: queries of another dimension, or a damaged structure.
        """
        if not 1 <= count <= len(self):
            raise BadSetting(f"{count} candidates of {len(self)} rows; ask for 1 to {len(self)}")
        if query.ndim != 2 or query.shape[1] != self.dim:
            raise IndexMismatch(
                f"expected queries [b, {self.dim}] for the search structure '{self.name}', got "
                f"{list(query.shape)}"
            )
        query = np.ascontiguousarray(query, np.float32)
        probes = self.plan.probes
        rows = self._search(query, count, probes)
        while (short := rows[:, -1] < 0).any():  # FAISS fills up with -1
            if probes >= self.plan.lists:
                raise _damaged(Path(self.name), "has lost rows")
            probes = min(2 * probes, self.plan.lists)
            rows[short] = self._search(query[short], count, probes)
        if rows.min(initial=0) < 0 or rows.max(initial=0) >= len(self):
            raise _damaged(Path(self.name), "names rows that do not exist")
        return rows

    def _search(self, query: np.ndarray, count: int, probes: int) -> np.ndarray:
        faiss = _faiss()

        graph = faiss.SearchParametersHNSW(efSearch=max(EF_ENCODING, 2 * probes))
        lists = faiss.IVFSearchParameters(nprobe=probes, quantizer_params=graph)
        parameters = faiss.SearchParametersPreTransform(index_params=lists)
        return np.asarray(self._index.search(query, count, params=parameters)[1])


def rerank(
    vectors: np.ndarray, query: np.ndarray, rows: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of some candidates, by the inner product with their stored vectors.

        s_j = <query, vectors_j>

    Several queries are scored on all cores.

    Args:
        vectors: the vectors of all rows, unit norm, [n, d] float32 or float16; may be
            memory-mapped.
        query: [b, d] float32.
        rows: distinct candidates for each query, [b, c].
        k: how many to return, at most c.

    Returns:
        Scores [b, k] float32, highest first, ties in the order of the rows; rows [b, k].

    Raises:
        IndexMismatch: a candidate that is NaN or not of unit norm.

    >>> rerank(np.eye(3, dtype=np.float16), np.array([[0.6, 0.8, 0.0]]), np.array([[2, 1, 0]]), 2)
    (array([[0.8, 0.6]], dtype=float32), array([[1, 0]]))
    """
    query = np.asarray(query, np.float32)
    rows = np.sort(rows, axis=1)  # reads the file forwards, and orders ties
    scores = np.empty(rows.shape, np.float32)
    step = max(1, GATHER_BYTES // (rows.shape[1] * vectors.shape[1] * 4 + 1))

    def score(start: int) -> None:
        part = slice(start, start + step)
        np.matmul(take(vectors, rows[part]), query[part, :, None], out=scores[part, :, None])

    starts = range(0, len(rows), step)
    if len(starts) > 1:
        with ThreadPoolExecutor(threads_each()) as pool:
            list(pool.map(score, starts))
    elif starts:
        score(0)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)


def take(vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Stored vectors of some rows, [*rows.shape, d] float32.

    Pages of a memory-mapped file are unmapped afterwards, so that the process does not grow with
    the number of queries; they stay in the system's cache.

    Raises:
        IndexMismatch: one is NaN or not of unit norm, so its score would mean nothing.
    """
    _advise(vectors, "MADV_RANDOM")  # reading ahead would read ten times as much
    # from float16, torch is several times as fast as NumPy
    found = torch.from_numpy(np.asarray(vectors[rows])).float().numpy()
    _advise(vectors, "MADV_DONTNEED", "MADV_NORMAL")
    norms = np.einsum("...d,...d->...", found, found)  # squared
    if not (abs(norms - 1) < ROUNDED).all():  # NaN is not below it
        raise IndexMismatch(
            "a stored vector is NaN or not of unit norm, so the search of the index is damaged; "
            "make it again with 'anechoic index optimise'"
        )
    return found


def _advise(vectors: np.ndarray, *advice: str) -> None:
    """Advise the system on how a mapped file is read, if it is one and the system supports it."""
    owner: Any = vectors
    while isinstance(owner, np.ndarray):
        owner = owner.base
    # a writeable mapping may have changes that are not in the file
    if isinstance(owner, mmap.mmap) and not vectors.flags.writeable and hasattr(owner, "madvise"):
        for name in advice:
            owner.madvise(getattr(mmap, name))
