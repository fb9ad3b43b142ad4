"""Names of many files in one: folders, globs, and braces as a shell expands them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from anechoic.errors import BadSetting
from anechoic.index.filehash import contents
from anechoic.parsing import require_limit
from anechoic.storage import file_system


def expand_braces(pattern: str) -> list[str]:
    """Expand the braces of a pattern, in the order of a shell.

    >>> expand_braces("clips-{08..10}.tar")
    ['clips-08.tar', 'clips-09.tar', 'clips-10.tar']
    >>> expand_braces("{a,b}/{1..2}.tar")
    ['a/1.tar', 'a/2.tar', 'b/1.tar', 'b/2.tar']
    """
    done: list[str] = []
    pending = [pattern]
    while pending:
        require_limit("NAMES", len(done) + len(pending), f"'{pattern}' stands for more", BadSetting)
        found = re.search(r"\{([^{}]*)\}", whole := pending.pop())
        if found is None:
            done.append(whole)
            continue
        before, after = whole[: found.start()], whole[found.end() :]
        pending += [before + option + after for option in reversed(_options(found[1], pattern))]
    return done


def _options(inside: str, pattern: str) -> Sequence[str]:
    """What one pair of braces stands for."""
    numbers = re.fullmatch(r"(\d{1,18})\.\.(\d{1,18})", inside)
    if numbers is None:
        return inside.split(",")
    first, last = map(int, numbers.groups())
    what = f"'{pattern}' stands for {abs(last - first) + 1} names or more"
    require_limit("NAMES", abs(last - first) + 1, what, BadSetting)
    padded = any(len(n) > 1 and n.startswith("0") for n in numbers.groups())
    width = max(map(len, numbers.groups())) if padded else 0
    step = 1 if first <= last else -1
    return [f"{n:0{width}d}" for n in range(first, last + step, step)]


def files(where: str | Path, suffix: str) -> list[str]:
    """The files that a folder, pattern or name means.

    Braces name files, every one of which has to be there; `*`, `?` and `[` match what is there.
    Anywhere that fsspec reaches: also `s3://`, `hf://`.

    Args:
        where: a folder, whose files of the suffix are meant; a name; or a pattern.
        suffix: ".tar", ".parquet".

    Returns:
        Names, those of each folder and glob sorted.

    Raises:
        BadSetting: nothing there, a file that is missing, not of this kind, or named twice.
    """
    out: list[str] = []
    for name in expand_braces(str(where)):
        out += _files(name, suffix)
    others = [name for name in out if not name.lower().endswith(suffix)]
    if others:
        raise BadSetting(f"expected {suffix} files in '{where}', but there is '{others[0]}'")
    if len(set(out)) < len(out):
        raise BadSetting(f"'{where}' names a file twice; name each once")
    return out


def names_of(files: Sequence[str], suffix: str) -> list[str]:
    """A name for each file: without suffix, and without folder if that tells them apart.

    >>> names_of(["x/a/0.tar", "x/b/0.tar"], ".tar")
    ['a/0', 'b/0']
    """
    stems = [PurePath(file).name[: -len(suffix)] for file in files]  # of either case
    if len(set(stems)) == len(stems):
        return stems
    parts = [PurePath(file).parts for file in files]
    common = next(n for n, part in enumerate(zip(*parts, strict=False)) if len(set(part)) > 1)
    return ["/".join(part[common:])[: -len(suffix)] for part in parts]


def is_shard(name: str, suffix: str | tuple[str, ...]) -> bool:
    """Whether a file in a folder is one of its shards: of the suffix in any case, and not hidden.

    >>> is_shard("ONE.TAR", ".tar"), is_shard("a/._one.tar", ".tar"), is_shard(".a/1.tar", ".tar")
    (True, False, False)
    """
    return name.lower().endswith(suffix) and not any(map(is_hidden, PurePath(name).parts))


def is_hidden(name: str) -> bool:
    """Whether a file is hidden, as macOS hides the files that it adds."""
    return PurePath(name).name.startswith(".")


def _files(name: str, suffix: str) -> list[str]:
    system, path = file_system(name)
    try:
        if system.isdir(path):
            inside = len(path.rstrip("/")) + 1
            names = [one for one in sorted(system.find(path)) if is_shard(one[inside:], suffix)]
        elif re.search(r"[*?\[]", path):
            hidden = is_hidden(path)
            names = [one for one in sorted(system.glob(path)) if hidden or not is_hidden(one)]
        else:
            names = [path] if system.isfile(path) else []
    except (OSError, ValueError, NotImplementedError) as error:  # http cannot list
        raise BadSetting(f"'{name}' cannot be reached ({error}); check the path") from error
    if not names:
        raise BadSetting(f"{suffix} file '{name}' does not exist; check the path")
    if "://" not in name:
        return names
    return [system.unstrip_protocol(found) for found in names]


def content_of(file: str) -> list[Any]:
    """What tells the content of a file apart: on this machine its bytes, elsewhere its size, and
    the hash that an object store has of it."""
    from fsspec.implementations.local import LocalFileSystem

    system, path = file_system(file)
    if isinstance(system, LocalFileSystem):
        return contents([path])
    info = system.info(path)
    return [info.get(name) for name in ("size", "ETag", "etag", "md5Hash", "generation")]
