"""The papers' settings by name: what was published, and known to every command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.model_folder import save

from anechoic import TrainingIndex, cli, embedder
from anechoic.guidance import (
    AntiMemorization,
    DynamicTransition,
    Timestep,
    TransitionPoint,
    registry,
)
from anechoic.guidance.presets import PRESETS

DOCS = Path(__file__).parents[2] / "docs/reference/methods.md"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("shared"))


def test_the_basins_presets_are_what_the_paper_publishes() -> None:
    built = {name: registry.build(name, {}) for name in PRESETS if name.startswith("basin")}
    assert built == {
        "basin-laion-zero": TransitionPoint(7.5, 0.0, Timestep(500)),
        "basin-laion-opposite": TransitionPoint(7.5, -2.0, Timestep(650)),
        "basin-imagenette-600": TransitionPoint(7.5, 0.0, Timestep(600)),
        "basin-imagenette-700": TransitionPoint(7.5, 0.0, Timestep(700)),
        "basin-dynamic": DynamicTransition(7.5, 1.0),
        "basin-dynamic-zero": DynamicTransition(7.5, 0.0),
    }


def test_amg_audios_presets_compute_what_its_code_does(shared: Path) -> None:
    index = TrainingIndex.load(shared / "i")
    given = {"index": index, "embedder": embedder("magmel"), "scale": 3.0}
    strengths = {}
    for name in PRESETS:
        if name.startswith("amg"):
            made = registry.build(name, {}, given)
            assert isinstance(made, AntiMemorization)
            assert (made.scale, made.parity, made.estimate) == (7.0, "reference", "cond")
            limits = (made.lambda_min, made.lambda_max)
            strengths[name] = (made.c1, made.c2, made.c3, *limits)
    assert strengths == {
        "amg-audio": (4.0, 3.0, 100.0, 0.7, 0.8),
        "amg-audio-experiments": (6.0, 6.0, 1000.0, 0.7, 0.8),
        "amg-audio-low-threshold": (4.0, 3.0, 100.0, 0.4, 0.5),
    }


def test_a_setting_given_beside_a_preset_wins() -> None:
    made = registry.build("basin-laion-opposite", {"before": "-1", "scale": 5.0}, {"scale": 3.0})
    assert made == TransitionPoint(5.0, -1.0, Timestep(650))


def test_no_preset_hides_a_method() -> None:
    from importlib.metadata import entry_points

    assert not PRESETS.keys() & {point.name for point in entry_points(group=registry.GROUP)}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_stands_in_the_docs_with_its_source(name: str) -> None:
    (line,) = [line for line in DOCS.read_text().splitlines() if line.startswith(f"| `{name}` ")]
    assert f"`{PRESETS[name].guard}`" in line
    assert PRESETS[name].source.split(" (")[0] in line


def test_a_command_takes_a_preset_by_its_name(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--model", str(shared / "model"), "--guard", "basin-laion-opposite", "--steps", "3")
    output = ("-o", str(tmp_path / "o.wav"), "--set", "before=-1", "--json")
    with pytest.raises(SystemExit) as done:
        cli.main(["generate", "a dog barks", *asked, *output])
    assert done.value.code == 0
    told = json.loads(capsys.readouterr().out)
    assert told["guard"] == "basin-laion-opposite"
    assert (
        told["settings"] | {"scale": 7.5, "before": -1.0, "at": "Timestep(t=650)"}
        == (told["settings"])
    )
