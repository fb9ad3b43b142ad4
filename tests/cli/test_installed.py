"""`anechoic guards`, `embedders` and `models`: what is installed, as its classes say themselves."""

from __future__ import annotations

import json
from dataclasses import fields
from importlib.metadata import entry_points

import pytest
from support.commands import Run

from anechoic.cli.guards import argument_texts
from anechoic.guidance import registry
from anechoic.guidance.presets import PRESETS

GUARDS = sorted(point.name for point in entry_points(group=registry.GROUP))


def test_each_installed_guard_is_listed_with_its_needs_and_presets(command: Run) -> None:
    code, out, _ = command("guards", "--json")
    found = json.loads(out)
    assert (code, list(found)) == (0, GUARDS)
    assert found["amg"]["needs"] == ["index"]
    assert found["cfg"]["needs"] == []
    assert {name for one in found.values() for name in one["presets"]} == set(PRESETS)
    _, out, _ = command("guards")
    assert all(any(line.split()[:1] == [name] for line in out.splitlines()) for name in GUARDS)


@pytest.mark.parametrize("name", GUARDS)
def test_each_setting_of_each_guard_is_explained(name: str) -> None:
    cls = registry.method(name)
    told = argument_texts(cls)
    assert set(told) <= {field.name for field in fields(cls)}
    assert [field.name for field in registry.settings(cls) if not told.get(field.name)] == []


def test_a_default_is_shown_as_it_is_given(command: Run) -> None:
    _, out, _ = command("guards", "projection", "--json")
    about = json.loads(out)
    assert about["settings"]["start"]["default"] == "LogSNR:-6.0"
    cls = registry.method("projection")
    simple = {n: one["default"] for n, one in about["settings"].items() if n != "also"}
    parsed = registry.parse(cls, [f"{name}={value}" for name, value in simple.items()])
    assert parsed == {f.name: f.default for f in registry.settings(cls) if f.name != "also"}


def test_a_preset_shows_the_values_of_its_paper(command: Run) -> None:
    _, out, _ = command("guards", "basin-laion-zero", "--json")
    about = json.loads(out)
    assert about["guard"] == "static"
    assert about["settings"]["at"]["default"] == "Timestep:500"
    assert "Jain" in about["source"]
    code, _, error = command("guards", "stattic")
    assert (code, "did you mean 'static'?" in error) == (2, True)


def test_embedders_and_models_are_listed(command: Run) -> None:
    _, out, _ = command("embedders", "--json")
    found = json.loads(out)
    assert found["magmel"]["takes a source"]
    assert all(one["about"] for one in found.values())
    _, out, _ = command("models", "--json")
    listed = json.loads(out)
    assert listed["pipelines"]["StableAudioPipeline"] == "sound"
    assert listed["pipelines"]["StableDiffusionPipeline"] == "images"
    assert command("embedders")[0] == command("models")[0] == 0
