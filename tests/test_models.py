"""Models by name: any package may register one, with its index, guards, steps and scale."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.model_folder import save

from anechoic import models
from anechoic.cli import main
from anechoic.diffusers import fingerprint
from anechoic.diffusers.loading import load_pipeline
from anechoic.diffusers.lora_files import read_adapter
from anechoic.embedders import embedder
from anechoic.errors import BadSetting
from anechoic.index import Sound, TrainingIndex

Register = Callable[[str], None]
QUERY = "transformer.transformer_blocks.0.attn1.to_q"
OWN = """
from anechoic.guidance.presets import Preset
from anechoic.models import KnownModel

def own():
    guards = {"soft": Preset("static", {"before": 0.5}, "ours", "our tests")}
    return KnownModel("own", "own/pipeline", index="own/index", steps=7, scale=3.0, guards=guards)

def bare():
    return KnownModel("own", "own/pipeline")

def tuned():
    return KnownModel("own", "model", index="i", loras=("mine.safetensors",))

NOT_A_MODEL = dict
"""


@pytest.fixture
def register(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Register:
    """Installs a package that registers the model "own", as the named object of its module."""
    about = tmp_path / "site/anechoic_own-1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: anechoic-own\nVersion: 1\n")
    (tmp_path / "site/anechoic_own.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.chdir(tmp_path)

    def write(name: str) -> None:
        (about / "entry_points.txt").write_text(f"[anechoic.models]\nown = anechoic_own:{name}\n")

    return write


@pytest.fixture
def no_laboratory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As if anechoic-lab were not installed: its entry points are gone."""

    def only_core(*, group: str):
        points = entry_points(group=group)
        return type(points)(p for p in points if not p.module.startswith("anechoic_lab"))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("anechoic.models.entry_points", only_core)
    monkeypatch.setattr("anechoic.cli.entry_points", only_core)


def test_a_name_that_is_not_registered_is_a_folder_or_a_hub_id() -> None:
    found = models.find("stabilityai/stable-audio-open-1.0")
    assert found == models.KnownModel(found.name, "stabilityai/stable-audio-open-1.0")
    assert models.index_folder("clips.index") == "clips.index"


def test_any_package_may_register_a_model_with_its_index_and_settings(register: Register) -> None:
    register("own")
    found = models.find("own")
    assert (found.pipeline, found.steps, found.scale) == ("own/pipeline", 7, 3.0)
    assert models.index_folder("own") == "own/index"
    assert "anechoic_own" in models.packages()


def test_commands_take_a_registered_model_by_its_name(
    register: Register, capsys: pytest.CaptureFixture[str]
) -> None:
    register("own")
    sounds = [Sound(f"{i}", f"take {i}", torch.rand(1, 16_000), 16_000) for i in range(3)]
    TrainingIndex.build(sounds, embedder("magmel")).save("own/index")
    with pytest.raises(SystemExit) as ended:
        main(["index", "info", "own", "--json"])
    assert not ended.value.code
    assert json.loads(capsys.readouterr().out)["rows"] == 3


def test_a_registered_model_has_its_adapters_before_those_that_are_given(
    register: Register,
) -> None:
    register("tuned")
    save(Path())
    base = fingerprint(load_pipeline("model", "cpu"))
    names = []
    for seed, file in enumerate(("mine.safetensors", "more.safetensors")):
        factors = torch.randn(2, 2, 16, generator=torch.Generator().manual_seed(seed))
        parts = {"lora_A": factors[0], "lora_B": factors[1].T.contiguous()}
        save_file({f"{QUERY}.{part}.weight": t for part, t in parts.items()}, file)
        names.append(read_adapter(file).fingerprint)
    assert fingerprint(load_pipeline("own", "cpu")) == f"{base}+{names[0]}"
    both = load_pipeline("own", "cpu", loras=["more.safetensors"])
    assert fingerprint(both) == "+".join((base, *names))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing", "cannot be loaded"),
        ("NOT_A_MODEL", "expected a KnownModel for model .*, got a dict"),
    ],
)
def test_a_registration_that_is_wrong_is_refused(register: Register, name: str, says: str) -> None:
    register(name)
    with pytest.raises(BadSetting, match=says):
        models.find("own")


def test_a_model_without_an_index_is_told_from_one_with(register: Register) -> None:
    register("bare")
    with pytest.raises(BadSetting, match="model 'own' has no index; give the folder of one"):
        models.index_folder("own")


def test_the_demo_without_the_laboratory_is_one_sentence(no_laboratory: None) -> None:
    says = r"model 'demo' is part of the laboratory.*pip install 'anechoic\[lab\]'"
    for look_up in (models.find, models.index_folder, load_pipeline):
        with pytest.raises(BadSetting, match=says):
            look_up("demo")


def test_a_folder_by_the_name_of_a_laboratorys_model_is_a_folder(no_laboratory: None) -> None:
    Path("demo").mkdir()
    assert models.find("demo").pipeline == "demo"


@pytest.mark.parametrize("command", ["demo", "bench", "basin"])
def test_a_command_of_the_laboratory_that_is_not_installed_says_how_to_install_it(
    no_laboratory: None, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        f"error: 'anechoic {command}' is not installed; install it with pip install "
        "'anechoic[lab]'\n"
    )
