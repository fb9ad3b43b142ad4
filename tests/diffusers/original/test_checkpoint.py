"""Checkpoints are found and read as data, and what cannot be read is one sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import original_model as tiny

from anechoic.diffusers.original import to_folder
from anechoic.diffusers.original.checkpoint import find_checkpoint, read_weights
from anechoic.diffusers.original.text_encoder import named
from anechoic.errors import UnsupportedPipeline

RAN = []
SPOILED = "model.model.transformer.layers.1.ff.ff.2.weight"


def ran() -> None:
    RAN.append(1)


class Code:
    """An object whose pickle runs code."""

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return ran, ()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_checkpoint(tmp_path_factory.mktemp("original") / "mine")


@pytest.fixture
def mine(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint of one's own, "mine" in the working directory."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(shared, "mine"))


def convert(place: str = "mine", text_encoder: str | None = None) -> None:
    found = find_checkpoint(Path(place))
    assert found is not None
    to_folder(found, Path("out"), text_encoder)


def pickled(content: object) -> None:
    Path("mine/model.safetensors").unlink()
    torch.save(content, "mine/model.ckpt")


def spoil(name: str, value: torch.Tensor | None) -> None:
    weights = load_file("mine/model.safetensors")
    weights.pop(name, None)
    save_file(weights if value is None else {**weights, name: value}, "mine/model.safetensors")


def training(average: bool = True) -> dict[str, object]:
    """A training checkpoint whose averaged weights are the reference's, and the others one more."""
    own = tiny.reference_state()
    state = {f"diffusion.{name}": value + (average and name.startswith("model."))
             for name, value in own.items()}  # fmt: skip
    if average:
        state |= {
            f"diffusion_ema.ema_model.{name.removeprefix('model.')}": value
            for name, value in own.items()
            if name.startswith("model.")
        } | {"diffusion_ema.initted": torch.tensor([True]), "diffusion_ema.step": torch.tensor([9])}
    return {"state_dict": state, "epoch": 3, "optimizer_states": [{"state": {}}],
            "callbacks": {"ModelCheckpoint": {"best_model_path": ""}}}  # fmt: skip


@pytest.mark.parametrize(
    "content",
    [tiny.reference_state, lambda: {"state_dict": tiny.reference_state()}, training,
     lambda: training(average=False)],
    ids=["bare", "exported", "training with averages", "training"],
)  # fmt: skip
def test_each_kind_of_checkpoint_holds_the_same_weights(
    mine: Path, content: Callable[[], object]
) -> None:
    pickled(content())
    read, own = read_weights(mine / "model.ckpt"), tiny.reference_state()
    assert read.keys() == own.keys()
    assert all(torch.equal(read[name], own[name]) for name in own)


def test_the_published_name_is_taken_of_several_and_safetensors_before_a_pickle(mine: Path) -> None:
    torch.save({}, mine / "model.ckpt")
    torch.save({}, mine / "epoch=3.ckpt")
    found = find_checkpoint(mine)
    assert found is not None
    assert found.weights == mine / "model.safetensors"
    assert find_checkpoint(Path("mine/model_config.json")) is None
    assert find_checkpoint(Path()) is None


WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "no weights": (
        lambda: Path("mine/model.safetensors").unlink(),
        "'mine' holds the model_config.json of stable-audio-tools and no weights; expected one "
        "file, .safetensors or .ckpt: give its name",
    ),
    "several weights": (
        lambda: (Path("mine/model.safetensors").rename("mine/a.ckpt"),
                 Path("mine/b.ckpt").write_bytes(b"")),
        "'mine' holds the model_config.json of stable-audio-tools and a.ckpt, b.ckpt; expected one",
    ),
    "cut off": (
        lambda: Path("mine/model.safetensors").write_bytes(
            Path("mine/model.safetensors").read_bytes()[:-20]
        ),
        "'mine/model.safetensors' is no safetensors file, or damaged (Error while deserializing "
        "header: incomplete metadata, file not fully covered); fetch or export it again",
    ),
    "empty": (
        lambda: Path("mine/model.safetensors").write_bytes(b""),
        "'mine/model.safetensors' is no safetensors file, or damaged (",
    ),
    "a missing weight": (
        lambda: spoil(SPOILED, None),
        f"model_config.json asks for a weight '{SPOILED}' of shape [64, 256], but the model has "
        "nothing there; give the configuration that belongs to these weights",
    ),
    "another shape": (
        lambda: spoil(SPOILED, torch.zeros(64, 255)),
        f"model_config.json asks for a weight '{SPOILED}' of shape [64, 256], but the model has "
        "[64, 255] there",
    ),
    "a weight too many": (
        lambda: spoil("model.model.transformer.memory_tokens", torch.zeros(4, 64)),
        "the checkpoint has 'model.model.transformer.memory_tokens' and 0 more weights that "
        "diffusers' StableAudioPipeline has no place for",
    ),
    "other positions": (
        lambda: spoil("model.model.transformer.rotary_pos_emb.inv_freq", torch.ones(16)),
        "the checkpoint's model.model.transformer.rotary_pos_emb.inv_freq differs from what "
        "diffusers computes",
    ),
    "a projection at equal widths": (
        lambda: spoil("conditioner.conditioners.prompt.proj_out.weight", torch.zeros(64, 64)),
        "'mine/model.safetensors' has a projection of its text at equal widths ('project_out' in "
        "model_config.json), which diffusers' StableAudioPipeline cannot express",
    ),
    "a pickle with code": (
        lambda: pickled({"state_dict": tiny.reference_state(), "hyper_parameters": Code()}),
        "'mine/model.ckpt' holds more than weights, and reading that could run code; where you "
        "trust it, export it with 'unwrap_model.py --use-safetensors' of stable-audio-tools, and "
        "give that file",
    ),
    "no checkpoint": (
        lambda: (pickled({}), Path("mine/model.ckpt").write_text("weights")),
        "'mine/model.ckpt' is no checkpoint of torch, or damaged (not a zip archive)",
    ),
    "an empty pickle": (
        lambda: (pickled({}), Path("mine/model.ckpt").write_bytes(b"")),
        "'mine/model.ckpt' is no checkpoint of torch, or damaged (",
    ),
    "no names": (
        lambda: pickled([torch.zeros(2)]),
        "'mine/model.ckpt' holds no weights by name; give a model's checkpoint",
    ),
    "an adapter": (
        lambda: pickled({"state_dict": {
            "model.transformer.layers.0.self_attn.to_qkv.parametrizations.weight.0.lora_A":
                torch.zeros(2, 2)}}),
        "'mine/model.ckpt' holds an adapter (LoRA) and not the model; give the model's "
        "checkpoint, and this file as '--lora'",
    ),
    "a damaged configuration": (
        lambda: Path("mine/model_config.json").write_text("{"),
        "'mine/model_config.json' is not JSON (",
    ),
    "a configuration of nothing": (
        lambda: Path("mine/model_config.json").write_text("{}"),
        "diffusers' StableAudioPipeline cannot express this model: expected 'diffusion_cond' for "
        "'model_type' in model_config.json, got None",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_a_checkpoint_that_cannot_be_converted_is_one_sentence(mine: Path, kind: str) -> None:
    spoiled, sentence = WRONG[kind]
    spoiled()
    with pytest.raises(UnsupportedPipeline) as error:
        convert()
    assert str(error.value).startswith(sentence)
    assert "\n" not in str(error.value)
    assert not RAN
    assert sorted(Path().iterdir()) == [Path("mine")]  # nothing is written


def test_weights_without_a_configuration_are_refused(mine: Path) -> None:
    (mine / "model_config.json").rename("config.json")
    with pytest.raises(UnsupportedPipeline, match=r"needs the model_config.json that it was train"):
        convert("mine/model.safetensors")
    found = find_checkpoint(mine / "model.safetensors", Path("config.json"))
    assert found is not None
    assert found.config == Path("config.json")


# ---------------------------------------------------------------------------- its text encoder


def test_an_entry_of_the_prompt_without_settings_names_the_default_encoder() -> None:
    for entry in ({"id": "prompt"}, {"id": "prompt", "config": None}):
        assert named({"model": {"conditioning": {"configs": [3, entry]}}}) == "t5-base"


def test_a_text_encoder_that_is_not_here_is_asked_for(mine: Path) -> None:
    content = json.loads((mine / "model_config.json").read_text())
    tiny.change(content, model__conditioning__configs__0__config__model_path="/nowhere")
    (mine / "model_config.json").write_text(json.dumps(content))
    with pytest.raises(UnsupportedPipeline) as error:
        convert()
    assert str(error.value) == (
        "text encoder 't5-small' is neither a folder nor in the hub's cache; fetch it with 'hf "
        'download t5-small --include "*.json" "*.model" "model*.safetensors"\', or name its folder '
        "with 'anechoic convert --text-encoder'"
    )


def test_a_text_encoder_is_found_in_the_hubs_cache(
    mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(Path("cache").absolute()))
    commit = "0" * 40
    tiny.save_text_encoder(Path(f"cache/models--google-t5--t5-small/snapshots/{commit}"))
    Path("cache/models--google-t5--t5-small/refs").mkdir()
    Path("cache/models--google-t5--t5-small/refs/main").write_text(commit)
    convert(text_encoder="t5-small")
    assert Path("out/text_encoder/model.safetensors").is_file()


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ("model.safetensors", "'t5' is no T5 encoder that can be read ("),
        (
            "tokenizer.json",
            "'t5' has no tokenizer that can be read (tokenizer.json and spiece.model",
        ),
        ("config.json", "'t5' is no T5 encoder that can be read ("),
    ],
)
def test_a_damaged_text_encoder_is_one_sentence(mine: Path, file: str, sentence: str) -> None:
    (tiny.save_text_encoder(Path("t5")) / file).unlink()
    with pytest.raises(UnsupportedPipeline) as error:
        convert(text_encoder="t5")
    assert str(error.value).startswith(sentence)


def test_a_text_encoder_of_another_width_or_without_a_weight_is_refused(mine: Path) -> None:
    text = tiny.save_text_encoder(Path("t5"), 32)
    with pytest.raises(UnsupportedPipeline) as error:
        convert(text_encoder="t5")
    assert str(error.value) == (
        "'mine/model.safetensors' takes 64 numbers for each token of its text, and text encoder "
        "'t5' gives 32; name its own with 'anechoic convert --text-encoder'"
    )
    weights = load_file(text / "model.safetensors")
    del weights["encoder.final_layer_norm.weight"]
    save_file(weights, text / "model.safetensors", {"format": "pt"})
    with pytest.raises(UnsupportedPipeline, match="'t5' lacks weights of a T5 encoder"):
        convert(text_encoder="t5")
