"""`anechoic guards`: the methods that are installed, their settings, presets and needs."""

from __future__ import annotations

import inspect
import re
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anechoic.cli.options import Json
from anechoic.cli.output import print_json, print_table, say
from anechoic.plugins import entry_points

if TYPE_CHECKING:
    from anechoic.guidance.base import Guidance

INDENT = re.compile(r"^(\w[\w, ]*): (.*)")  # a line of "Args:" that begins a setting


def register(app: typer.Typer) -> None:
    """Add `anechoic guards`."""
    app.command()(guards)


def guards(
    name: Annotated[str | None, typer.Argument(help="A guard or a preset; by default all.")] = None,
    as_json: Json = False,
) -> None:
    """List the guards that are installed, or show the settings of one.

    A guard is given with `--guard NAME`, and its settings with `--set NAME=VALUE`. A preset is a
    guard at the settings that a paper published.

    Example: `anechoic guards amg`
    """
    if name is not None:
        _one(name, as_json)
        return
    from anechoic.guidance.presets import PRESETS
    from anechoic.guidance.registry import GROUP, method

    found: dict[str, dict[str, Any]] = {}
    for known in sorted(point.name for point in entry_points(group=GROUP)):
        cls = method(known)
        presets = [preset for preset, about in PRESETS.items() if about.guard == known]
        found[known] = {"about": summary(cls), "needs": list(needs(cls)), "presets": presets}
    if as_json:
        print_json(found)
        return
    rows = [(n, ", ".join(one["needs"]) or "nothing", one["about"]) for n, one in found.items()]
    print_table(("guard", "needs", "what it does"), rows)
    say(f"presets, a paper's settings by name: {', '.join(PRESETS)}")
    say("the settings of one: anechoic guards NAME")


def _one(name: str, as_json: bool) -> None:
    from anechoic.guidance.presets import PRESETS, resolve
    from anechoic.guidance.registry import method, settings

    chosen, preset = resolve(name), PRESETS.get(name)
    cls = method(chosen.guard)
    told = argument_texts(cls)
    known = {
        field.name: {
            "default": _default(chosen.settings.get(field.name, _own_default(field))),
            "about": told.get(field.name, ""),
        }
        for field in settings(cls)
    }
    presets = {n: dict(p.settings) for n, p in PRESETS.items() if p.guard == name}
    source = re.search(r"Source: (.*)", inspect.getdoc(cls) or "", re.S)
    origin = preset.source if preset else " ".join(source[1].split()) if source else ""
    about = {
        "guard": chosen.guard,
        "about": f"{summary(cls)} {preset.about}." if preset else summary(cls),
        "needs": list(needs(cls)),
        "settings": known,
        "presets": presets,
        "source": origin,
    }
    if as_json:
        print_json(about)
        return
    say(f"{name}: {about['about']}")
    if about["needs"]:
        say(f"needs: {', '.join(needs(cls).values())}")
    rows = [(setting, one["default"], one["about"]) for setting, one in known.items()]
    print_table(("setting", "here" if preset else "default", "what it is"), rows)
    for other, values in presets.items():
        say(f"preset {other}: {', '.join(f'{n}={v}' for n, v in values.items())}")
    if origin:
        say(f"source: {origin}")


# ------------------------------------------------------------------------------ what a class says


def needs(cls: type[Guidance]) -> dict[str, str]:
    """What a guard is given besides its settings: by name, in a few words."""
    from anechoic.guidance.registry import WANTED, takes

    return {name: words for name, words in WANTED.items() if takes(cls, name)}


def summary(cls: type[Any]) -> str:
    """The first paragraph of a class's docstring, in one line."""
    return " ".join((inspect.getdoc(cls) or "").partition("\n\n")[0].split())


def argument_texts(cls: type[Any]) -> dict[str, str]:
    """What the docstrings of a class and its bases say of each of its fields."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        doc = inspect.cleandoc(base.__doc__ or "")
        section = re.search(r"^Args:\n((?: {4}.*\n|\n)*)", f"{doc}\n", re.M)
        names: list[str] = []
        for line in section[1].splitlines() if section else ():
            if match := INDENT.match(line[4:]):
                names = match[1].split(", ")
                found |= dict.fromkeys(names, match[2])
            elif line.startswith(" " * 8):
                found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return {name: text for name, text in found.items() if name in {f.name for f in fields(cls)}}


def _own_default(field: Field[Any]) -> Any:
    if field.default is not MISSING:
        return field.default
    return "" if field.default_factory is MISSING else field.default_factory()


def _default(value: Any) -> str:
    """A default as it is written after `--set`.

    >>> from anechoic.guidance import LogSNR
    >>> _default(LogSNR(-1.0)), _default(None)
    ('LogSNR:-1.0', 'none')
    """
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if is_dataclass(value) and len(fields(value)) == 1:
        return f"{type(value).__name__}:{getattr(value, fields(value)[0].name)}"
    return str(value)
