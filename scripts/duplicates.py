"""Pairs of places that share six lines or more, by pylint's duplicate-code; exit 1 past a limit.

    python scripts/duplicates.py [LIMIT]

Imports, comments and docstrings do not count. Pylint would need minutes to leave out the imports,
as it infers every type for that; so they are blank before it reads a file.
"""

from __future__ import annotations

import ast
import io
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from pylint.checkers import symilar

ROOT = Path(__file__).parents[1]
FOLDERS = (
    "src",
    "lab",
    "cluster",
    "comfyui",
    "studio",
    "tests",
    "benchmarks",
    "examples",
    "scripts",
)
LINES = 6


def without_imports(source: str) -> str:
    """The source with blank lines for its imports."""
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for at in range(node.lineno - 1, node.end_lineno or node.lineno):
                lines[at] = "\n"
    return "".join(lines)


def pairs() -> Iterator[str]:
    """Where each pair is."""
    symilar.hash_lineset = cache(symilar.hash_lineset)  # it would do so for each pair of files
    more_than = LINES - 1  # which is how pylint reads its limit
    files = symilar.Symilar(more_than, ignore_comments=True, ignore_docstrings=True)
    for folder in FOLDERS:
        for file in sorted((ROOT / folder).rglob("*.py")):
            files.append_stream(
                str(file.relative_to(ROOT)), io.StringIO(without_imports(file.read_text()))
            )
    for _, places in files._compute_sims():
        where = sorted(f"{lines.name}:{start + 1}-{end}" for lines, start, end in places)
        yield " ~ ".join(where)


def main() -> None:
    limit = int(sys.argv[1]) if sys.argv[1:] else 0
    found = sorted(pairs())
    print(*found, f"{len(found)} pairs of places share {LINES} lines or more", sep="\n")
    if len(found) > limit:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
