"""Guidance methods by name, and their settings from text."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import pytest

from anechoic.detectors.screening import AngleRecorder
from anechoic.errors import BadSetting
from anechoic.guidance import ClassifierFree, LogSNR, Progress, Timestep, registry


@pytest.mark.parametrize(
    ("guard", "text", "value"),
    [
        ("amg", "c3=2e2", 200.0),
        ("amg", "gradient=x0", "x0"),
        ("dynamic", "fall=none", None),
        ("dynamic", "fall=0.5", 0.5),
        ("static", "at=0.8", 0.8),
        ("static", "at=LogSNR:-2.5", LogSNR(-2.5)),
        ("static", "at=timestep:500", Timestep(500)),
        ("static", "at=Progress:.8", Progress(0.8)),
    ],
)
def test_a_setting_is_read_by_the_type_of_its_field(guard: str, text: str, value: object) -> None:
    cls = registry.method(guard)
    assert registry.parse(cls, [text]) == {text.partition("=")[0]: value}


@pytest.mark.parametrize(
    ("guard", "text", "expected"),
    [
        ("amg", "c3=nan", "a number"),
        ("amg", "index=i", "no setting 'index'"),
        ("dynamic", "fall=half", "a number or none"),
        ("static", "at=LogSNR:now", "Progress:VALUE or LogSNR:VALUE or Timestep:VALUE or a number"),
        ("static", "at=Timestep:0.5", "Timestep:VALUE"),
    ],
)
def test_a_setting_of_another_type_is_refused(guard: str, text: str, expected: str) -> None:
    with pytest.raises(BadSetting, match=expected):
        registry.parse(registry.method(guard), [text])


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("amgg", {}, "did you mean 'amg'?"),
        ("amg-audo", {}, "did you mean 'amg-audio'?"),
        ("shield", {}, "install the package that has it"),
        ("static", {"befor": -2}, "did you mean 'before'?"),
        ("amg-audio", {}, "needs 'index' and 'embedder'; give an index"),
        ("static", {"before": date(2026, 1, 1)}, "got a date; correct it"),
        ("static", {"before": [1.0]}, "got a list; correct it"),
        (
            "static",
            {"before": int("9" * 400)},
            "expected a number for setting 'before' of TransitionPoint, got '9999",
        ),
    ],
)
def test_what_cannot_be_built_is_refused_in_a_sentence(
    name: str, settings: dict[str, object], sentence: str
) -> None:
    with pytest.raises(BadSetting, match=re.escape(sentence)):
        registry.build(name, settings)


OTHER = """
from __future__ import annotations
from dataclasses import dataclass
from typing import TYPE_CHECKING
from anechoic.guidance.base import ComparingGuidance, Guidance
if TYPE_CHECKING:
    from anechoic.types import VectorIndex

@dataclass(frozen=True)
class Late(ComparingGuidance):
    index: VectorIndex  # only a type checker can tell what this is
    late: bool = False
    rounds: int = 3

    def __call__(self, step): ...

def plain(step): ...

@dataclass(frozen=True)
class Unsaid(Guidance):
    index: VectorIndex  # no check can see it

    def __call__(self, step): ...
"""


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another package with guards is installed."""
    (tmp_path / "another.py").write_text(OTHER)
    about = tmp_path / "another-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Name: another\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[anechoic.guidance]\nlate = another:Late\nplain = another:plain\nunsaid = another:Unsaid\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


def test_a_guard_of_another_package_is_found_with_its_settings(other: None) -> None:
    cls = registry.method("late")
    assert (cls.__module__, registry.takes(cls, "index")) == ("another", True)
    assert registry.parse(cls, ["late=True", "rounds=5"]) == {"late": True, "rounds": 5}
    for text, expected in (("late=5", "true or false"), ("rounds=5.5", "a whole number")):
        with pytest.raises(BadSetting, match=expected):
            registry.parse(cls, [text])


def test_a_guard_that_hides_its_training_set_is_refused(other: None) -> None:
    with pytest.raises(BadSetting, match=r"'unsaid' .* has a field 'index' that its 'indexes'"):
        registry.method("unsaid")


def test_a_guard_that_is_not_a_method_is_refused(other: None) -> None:
    with pytest.raises(BadSetting) as error:
        registry.method("plain")
    assert str(error.value) == (
        "guard 'plain' (another:plain) is not a dataclass that inherits "
        "anechoic.guidance.Guidance, so its settings and needs are unknown; fix the "
        "package that adds it"
    )


def test_a_method_that_watches_has_the_name_and_settings_of_the_one_inside() -> None:
    watched = AngleRecorder(ClassifierFree(3.0))
    assert watched.label() == "ClassifierFree"
    assert registry.settings_as_text(watched) == {"scale": "3.0"}
