"""Guidance methods by name, and their settings from text, for a command line.

A package adds a method through the entry point group "anechoic.guidance": a name, and a dataclass
that inherits `anechoic.guidance.Guidance`. Its fields are its settings, except `index`,
`embedder`, `latents` and `network`, which the caller passes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, TypeGuard, Union, cast, get_args, get_origin, get_type_hints

from anechoic.errors import BadSetting, did_you_mean
from anechoic.guidance.base import Guidance, WatchingGuidance
from anechoic.guidance.presets import PRESETS, resolve
from anechoic.plugins import entry_points

GROUP = "anechoic.guidance"
GIVEN = ("index", "embedder", "latents", "network")
WANTED = {
    "index": "an index of the training set",
    "latents": "the training set's latents",
    "network": "the pipeline's network, in Python",
}
NOTHING: Mapping[str, Any] = {}


def method(name: str, also_known: Iterable[str] = ()) -> type[Guidance]:
    """The class of a guidance method, a dataclass.

    Args:
        name: "cfg", "amg", "static", "dynamic", or one that an installed package adds.
        also_known: further names to list when there is no such method.

    Raises:
        BadSetting: no such method, or a class that is not such a method.

    >>> method("static").__name__
    'TransitionPoint'
    """
    known = {point.name: point for point in entry_points(group=GROUP)}
    if name not in known:
        all_known = sorted({*known, *PRESETS, *also_known})
        raise BadSetting(
            f"expected a guard among {', '.join(all_known)}, got {name!r}"
            + (did_you_mean(name, all_known) or "; correct it, or install the package that has it")
        )
    found = known[name].load()
    if not (isinstance(found, type) and is_dataclass(found) and issubclass(found, Guidance)):
        raise BadSetting(
            f"guard {name!r} ({known[name].value}) is not a dataclass that inherits "
            "anechoic.guidance.Guidance, so its settings and needs are unknown; fix the package "
            "that adds it"
        )
    if takes(found, "index") and found.indexes is Guidance.indexes:
        raise BadSetting(
            f"guard {name!r} ({known[name].value}) has a field 'index' that its 'indexes' does not "
            "return, so it would not be checked; fix the package that adds it: inherit "
            "anechoic.guidance.base.ComparingGuidance"
        )
    return found


def settings(cls: type[Any]) -> list[Field[Any]]:
    """The fields that a user may set."""
    return [field for field in fields(cls) if field.init and field.name not in GIVEN]


def settings_of(guidance: Guidance) -> dict[str, Any]:
    """The settings of a method, by name, including the methods inside it.

    >>> settings_of(method("cfg")())
    {'scale': 7.0}
    """
    if isinstance(guidance, WatchingGuidance):
        return settings_of(guidance.guidance)
    own: list[Field[Any]] = settings(type(guidance)) if is_dataclass(guidance) else []
    return {field.name: getattr(guidance, field.name) for field in own}


def settings_as_text(guidance: Guidance | None) -> dict[str, str]:
    """The settings of a method, with those of the methods inside it; none of no method.

    >>> settings_as_text(method("cfg")())
    {'scale': '7.0'}
    """
    own = {} if guidance is None else settings_of(guidance)
    return {
        name: f"{value.label()}({settings_as_text(value)})"
        if isinstance(value, Guidance)
        else str(value)
        for name, value in own.items()
    }


def takes(cls: type, name: str) -> bool:
    """Whether a method has a field of this name."""
    return any(field.init and field.name == name for field in fields(cls))


def parse(cls: type, texts: Iterable[str]) -> dict[str, Any]:
    """Parse settings from text by the types of the method's fields.

    A dataclass of one value, such as `LogSNR`, is written as its name, a colon and the value.

    Args:
        cls: a guidance method.
        texts: settings, "name=value" each.

    Returns:
        The values of the named fields.

    Raises:
        BadSetting: another form, an unknown name, a name twice, or a value of another type.

    >>> parse(method("static"), ["before=-2", "at=LogSNR:-1.5"])
    {'before': -2.0, 'at': LogSNR(value=-1.5)}
    """
    known = {field.name: field for field in settings(cls)}
    found: dict[str, Any] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator:
            raise BadSetting(f"a setting is written NAME=VALUE, got {text!r}")
        if name not in known:
            raise BadSetting(_no_setting(cls, name))
        if name in found:
            raise BadSetting(f"setting {name!r} was given twice; give it once")
        kinds = list(_members(_hint(cls, known[name])))
        readings = list(_readings(value, kinds))
        if not readings:
            expected = " or ".join(dict.fromkeys(map(_expected, kinds)))
            raise BadSetting(
                f"expected {expected} for setting {name!r} of {cls.__name__}, got {value!r}"
            )
        found[name] = readings[0]
    return found


def _no_setting(cls: type, name: str) -> str:
    known = [field.name for field in settings(cls)]
    return (
        f"{cls.__name__} has no setting {name!r}; it has {', '.join(known) or 'none'}"
        + did_you_mean(name, known)
    )


def build(name: str, settings: Mapping[str, Any], given: Mapping[str, Any] = NOTHING) -> Guidance:
    """Make a method from its name and settings, with the methods inside it.

    Args:
        name: the name of an entry point or a preset (`anechoic.guidance.presets`).
        settings: values by field; text is parsed as in `parse`, numbers are checked likewise, and a
            table with a key "guard" is a method inside this one, with its own settings.
        given: values for fields that the settings leave out, such as an index, an embedder or a
            scale; for this method and those inside it, if they have such a field.

    Raises:
        BadSetting: as `method` and `parse`; or the method refuses its settings.

    >>> build("sequence", {"first": {"guard": "static", "before": -2}, "then": {"guard": "cfg"},
    ...                    "at": "LogSNR:-1"}, {"scale": 3.0}).then
    ClassifierFree(scale=3.0)
    """
    chosen = resolve(name)
    cls, settings = method(chosen.guard), {**chosen.settings, **settings}
    inner = {key: value for key, value in settings.items() if isinstance(value, Mapping)}
    typed = {key: value for key, value in settings.items() if isinstance(value, str | int | float)}
    ready = {key: value for key, value in settings.items() if key not in {*inner, *typed}}
    if unknown := [name for name in settings if not takes(cls, name)]:
        raise BadSetting(_no_setting(cls, min(unknown)))
    for key, table in inner.items():
        rest = {name: value for name, value in table.items() if name != "guard"}
        if "guard" not in table:
            raise BadSetting(
                f"setting {key!r} of {cls.__name__} is a table without a 'guard'; name one in it"
            )
        ready[key] = build(str(table["guard"]), rest, given)
    for key, value in ready.items():
        if key not in (*inner, *GIVEN) and value is not None and not is_dataclass(value):
            raise BadSetting(
                f"expected a number, text or a table for setting {key!r} of {cls.__name__}, got a "
                f"{type(value).__name__}; correct it"
            )
    ready |= parse(cls, [f"{key}={value}" for key, value in typed.items()])
    ready = {key: given[key] for key in given if takes(cls, key)} | ready
    needed = [one.name for one in fields(cast(Any, cls)) if one.init and _is_required(one)]
    if missing := [name for name in needed if name not in ready]:
        raise BadSetting(
            f"guard {name!r} needs {' and '.join(map(repr, missing))}; give "
            + next((what for name, what in WANTED.items() if name in missing), "the settings")
        )
    return cls(**ready)


def _is_required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _hint(cls: type, field: Field[Any]) -> Any:
    try:
        return get_type_hints(cls)[field.name]
    except NameError:  # an annotation that only a type checker can resolve
        return str if field.default is MISSING else type(field.default)


def _members(hint: Any) -> Iterator[Any]:
    """The types that an annotation allows."""
    if get_origin(hint) in (Union, UnionType):
        for argument in get_args(hint):
            yield from _members(argument)
    else:
        yield hint


def _readings(text: str, kinds: list[Any]) -> Iterator[Any]:
    """The values that a text may mean; plain text only if no other type fits."""
    for kind in sorted(kinds, key=lambda kind: kind is str):
        if kind is NoneType and text.lower() == "none":
            yield None
        elif kind is bool and text.lower() in ("true", "false"):
            yield text.lower() == "true"
        elif kind in (int, float):
            yield from _numbers(text, kind)
        elif get_origin(kind) is Literal:
            yield from (choice for choice in get_args(kind) if str(choice) == text)
        elif _wraps_a_value(kind):
            name, separator, value = text.partition(":")
            if separator and name.lower() == kind.__name__.lower():
                (only,) = fields(kind)
                yield from map(kind, _readings(value, list(_members(_hint(kind, only)))))
        elif kind is str:
            yield text


def _wraps_a_value(kind: Any) -> TypeGuard[type[Any]]:
    return isinstance(kind, type) and is_dataclass(kind) and len(fields(kind)) == 1


def _numbers(text: str, kind: type) -> Iterator[Any]:
    try:
        number = kind(text)
        finite = math.isfinite(number)
    except (ValueError, OverflowError):  # hundreds of digits
        return
    if finite:
        yield number


def _expected(kind: Any) -> str:
    """A type in the words of an error."""
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    if _wraps_a_value(kind):
        return f"{kind.__name__}:VALUE"
    words = {NoneType: "none", bool: "true or false", int: "a whole number", float: "a number"}
    return words.get(kind, "text")
