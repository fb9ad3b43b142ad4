"""`anechoic models`: the models that are known by name, and the pipelines that can be guarded."""

from __future__ import annotations

from typing import Any

import typer

from anechoic.cli.options import Json
from anechoic.cli.output import print_json, print_table, say
from anechoic.plugins import entry_points


def register(app: typer.Typer) -> None:
    """Add `anechoic models`."""
    app.command()(models)


def models(as_json: Json = False) -> None:
    """List the models that packages register, and the classes of pipelines that can be guarded.

    Example: `anechoic models`
    """
    from anechoic.diffusers.pipelines import ADAPTERS
    from anechoic.models import GROUP, find

    known: dict[str, dict[str, Any]] = {}
    for name in sorted(point.name for point in entry_points(group=GROUP)):
        model = find(name)
        known[name] = {
            "index": model.index is not None,
            "scale": model.scale,
            "steps": model.steps,
            "tuned guards": sorted(model.guards),
        }
    classes = {n: "images" if one.sound is None else "sound" for n, one in ADAPTERS.items()}
    if as_json:
        print_json({"models": known, "pipelines": classes})
        return
    rows = [
        (name, str(one["scale"]), str(one["steps"]), ", ".join(one["tuned guards"]) or "none")
        for name, one in known.items()
    ]
    if rows:
        print_table(("model", "scale", "steps", "guards tuned for it"), rows)
    print_table(("pipeline", "makes"), list(classes.items()), ())
    say("any other name after --model is the folder or hub id of such a pipeline")
