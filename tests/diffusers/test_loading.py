"""Loading stock pipelines: what comes back, and the one sentence where nothing can."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.hub import RefusingHub, serving
from support.pipelines import CAPTIONS, make_pipe

from anechoic.diffusers.adapters import ADAPTERS
from anechoic.diffusers.loading import load_pipeline
from anechoic.errors import BadSetting, UnsupportedPipeline

MODULES = ("transformer", "vae", "text_encoder", "projection_model")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    make_pipe().save_pretrained(folder)
    return folder


@pytest.fixture
def model(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A saved pipeline of one's own, "model" in the working directory."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(saved, "model"))


def python(code: str, *arguments: str, **environment: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_pipeline_comes_back_as_it_was_saved(saved: Path, generate) -> None:
    loaded = load_pipeline(saved, "cpu")
    assert torch.equal(generate(loaded), generate(make_pipe()))


def test_weights_are_frozen_so_that_a_guards_gradient_holds_none_of_them(saved: Path) -> None:
    loaded = load_pipeline(saved, "cpu")
    for name in MODULES:
        assert not any(p.requires_grad for p in loaded.components[name].parameters())


def test_every_part_gets_the_asked_for_dtype_whatever_it_was_saved_in(model: Path) -> None:
    make_pipe().to(torch.float16).save_pretrained(model)
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        loaded = load_pipeline(model, "cpu", name)
        assert {loaded.components[part].dtype for part in MODULES} == {dtype}


def test_loading_draws_no_bars(saved: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_pipeline(saved, "cpu")
    assert capfd.readouterr() == ("", "")


def test_a_pipeline_with_the_demos_codec_loads_in_a_fresh_interpreter(tmp_path: Path) -> None:
    from anechoic_lab.demo.codec import MelCodec
    from anechoic_lab.demo.model import build_pipeline

    pipe = build_pipeline(CAPTIONS, MelCodec(iterations=2), seed=0, layers=1, heads=2)
    pipe.save_pretrained(tmp_path / "model")
    code = """
import sys, torch
from anechoic.diffusers.loading import load_pipeline
pipe = load_pipeline(sys.argv[1], "cpu")
print(type(pipe.vae).__module__, pipe.vae.config.iterations)
print(*(p.double().sum().item() for p in pipe.transformer.parameters()))
"""
    kind, sums = python(code, str(tmp_path / "model")).splitlines()
    assert kind == "anechoic_lab 2"
    assert sums == " ".join(str(p.double().sum().item()) for p in pipe.transformer.parameters())


def edit(file: str, **values: object) -> None:
    path = Path("model", file)
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def cut(file: str) -> None:
    path = Path("model", file)
    path.write_bytes(path.read_bytes()[:-20])


WEIGHTS, TEXT = "diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"
BROKEN: dict[str, tuple[Callable[[], object], str]] = {
    "folder missing": (
        lambda: shutil.rmtree("model"),
        "'model' is not a folder; give the folder of a saved diffusers pipeline, a checkpoint of "
        "stable-audio-tools (.safetensors or .ckpt), or a hub id such as "
        "'stabilityai/stable-audio-open-1.0'",
    ),
    "no pipeline": (
        lambda: Path("model/model_index.json").unlink(),
        "'model' has no model_index.json, so it is not a diffusers pipeline; give the folder that "
        "'save_pretrained' of a whole pipeline wrote, or a checkpoint of stable-audio-tools with "
        "its model_config.json",
    ),
    "a checkpoint of stable-audio-tools": (
        lambda: (
            Path("model/model_index.json").unlink(),
            Path("model/model_config.json").write_text('{"model_type": "autoencoder"}'),
            Path("model/model.ckpt").write_bytes(b""),
        ),
        "diffusers' StableAudioPipeline cannot express this model: expected 'diffusion_cond' for "
        "'model_type' in model_config.json, got 'autoencoder'; use a model of Stable Audio Open "
        "1.0's kind",
    ),
    "damaged index": (
        lambda: Path("model/model_index.json").write_text("{"),
        "'model': model_index.json is not JSON (Expecting property name enclosed in double "
        "quotes); fetch or save the model again",
    ),
    "index of something else": (
        lambda: Path("model/model_index.json").write_text("[]"),
        "'model': model_index.json is not a JSON object; fetch or save the model again",
    ),
    "index without a pipeline": (
        lambda: Path("model/model_index.json").write_text("{}"),
        "'model' has a model_index.json that names no pipeline; fetch or save the model again",
    ),
    "a part of one word": (
        lambda: edit("model_index.json", vae=["diffusers"]),
        "'model' has a model_index.json whose 'vae' is not a library and a class; fetch or save "
        "the model again",
    ),
    "another pipeline": (
        lambda: (edit("model_index.json", _class_name="FluxPipeline"), cut(TEXT)),
        f"one of the pipelines {', '.join(ADAPTERS)} was expected, but 'model' is a "
        "FluxPipeline, which cannot be guarded; use another model",
    ),
    "a pipeline that is broken upstream": (
        lambda: edit("model_index.json", _class_name="MusicLDMPipeline"),
        "'model': MusicLDMPipeline cannot be guarded: it is deprecated in diffusers",
    ),
    "a pipeline's own code": (
        lambda: edit("model_index.json", _class_name=["pipeline", "Mine"]),
        f"one of the pipelines {', '.join(ADAPTERS)} was expected, but 'model' is a pipeline that "
        "brings its own code, which cannot be guarded; use another model",
    ),
    "no tokenizer": (
        lambda: shutil.rmtree("model/tokenizer"),
        "'model' has no folder 'tokenizer', which its model_index.json names; fetch or save the "
        "whole pipeline again",
    ),
    "no weights": (
        lambda: Path("model/transformer", WEIGHTS).unlink(),
        "'model' cannot be loaded (Error no file named diffusion_pytorch_model.safetensors found "
        "in directory model/transformer); fetch or save the whole pipeline again, with its "
        "weights as safetensors",
    ),
    "no text encoder's weights": (
        lambda: Path("model", TEXT).unlink(),
        "'model' cannot be loaded (Error no file named model.safetensors",
    ),
    "pickled weights": (
        lambda: Path("model/vae", WEIGHTS).rename("model/vae/diffusion_pytorch_model.bin"),
        "'model' cannot be loaded (Error no file named diffusion_pytorch_model.safetensors",
    ),
    "weights cut off": (
        lambda: cut(TEXT),
        "'model/text_encoder/model.safetensors' is damaged or cut off (Error while deserializing "
        "header: incomplete metadata, file not fully covered); fetch or save it again",
    ),
    "empty weights": (
        lambda: Path("model/transformer", WEIGHTS).write_bytes(b""),
        f"'model/transformer/{WEIGHTS}' is damaged or cut off (Error while deserializing header: "
        "header too small); fetch or save it again",
    ),
    "weights of another size": (
        lambda: edit("transformer/config.json", num_layers=3, cross_attention_dim=12),
        "'model' cannot be loaded (Cannot load because",
    ),
    "an unknown part": (
        lambda: edit("model_index.json", vae=["nowhere", "Codec"]),
        "'model' cannot be loaded (nowhere is not one of the libraries",
    ),
}


def test_weights_that_another_user_may_not_read_are_named_with_what_helps(
    model, monkeypatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != WEIGHTS)
    with pytest.raises(UnsupportedPipeline, match=r"not be read by this user.*chmod -R"):
        load_pipeline(str(model))


@pytest.mark.parametrize("kind", BROKEN)
def test_a_folder_that_cannot_be_loaded_is_one_sentence(model: Path, kind: str) -> None:
    spoil, sentence = BROKEN[kind]
    spoil()
    with pytest.raises(UnsupportedPipeline) as error:
        load_pipeline("model", "cpu")
    assert str(error.value).startswith(sentence)
    assert "\n" not in str(error.value)


def test_a_file_and_a_path_are_no_hub_ids(model: Path) -> None:
    for name in ("model/model_index.json", "./nowhere", "/no/where", "a/b/c", "nowhere"):
        with pytest.raises(UnsupportedPipeline, match="is not a folder; give the folder"):
            load_pipeline(name, "cpu")


def test_a_hub_id_is_not_asked_for_while_offline() -> None:
    with pytest.raises(UnsupportedPipeline) as error:
        load_pipeline("nobody/nothing", "cpu")  # the tests run with HF_HUB_OFFLINE
    assert str(error.value) == (
        "there is no folder 'nobody/nothing' here, and no whole copy of a model 'nobody/nothing' "
        "in the hub's cache, and HF_HUB_OFFLINE is set; unset it, or give the folder of a saved "
        "pipeline"
    )


@pytest.mark.parametrize("whole", [True, False])
def test_a_model_in_the_hubs_cache_loads_while_offline_if_it_is_whole(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    cached = tmp_path / "models--me--mine"
    snapshot = cached / "snapshots" / ("0" * 40)
    shutil.copytree(saved, snapshot)
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text("0" * 40)
    if whole:
        assert type(load_pipeline("me/mine", "cpu")).__name__ == "StableAudioPipeline"
    else:
        shutil.rmtree(snapshot / "vae")
        with pytest.raises(UnsupportedPipeline, match="has no folder 'vae'"):
            load_pipeline("me/mine", "cpu")


def test_what_the_hub_refuses_is_one_sentence_each(tmp_path: Path) -> None:
    code = """
import sys
from anechoic.diffusers.loading import load_pipeline
for name in sys.argv[1:]:
    try:
        load_pipeline(name, "cpu")
    except Exception as error:
        print(type(error).__name__, error)
"""
    with serving(RefusingHub) as endpoint:
        told = python(
            code,
            *(f"{name}/model" for name in ("gated", "private", "expired", "plain")),
            "no--id/model",
            HF_ENDPOINT=endpoint,
            HF_HOME=str(tmp_path),
            HF_HUB_OFFLINE="0",
            NO_PROXY="127.0.0.1",
        )
    unseen = (
        "UnsupportedPipeline there is no folder '{0}/model' here, and no model '{0}/model' on the "
        "hub that you may see; check the name, or log in with 'hf auth login' if it is private"
    )
    assert told.splitlines() == [
        f"UnsupportedPipeline model 'gated/model' is gated; accept its terms at {endpoint}/gated/"
        "model and log in with 'hf auth login', or set HF_TOKEN",
        unseen.format("private"),
        unseen.format("expired"),
        "UnsupportedPipeline model 'plain/model' on the hub has no model_index.json, so it is not "
        "a diffusers pipeline; use another model",
        "UnsupportedPipeline 'no--id/model' is neither a folder here nor a valid hub id; check "
        "the name",
    ]


def test_an_unknown_device_or_dtype_is_refused_before_anything_is_read() -> None:
    with pytest.raises(BadSetting, match=r"^device 'abacus' cannot be used here \(.*'cpu' always"):
        load_pipeline("nowhere", "abacus")
    with pytest.raises(BadSetting, match=r"^device 'cuda:99' cannot be used here"):
        load_pipeline("nowhere", "cuda:99")
    with pytest.raises(
        BadSetting, match=r"^dtype is one of float32, bfloat16, float16, got 'int8'"
    ):
        load_pipeline("nowhere", "cpu", "int8")
