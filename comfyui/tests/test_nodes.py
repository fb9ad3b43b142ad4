"""The nodes, as ComfyUI calls them: inside inference_mode, with what other nodes make."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from comfyui_anechoic.nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
from support import comfy
from support.certified import write_calibration
from support.comfy import CLIP, VAE, Model, ModelPatcher, sample
from support.sounds import RATE, bands, save_clips

from anechoic import TrainingIndex, audio, embedder
from anechoic.certificate import read, verify
from anechoic.errors import BadAudio, BadSetting, GuardError, IndexMismatch

FOLDER = Path(__file__).parents[1]
CAPTIONS = ["low cello note", "a dog barks", "high flute note", "rain on the roof"]
Guard, Check, Certificate = NODE_CLASS_MAPPINGS.values()


@pytest.fixture(autouse=True)
def as_in_comfyui():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """A calibrated index of four clips, whose files are there."""
    folder = tmp_path_factory.mktemp("clips")
    save_clips(folder, [bands(i) for i in range(4)], caption=CAPTIONS)
    made = embedder("magmel")
    with torch.inference_mode(False):
        built = TrainingIndex.build(folder / "clips", made, captions=folder / "captions.csv")
        built.save(folder / "index")
    write_calibration(folder / "index", built, made)
    return str(folder / "index")


@pytest.fixture
def output(tmp_path, monkeypatch):
    """ComfyUI's folder of outputs."""
    module = ModuleType("folder_paths")
    module.get_output_directory = lambda: str(tmp_path)
    monkeypatch.setitem(sys.modules, "folder_paths", module)
    return tmp_path


def sounding(*seeds):
    return {"waveform": torch.stack([bands(seed) for seed in seeds]), "sample_rate": RATE}


# --------------------------------------------------------------------------------------- guard


def sampled(monkeypatch, index, method="auto", settings="", scale=5.0):
    """A sampling of a model that is guarded by the node, and a plain one."""
    comfy.install(monkeypatch)
    model, clip, vae = ModelPatcher(Model()), CLIP(), VAE(RATE)
    noise = torch.randn(1, 3, 4096, generator=torch.Generator().manual_seed(1))
    (guard,) = Guard().guard(model, method, index, clip, vae, settings)
    return [sample(one, clip, CAPTIONS[:1], noise, scale=scale, steps=3) for one in (guard, model)]


def test_a_node_guards_by_any_method_at_the_samplers_cfg(monkeypatch, index):
    assert torch.equal(*sampled(monkeypatch, "", "cfg"))
    assert torch.equal(*sampled(monkeypatch, index, "auto", "opens=0.99999"))
    for method, settings in (
        ("auto", "opens=-0.999\ncandidates=2\n"),
        ("amg", "gradient=x0\nlambda_min=-1\nlambda_max=-1"),
        ("amg-audio", "gradient=x0"),
        ("static", "  before=-2\n\n at=0.5"),
    ):
        made, plain = sampled(monkeypatch, index, method, settings)
        if method != "amg-audio":  # its thresholds are those of another model
            assert not torch.equal(made, plain), method


def test_what_a_node_is_given_is_checked(monkeypatch, index, tmp_path):
    for method, folder, settings, error, words in (
        ("amgg", index, "", BadSetting, "expected a guard among"),
        ("auto", "", "", BadSetting, "method 'auto' needs the folder of an index"),
        ("auto", str(tmp_path / "none"), "", IndexMismatch, "none"),
        ("auto", index, "watchful=1", BadSetting, "has no setting 'watchful'"),
        ("auto", index, "watch 1", BadSetting, "a setting is written NAME=VALUE"),
        ("amg", index, "", BadSetting, "write 'gradient=x0'"),
        ("cfg", "", "scale=0.5", BadSetting, "expected a guidance scale above 1"),
    ):
        with pytest.raises(error, match=words):
            sampled(monkeypatch, folder, method, settings)
    with pytest.raises(BadSetting, match="expected a guidance scale above 1"):
        sampled(monkeypatch, index, scale=0.5)


def test_a_node_runs_again_once_its_index_changes(index):
    before = Guard.IS_CHANGED(model=None, method="auto", index=index)
    assert before == Check.IS_CHANGED(audio=None, index=index, stop_at_copies=False) > 0
    assert math.isnan(Guard.IS_CHANGED(model=None, method="auto", index="/nowhere"))
    assert math.isnan(Certificate.IS_CHANGED(audio=None, saved="", index=index))


# --------------------------------------------------------------------------------------- check


def test_a_copy_is_found_and_shown(index):
    verdict, score, nearest, picture, passed = Check().check(given := sounding(1, 99), index, False)
    assert verdict.splitlines() == ["copy", "no copy"]
    first, second = map(float, score.splitlines())
    assert first == pytest.approx(1.0, abs=1e-3)
    assert second < 0.9
    assert nearest.splitlines()[0] == "a dog barks (1.wav), at 0.00 s"
    assert passed is given
    count, height, width, colours = picture.shape
    assert (count, colours) == (2, 3)
    assert height == 2 * 96 * 3 + 6
    assert width > 100
    assert 0.0 <= float(picture.min()) < 0.1
    assert 0.9 < float(picture.max()) <= 1.0
    top, bottom = picture[0, : 96 * 3], picture[0, -96 * 3 :]
    assert float((top - bottom).abs().mean()) < 0.02  # the copy looks like its clip
    assert float((picture[1, : 96 * 3] - picture[1, -96 * 3 :]).abs().mean()) > 0.1


def test_a_workflow_may_stop_at_copies(index):
    with pytest.raises(GuardError, match="the sound does not pass: copy"):
        Check().check(sounding(99, 1), index, True)
    silent = {"waveform": torch.zeros(1, 1, RATE), "sample_rate": RATE}
    with pytest.raises(GuardError, match="not judged: it is silent"):
        Check().check(silent, index, True)
    assert Check().check(sounding(99), index, True)[0] == "no copy"


def test_sound_that_is_not_judged_says_why(index):
    silent = {"waveform": torch.zeros(1, 2, RATE), "sample_rate": RATE}
    verdict, score, nearest, picture, _ = Check().check(silent, index, False)
    assert verdict.startswith("not judged: it is silent")
    assert (score, nearest) == ("", "")
    assert torch.isfinite(picture).all()


def test_a_clip_whose_sound_is_not_there_leaves_its_picture_black(certified_index):
    *_, picture, _ = Check().check(sounding(1), str(certified_index), False)
    assert float(picture[0, 96 * 3 :].max()) == 0.0
    assert float(picture[0, : 96 * 3].max()) > 0.9


# --------------------------------------------------------------------------------- certificate


def test_a_certificate_is_of_the_file_that_holds_the_sound(index, output):
    made = sounding(99, 98)
    for number, wav in enumerate(made["waveform"]):
        audio.write(output / f"audio/guarded_{number + 1:05}_.flac", wav, RATE)
    audio.write(output / "audio/guarded_00003_.flac", bands(97), RATE)  # a later one
    (written,) = Certificate().certify(made, "audio/guarded", index)
    paths = [Path(line) for line in written.splitlines()]
    names = ["guarded_00001_.flac.anechoic.json", "guarded_00002_.flac.anechoic.json"]
    assert [path.name for path in paths] == names
    assert read(paths[0]).file.name == "guarded_00001_.flac"
    assert verify(paths[0].with_name("guarded_00001_.flac"), index=index).verified
    (again,) = Certificate().certify(sounding(98), "audio/guarded_00002_.flac", index)
    assert again == str(paths[1])


def test_no_certificate_is_written_of_a_copy_or_of_another_sound(index, output):
    audio.write(output / "copy_00001_.flac", bands(1), RATE)
    with pytest.raises(BadSetting, match="expected the verdict 'no copy', got 'copy'"):
        Certificate().certify(sounding(1), "copy", index)
    for made in (sounding(99), {**sounding(1), "sample_rate": RATE // 2}):
        with pytest.raises(BadAudio, match="got none that holds it"):
            Certificate().certify(made, "copy", index)
    assert not list(output.glob("*.json"))


# ------------------------------------------------------------------------------- what is shipped


def test_the_folder_is_a_custom_node(monkeypatch):
    """As ComfyUI loads it: by its path, under the name of the folder."""
    name = "/custom_nodes/comfyui-anechoic"
    spec = importlib.util.spec_from_file_location(
        name, FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    assert list(module.NODE_CLASS_MAPPINGS) == list(NODE_CLASS_MAPPINGS)
    assert module.NODE_DISPLAY_NAME_MAPPINGS == NODE_DISPLAY_NAME_MAPPINGS
    for part in [key for key in sys.modules if key.startswith(f"{name}.")]:
        monkeypatch.delitem(sys.modules, part)


def test_each_node_is_what_comfyui_asks_of_one():
    for name, node in NODE_CLASS_MAPPINGS.items():
        assert callable(getattr(node, node.FUNCTION))
        assert node.DESCRIPTION
        assert node.CATEGORY == "anechoic"
        assert NODE_DISPLAY_NAME_MAPPINGS[name].replace(" ", "") == name
        assert json.dumps(node.INPUT_TYPES())  # ComfyUI sends them to the browser
    assert Guard.INPUT_TYPES()["required"]["method"][0][0] == "auto"


def test_the_example_workflow_connects_what_fits_together():
    workflow = json.loads((FOLDER / "examples/stable_audio_open.json").read_text())
    ours = {
        number: one for number, one in workflow.items() if one["class_type"] in NODE_CLASS_MAPPINGS
    }
    assert sorted(one["class_type"] for one in ours.values()) == sorted(NODE_CLASS_MAPPINGS)
    makes = {
        "CheckpointLoaderSimple": ("MODEL", "CLIP", "VAE"), "CLIPLoader": ("CLIP",),
        "VAEDecodeAudio": ("AUDIO",), "SaveAudio": ("AUDIO",),
    } | {name: node.RETURN_TYPES for name, node in NODE_CLASS_MAPPINGS.items()}  # fmt: skip
    for one in ours.values():
        asked = NODE_CLASS_MAPPINGS[one["class_type"]].INPUT_TYPES()
        kinds = {**asked["required"], **asked.get("optional", {})}
        assert set(one["inputs"]) == set(kinds)
        for name, value in one["inputs"].items():
            if isinstance(value, list):
                source, output = value
                assert makes[workflow[source]["class_type"]][output] == kinds[name][0], name
    for one in workflow.values():
        for value in one["inputs"].values():
            if isinstance(value, list) and value[0] in ours:
                assert value[1] < len(makes[workflow[value[0]]["class_type"]])
