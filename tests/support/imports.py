"""What a source file imports, and whether it may."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path


def imports(path: Path) -> Iterator[list[str]]:
    """Every name that a file imports, in full: anechoic, errors, BadAudio."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield from (f"{node.module}.{alias.name}".split(".") for alias in node.names)


def forbidden(
    path: Path,
    src: Path,
    may_import: Mapping[str, set[str]],
    homes: Mapping[str, set[str]],
) -> set[str]:
    """What a file of the package `src` imports and must not: rooms that its own room may not
    import, and heavy packages that have their home in other rooms."""
    room = path.relative_to(src).parts[0].removesuffix(".py")
    found = [names for names in imports(path) if len(names) > 1]
    rooms = {names[1] for names in found if names[0] == src.name} & may_import.keys()
    heavy = {names[0] for names in imports(path)} & homes.keys()
    return (rooms - {room} - may_import[room]) | {name for name in heavy if room not in homes[name]}
