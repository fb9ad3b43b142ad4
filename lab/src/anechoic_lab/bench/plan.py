"""The plan of a bench: methods, scenarios and seeds, from a TOML file or a shipped preset.

about = "AMG at four strengths"
split = "report"
seeds = 2                       # 0 and 1; or a list
scenarios = ["duplicated"]      # by default all scenarios of the task

[[methods]]
name = "none"
label = "unguarded"

[[methods]]
name = "amg"
guard = "amg"                   # an entry point of "anechoic.guidance"
settings = { c1 = 4.0, c2 = 3.0, gradient = "x0" }
vary = { c3 = [0, 30, 300] }    # one method for each value; together they form a frontier
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from anechoic.errors import BadSetting

PRESETS = Path(__file__).parent / "presets"
DEFAULT = "methods"
BATCH = 8  # clips generated at once
MOST_SEEDS = 100_000
PLAN_KEYS = {
    "about": str, "split": str, "seeds": (int, list), "scenarios": list, "steps": int,
    "batch": int, "quality": str, "methods": list,
}  # fmt: skip
METHOD_KEYS = {"name": str, "label": str, "guard": str, "settings": dict, "vary": dict}


@dataclass(frozen=True)
class Method:
    """One way to generate: a row of the table."""

    name: str
    label: str
    guard: str = ""  # name of its entry point; "" for the plain pipeline
    settings: Mapping[str, Any] = field(default_factory=dict)  # numbers, text such as "LogSNR:1.5"
    family: str = ""  # shared by methods that differ in one strength only
    strength: str = ""  # "c3=300"


@dataclass(frozen=True)
class Plan:
    """Methods x scenarios x seeds.

    Raises:
        BadSetting: no methods or seeds, a duplicate among them, or a number out of range.
    """

    name: str
    methods: tuple[Method, ...]
    seeds: tuple[int, ...] = (0,)
    scenarios: tuple[str, ...] = ()  # empty: all scenarios of the task
    split: str = "report"
    steps: int | None = None  # None: the task's own
    batch: int = BATCH
    quality: str | None = None  # embedder for FAD and KAD; None: the task's own
    about: str = ""

    def __post_init__(self) -> None:
        if not self.methods:
            raise BadSetting(f"plan '{self.name}' has no methods; expected one [[methods]] or more")
        if not self.seeds:
            raise BadSetting(f"plan '{self.name}' has no seeds; expected 'seeds = 2' or a list")
        _refuse_twice(self.name, "method", [method.name for method in self.methods])
        _refuse_twice(self.name, "seed", self.seeds)
        _refuse_twice(self.name, "scenario", self.scenarios)
        if any(not 0 <= seed < 2**32 for seed in self.seeds):
            raise BadSetting(
                f"plan '{self.name}': expected seeds from 0 to 2^32 - 1, got {self.seeds}"
            )
        for key in ("steps", "batch"):
            number = getattr(self, key)
            if number is not None and number < 1:
                raise BadSetting(
                    f"plan '{self.name}': expected '{key}' to be 1 or more, got {number}"
                )

    @classmethod
    def load(cls, source: str | Path) -> Plan:
        """Load a plan from a TOML file, or a preset by its name.

        Raises:
            BadSetting: the file or preset does not exist, is not valid TOML or has an unknown key,
                or `Plan` refuses it.

        >>> Plan.load("amg-ablation").methods[0].label
        'unguarded'
        """
        path = Path(source)
        if path.suffix != ".toml":
            path = PRESETS / f"{source}.toml"
            if str(source) not in presets():
                raise BadSetting(
                    f"preset '{source}' does not exist; expected one of {', '.join(presets())}, or "
                    "a plan of your own in a file that ends in .toml"
                )
        try:
            content = tomllib.loads(path.read_text("utf-8"))
        except FileNotFoundError as error:
            raise BadSetting(f"plan '{path}' does not exist; check the path") from error
        except (ValueError, RecursionError) as error:  # numbers or brackets without an end, too
            raise BadSetting(f"plan '{path}' is not valid TOML ({error}); correct it") from error
        return _plan(path.stem, content)

    def only(
        self,
        methods: Iterable[str] | None = None,
        scenarios: Iterable[str] | None = None,
        seeds: int | None = None,
    ) -> Plan:
        """The selected part of this plan.

        Args:
            methods: names of methods or families.
            scenarios: names of scenarios, in place of the plan's.
            seeds: number of seeds, counted from 0.

        Raises:
            BadSetting: the plan has no method or family of that name.
        """
        selected = self.methods
        if methods is not None:
            wanted = list(methods)
            known = {name for m in self.methods for name in (m.name, m.family) if name}
            if unknown := [name for name in wanted if name not in known]:
                raise BadSetting(
                    f"plan '{self.name}' has no method '{unknown[0]}'; it has "
                    f"{', '.join(sorted(known))}"
                )
            selected = tuple(m for m in self.methods if m.name in wanted or m.family in wanted)
        return replace(
            self,
            methods=selected,
            scenarios=self.scenarios if scenarios is None else tuple(scenarios),
            seeds=self.seeds if seeds is None else tuple(range(seeds)),
        )


def presets() -> list[str]:
    """The names of the plans that ship with anechoic."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def _plan(name: str, content: Mapping[str, Any]) -> Plan:
    _check_keys(f"plan '{name}'", content, PLAN_KEYS)
    seeds = content.get("seeds", 1)
    values = {key: content[key] for key in ("about", "split", "steps", "batch", "quality")
              if key in content}  # fmt: skip
    return Plan(
        name=name,
        methods=tuple(_methods(name, content.get("methods", []))),
        seeds=_seeds(name, seeds),
        scenarios=tuple(_texts(name, "scenarios", content.get("scenarios", []))),
        **values,
    )


def _seeds(name: str, seeds: Any) -> tuple[int, ...]:
    if isinstance(seeds, int):
        if seeds > MOST_SEEDS:
            raise BadSetting(f"plan '{name}': expected up to {MOST_SEEDS} seeds, got {seeds}")
        return tuple(range(seeds))
    if not all(isinstance(seed, int) and not isinstance(seed, bool) for seed in seeds):
        raise BadSetting(f"plan '{name}': expected whole numbers as seeds, got {seeds}")
    return tuple(seeds)


def _texts(name: str, key: str, values: Sequence[Any]) -> Sequence[str]:
    if not all(isinstance(value, str) and value for value in values):
        raise BadSetting(f"plan '{name}': expected names in '{key}', got {list(values)}")
    return values


def _methods(plan: str, entries: Sequence[Any]) -> Iterator[Method]:
    for number, entry in enumerate(entries, 1):
        where = f"plan '{plan}', method {number}"
        if not isinstance(entry, Mapping) or not entry.get("name"):
            raise BadSetting(f'{where} has no name; expected [[methods]] with name = "..."')
        where = f"plan '{plan}', method '{entry['name']}'"
        _check_keys(where, entry, METHOD_KEYS)
        settings, vary = entry.get("settings", {}), entry.get("vary", {})
        if not entry.get("guard") and (settings or vary):
            raise BadSetting(f'{where} has settings but no guard; name one with guard = "..."')
        method = Method(
            entry["name"], entry.get("label", entry["name"]), entry.get("guard", ""), settings
        )
        yield from _varied(where, method, vary) if vary else [method]


def _varied(where: str, method: Method, vary: Mapping[str, Any]) -> Iterator[Method]:
    """One method for each value of the varied setting."""
    if len(vary) != 1:
        raise BadSetting(f"{where} varies {', '.join(vary)}; a frontier varies one setting")
    ((path, values),) = vary.items()
    if not isinstance(values, list) or len(values) < 2:
        raise BadSetting(f"{where}: expected a list of two values or more for {path!r}")
    for value in values:
        yield Method(
            name=f"{method.name}/{path}={value}",
            label=f"{method.label}, {path} {value}",
            guard=method.guard,
            settings=_put(where, method.settings, path.split("."), value),
            family=method.name,
            strength=f"{path}={value}",
        )


def _put(where: str, settings: Mapping[str, Any], keys: list[str], value: Any) -> dict[str, Any]:
    """Settings with one of them replaced, at the end of a path through nested tables."""
    first, *rest = keys
    if not rest:
        return {**settings, first: value}
    inner = settings.get(first)
    if not isinstance(inner, Mapping):
        raise BadSetting(f"{where} varies '{'.'.join(keys)}', but its '{first}' is not a table")
    return {**settings, first: _put(where, inner, rest, value)}


def _check_keys(where: str, content: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    for key, value in content.items():
        if key not in known:
            raise BadSetting(
                f"{where} has an unknown key '{key}'; expected some of {', '.join(known)}"
            )
        # TOML's true becomes Python's True, which is also an int
        if not isinstance(value, known[key]) or isinstance(value, bool):
            kinds = known[key] if isinstance(known[key], tuple) else (known[key],)
            words = {str: "text", int: "a whole number", list: "a list", dict: "a table"}
            expected = " or ".join(words[kind] for kind in kinds)
            raise BadSetting(f"{where}: expected {expected} for '{key}', got {value!r}")


def _refuse_twice(plan: str, what: str, values: Sequence[Any]) -> None:
    for value in values:
        if values.count(value) > 1:
            raise BadSetting(f"plan '{plan}' has the {what} '{value}' twice; give each its own")
