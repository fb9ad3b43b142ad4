"""Guidance methods by name, and their settings from text: what a command line needs of them.

A package adds a method through the entry point group "anechoic.guidance": a name, and a dataclass
that inherits `anechoic.guidance.Guidance`. Its fields are its settings; the fields `index` and
`embedder` are not typed in but given, by whoever makes the method.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from importlib.metadata import entry_points
from types import NoneType, UnionType
from typing import Any, Literal, TypeGuard, Union, cast, get_args, get_origin, get_type_hints

from anechoic.errors import BadSetting, did_you_mean
from anechoic.guidance.base import Guidance
from anechoic.guidance.presets import PRESETS, resolve

GROUP = "anechoic.guidance"
GIVEN = ("index", "embedder")
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
            "anechoic.guidance.Guidance, so its settings and needs are not known; fix the package "
            "that brings it"
        )
    if takes(found, "index") and found.indexes is Guidance.indexes:
        raise BadSetting(
            f"guard {name!r} ({known[name].value}) has a field 'index' that its 'indexes' does not "
            "return, so nobody could check it; fix the package that brings it: let it inherit "
            "anechoic.guidance.base.ComparingGuidance"
        )
    return found


def settings(cls: type[Any]) -> list[Field[Any]]:
    """The fields that a user may set."""
    return [field for field in fields(cls) if field.init and field.name not in GIVEN]


def settings_of(guidance: Guidance) -> dict[str, Any]:
    """The settings of a method by name; a method inside it is one of them.

    >>> settings_of(method("cfg")())
    {'scale': 7.0}
    """
    own: list[Field[Any]] = settings(type(guidance)) if is_dataclass(guidance) else []
    return {field.name: getattr(guidance, field.name) for field in own}


def takes(cls: type, name: str) -> bool:
    """Whether a method has a field of this name."""
    return any(field.init and field.name == name for field in fields(cls))


def parse(cls: type, texts: Iterable[str]) -> dict[str, Any]:
    """Settings written as text, by the types of the method's fields.

    A field that takes a dataclass of one value, such as `LogSNR`, is written with its name and a
    colon.

    Args:
        cls: a guidance method.
        texts: "name=value" each.

    Returns:
        The fields that were named, with their values.

    Raises:
        BadSetting: not of that form, an unknown name, a name twice, or a value of another type.

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
            raise BadSetting(f"setting {name!r} of {cls.__name__} is {expected}, got {value!r}")
        found[name] = readings[0]
    return found


def _no_setting(cls: type, name: str) -> str:
    known = [field.name for field in settings(cls)]
    return (
        f"{cls.__name__} has no setting {name!r}; it has {', '.join(known) or 'none'}"
        + did_you_mean(name, known)
    )


def build(name: str, settings: Mapping[str, Any], given: Mapping[str, Any] = NOTHING) -> Guidance:
    """A method by name with its settings, and the methods that it is made of.

    Args:
        name: of an entry point, or of a preset of a paper (`anechoic.guidance.presets`).
        settings: by field; text is read as `parse` reads it, numbers are checked likewise, and a
            table with a key "guard" is a method inside this one, with its own settings.
        given: values for fields that are not set, of this method and of those inside it, where
            they have such a field: an index, an embedder, a scale.

    Raises:
        BadSetting: see `method` and `parse`; the method's own refusals.

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
            raise BadSetting(f"setting {key!r} of {cls.__name__} is a table without a 'guard'")
        ready[key] = build(str(table["guard"]), rest, given)
    for key, value in ready.items():
        if key not in (*inner, *GIVEN) and value is not None and not is_dataclass(value):
            raise BadSetting(
                f"setting {key!r} of {cls.__name__} is a {type(value).__name__}, and a number, "
                "text or a table was expected; correct it"
            )
    ready |= parse(cls, [f"{key}={value}" for key, value in typed.items()])
    ready = {key: given[key] for key in given if takes(cls, key)} | ready
    needed = [one.name for one in fields(cast(Any, cls)) if one.init and _is_required(one)]
    if missing := [name for name in needed if name not in ready]:
        raise BadSetting(
            f"guard {name!r} needs {' and '.join(map(repr, missing))}, and has none; give "
            + ("an index of the training set" if "index" in missing else "the settings")
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
    """What a text may stand for; plain text only where nothing else fits."""
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
    except (ValueError, OverflowError):  # of hundreds of digits
        return
    if finite:
        yield number


def _expected(kind: Any) -> str:
    """A type, as an error names it."""
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    if _wraps_a_value(kind):
        return f"{kind.__name__}:VALUE"
    words = {NoneType: "none", bool: "true or false", int: "a whole number", float: "a number"}
    return words.get(kind, "text")
