"""`anechoic embedders`: the embedders that are installed."""

from __future__ import annotations

import inspect

import typer

from anechoic.cli.guards import summary
from anechoic.cli.options import Json
from anechoic.cli.output import print_json, print_table, say
from anechoic.plugins import entry_points


def register(app: typer.Typer) -> None:
    """Add `anechoic embedders`."""
    app.command()(embedders)


def embedders(as_json: Json = False) -> None:
    """List the embedders that are installed.

    An index is built with one, `--embedder NAME`, and names it ever after. What some of them take
    after a colon is the folder or hub id of their weights, or a setting.

    Example: `anechoic embedders`
    """
    from anechoic.embedders import GROUP

    found = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        cls = point.load()
        takes = "source" in inspect.signature(cls).parameters
        found[point.name] = {"about": summary(cls), "takes a source": takes}
    if as_json:
        print_json(found)
        return
    rows = [
        (f"{name}[:SOURCE]" if one["takes a source"] else name, str(one["about"]))
        for name, one in found.items()
    ]
    print_table(("embedder", "what it is"), rows)
    say("which to choose: docs/reference/embedders.md")
