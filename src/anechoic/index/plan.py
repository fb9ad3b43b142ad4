"""Decides how a large index is searched, from its size and memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from anechoic.errors import BadSetting

EXACT_ROWS = 50_000  # up to this many rows, all are compared: 10 ms a 512-d query on one core
MEMORY_BYTES = 2 * 2**30  # default limit for structures that are mapped whole
CODE_BYTES, SHORTEST_CODE = 64, 32  # bytes of a vector's code
ID_BYTES = 8  # FAISS stores the row's number beside its code
PROBES, CANDIDATES = 12, 128  # measured: docs/evidence/index-search.md
SAMPLE_OF_LIST = 40  # training vectors a list; the clustering needs 39
CENTROIDS = 256  # centroids for each byte of a code, so training needs as many vectors


@dataclass(frozen=True)
class Plan:
    """How a set is searched. An exact plan has no structure, so its numbers are 0."""

    kind: Literal["exact", "ivfpq"]
    lists: int = 0
    reduced_dim: int = 0  # principal directions that are clustered and coded
    code_bytes: int = 0  # bytes of a vector's code
    probes: int = 0  # lists that a query scans
    candidates: int = 0  # rows that are scored again, from their stored vectors
    sample: int = 0  # vectors to train with


def plan(rows: int, dim: int, memory_bytes: int | None = None, kind: str = "auto") -> Plan:
    """Decide how to search a set. Change the numbers of the plan with `dataclasses.replace`.

    Up to `EXACT_ROWS` rows, all are compared. Beyond, there are up to 4 sqrt(rows) lists, a power
    of two, and codes of 64 bytes, or fewer (not below 32) if codes and row numbers would not fit
    in the memory. docs/evidence/index-search.md explains how probes and candidates were chosen.

    Args:
        rows: vectors in the set.
        dim: dimension of a vector.
        memory_bytes: memory for the structure; by default 2 GiB, which codes of 32 bytes may
            exceed, since it is mapped from disk. Stored vectors do not count: they stay on disk.
        kind: "exact" or "ivfpq", or "auto" to decide by the rows.

    Raises:
        BadSetting: an unknown kind, too few rows to train with, or no room for the codes.

    >>> plan(1_700, 512).kind
    'exact'
    >>> big = plan(10_000_000, 512)
    >>> big.lists, big.reduced_dim, big.code_bytes
    (8192, 256, 64)
    """
    if kind not in ("auto", "exact", "ivfpq"):
        raise BadSetting(f"expected search 'auto', 'exact' or 'ivfpq', got '{kind}'")
    if rows < 1 or dim < 1:
        raise BadSetting(f"expected vectors to search, got {rows} of {dim} dimensions; add clips")
    if kind == "exact" or (kind == "auto" and rows <= EXACT_ROWS):
        return Plan("exact")
    if rows < CENTROIDS:
        raise BadSetting(
            f"{rows} vectors cannot train a search 'ivfpq', which needs {CENTROIDS}; use 'exact'"
        )
    lists = 2 ** int(math.log2(4 * math.sqrt(rows)))
    while lists * SAMPLE_OF_LIST > rows and lists > 1:
        lists //= 2
    code_bytes = _code_bytes(rows, dim, memory_bytes)
    return Plan(
        "ivfpq",
        lists,
        min(dim // code_bytes, 4) * code_bytes,
        code_bytes,
        min(PROBES, lists),
        min(CANDIDATES, rows),
        min(rows, max(lists, CENTROIDS) * SAMPLE_OF_LIST),
    )


def _code_bytes(rows: int, dim: int, memory_bytes: int | None) -> int:
    longest = min(CODE_BYTES, max(1, dim // 2))
    shortest = min(SHORTEST_CODE, longest)
    fit = (memory_bytes or MEMORY_BYTES) // rows - ID_BYTES
    if memory_bytes is not None and fit < shortest:
        needed = rows * (shortest + ID_BYTES)
        raise BadSetting(
            f"a search of {rows} vectors needs {needed} bytes, got {memory_bytes}; allow more: it "
            "is mapped from disk"
        )
    return max(shortest, min(longest, fit // 8 * 8))
