"""Embedders, one file each: sound or images to points on the unit sphere, differentiably.

An embedder of images has `sample_rate` 0, and is called with images [b, 3, h, w] in [0, 1] and 0.

A package adds its own through the entry point group "anechoic.embedders": a name, and a class that
inherits `anechoic.types.Embedder` and can be built without arguments. If the class takes a
`source` (a repository, a folder, settings), users give it after a colon: "clap:/path/to/weights".
If the source is a program, as a TorchScript file is, the class sets `runs_code = True`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

from anechoic.errors import UnknownEmbedder, did_you_mean
from anechoic.plugins import entry_points
from anechoic.types import Embedder

GROUP = "anechoic.embedders"


def embedder(name: str, *, trusted: bool = True) -> Embedder:
    """The embedder with this name; `embedder(e.name)` makes `e` again.

    Args:
        name: "magmel", "clap", or one that an installed package adds, as `anechoic[lab]` adds
            "aisfx", and "sscd" and "clip" for images; some take a source after a colon:
            "clap:REPOSITORY_OR_FOLDER", "clap:REPOSITORY@COMMIT", "magmel:seconds=2.0".
        trusted: whether the user gave the name, and not a file such as an index.

    Raises:
        UnknownEmbedder: the name is unknown, its weights are not on this machine, or it is not
            trusted and its source is a program.

    >>> embedder("magmel").dim
    2048
    """
    kind, _, source = name.partition(":")
    known = {point.name: point for point in entry_points(group=GROUP)}
    if kind not in known:
        if kind in ("aisfx", "clip", "sscd"):
            fix = "; run \"pip install 'anechoic[lab]'\", which has it"
        else:
            fix = did_you_mean(kind, known) or "; correct it, or install the package that has it"
        raise UnknownEmbedder(
            f"expected an embedder among {', '.join(sorted(known)) or 'none installed'}, got "
            f"{name!r}{fix}"
        )
    make: Callable[..., Embedder] = known[kind].load()
    if not source:
        return make()
    if not trusted and getattr(make, "runs_code", False):
        raise UnknownEmbedder(
            f"the index names the embedder {name!r}, and that file is a program, which would run; "
            f"if you trust it, name it yourself: '--embedder {name}'"
        )
    if "source" not in inspect.signature(make).parameters:
        raise UnknownEmbedder(
            f"expected {kind!r} alone, which takes no source, got {name!r}; leave out the colon "
            "and what follows"
        )
    return make(source=source)


__all__ = ["GROUP", "embedder"]
