"""Models of stable-audio-tools in diffusers' classes: the same weights, and the same sound."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import original_model as tiny
from torch import Tensor

from anechoic import guard
from anechoic.diffusers.loading import load_pipeline
from anechoic.diffusers.original import converted, to_file, to_folder
from anechoic.diffusers.original.checkpoint import Checkpoint, find_checkpoint
from anechoic.errors import OutputExists, UnsupportedPipeline
from anechoic.guidance import ClassifierFree

CONDITIONERS = "conditioner.conditioners.prompt."


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_checkpoint(tmp_path_factory.mktemp("original") / "mine")


@pytest.fixture(scope="module")
def folder(mine: Path) -> Path:
    to_folder(found(mine), mine.with_name("diffusers"))
    return mine.with_name("diffusers")


def found(place: Path) -> Checkpoint:
    checkpoint = find_checkpoint(place)
    assert checkpoint is not None
    return checkpoint


def there_and_back(checkpoint: Path) -> dict[str, Tensor]:
    """The weights after both ways."""
    to_folder(found(checkpoint), checkpoint.with_name("there"))
    to_file(checkpoint.with_name("there"), checkpoint.with_name("back") / "model.safetensors")
    return load_file(checkpoint.with_name("back") / "model.safetensors")


def require_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """The same names, number formats and bits."""
    assert one.keys() == other.keys()
    assert [name for name in one if one[name].dtype != other[name].dtype] == []
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


# ----------------------------------------------------------------------------- there and back


def test_there_and_back_every_weight_is_the_same(mine: Path, folder: Path, tmp_path: Path) -> None:
    to_file(folder, tmp_path / "model.safetensors")
    require_equal(load_file(tmp_path / "model.safetensors"), load_file(mine / "model.safetensors"))
    about = (tmp_path / "model_config.json").read_bytes()
    assert about == (mine / "model_config.json").read_bytes()


def test_a_projection_of_the_text_comes_along(tmp_path: Path) -> None:
    more = tiny.weights({f"{CONDITIONERS}proj_out.weight": (64, 32),
                         f"{CONDITIONERS}proj_out.bias": (64,)})  # fmt: skip
    mine = tiny.save_checkpoint(tmp_path / "mine", state=more, text_width=32)
    require_equal(there_and_back(mine), load_file(mine / "model.safetensors"))


def test_a_text_encoder_that_was_trained_along_comes_along(tmp_path: Path) -> None:
    shapes = {n: tuple(v.shape) for n, v in tiny.t5_encoder(64).state_dict().items()}
    trained = {n: value + 0.5 for n, value in tiny.weights(shapes).items()}
    trained["encoder.embed_tokens.weight"] = trained["shared.weight"].clone()
    more = {f"{CONDITIONERS}model.{name}": value for name, value in trained.items()}
    mine = tiny.save_checkpoint(
        tmp_path / "mine", state=more, model__conditioning__configs__0__config__enable_grad=True
    )
    require_equal(there_and_back(mine), load_file(mine / "model.safetensors"))


def test_weights_stay_in_their_number_format(tmp_path: Path) -> None:
    half = {
        name: value.half()
        for name, value in tiny.reference_state().items()
        if not name.endswith("inv_freq")  # which is no weight, and is computed
    }
    mine = tiny.save_checkpoint(tmp_path / "mine", state=half)
    require_equal(there_and_back(mine), load_file(mine / "model.safetensors"))


def test_the_way_back_needs_the_configuration_and_replaces_nothing(
    mine: Path, folder: Path, tmp_path: Path
) -> None:
    pipe = load_pipeline(folder, "cpu")
    pipe.save_pretrained(tmp_path / "tuned")  # diffusers knows nothing of model_config.json
    file, config = tmp_path / "back/model.safetensors", mine / "model_config.json"
    with pytest.raises(UnsupportedPipeline, match=r"the way back needs the model_config\.json"):
        to_file(tmp_path / "tuned", file)
    to_file(tmp_path / "tuned", file, config)
    with pytest.raises(OutputExists, match=r"model\.safetensors' exists already"):
        to_file(tmp_path / "tuned", file, config)
    file.unlink()
    file.with_name("model_config.json").write_text("{}")
    with pytest.raises(OutputExists, match=r"model_config\.json' exists already"):
        to_file(tmp_path / "tuned", file, config)
    to_file(tmp_path / "tuned", file, config, overwrite=True)
    require_equal(load_file(file), load_file(mine / "model.safetensors"))


def test_the_way_back_refuses_the_configuration_of_another_model(
    folder: Path, tmp_path: Path
) -> None:
    content = tiny.config()
    tiny.change(content, model__diffusion__config__depth=3)
    (tmp_path / "model_config.json").write_text(json.dumps(content))
    with pytest.raises(UnsupportedPipeline) as error:
        to_file(folder, tmp_path / "model.safetensors", tmp_path / "model_config.json")
    assert str(error.value) == (
        "model_config.json asks for a weight 'transformer.transformer_blocks.2.norm1.weight' of "
        "shape [64], but the model has nothing there; give the configuration that belongs to "
        "these weights"
    )
    assert not (tmp_path / "model.safetensors").exists()


# ---------------------------------------------------------------------------- the same sound


class Replayed:
    """The noise that the original's sampler added, in the place of the scheduler's own."""

    def __init__(self, *_: Any, **__: Any):
        # the step to no noise at all asks, too
        self.left = iter([*tiny.reference()[0]["added"], torch.zeros(())])

    def __call__(self, *_: Any) -> Tensor:
        return next(self.left)


@pytest.fixture
def same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    import diffusers.schedulers.scheduling_cosine_dpmsolver_multistep as scheduling

    monkeypatch.setattr(scheduling, "BrownianTreeNoiseSampler", Replayed)


def generate(pipe: Any, prompt: str = tiny.CAPTION) -> Tensor:
    last = tiny.SIGMAS[1]  # where the original starts at, and diffusers at its hypotenuse with 1
    sound: Tensor = pipe(
        prompt,
        num_inference_steps=tiny.STEPS,
        guidance_scale=tiny.SCALE,
        audio_end_in_s=tiny.SECONDS,
        latents=tiny.reference()[0]["noise"] * last / (last**2 + 1) ** 0.5,
        output_type="pt",
    ).audios
    return sound


def difference(sound: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference, in that of the sound."""
    expected = expected[..., : sound.shape[-1]]
    return float((sound - expected).pow(2).mean().sqrt() / expected.pow(2).mean().sqrt())


@pytest.mark.usefixtures("same_noise")
def test_the_same_noise_is_the_same_sound_as_of_the_original_code(folder: Path) -> None:
    tensors, about = tiny.reference()
    assert about["stable-audio-tools"] == "0.0.20"
    pipe = load_pipeline(folder, "cpu")
    pipe.set_progress_bar_config(disable=True)
    sound = generate(pipe)
    assert difference(sound, tensors["sound_float32"]) < 1e-4
    # its text encoder comes in half precision, which is a slightly other prompt
    assert difference(sound, tensors["sound"]) < 1e-2
    assert difference(generate(pipe, "a dog barks"), tensors["sound_float32"]) > 0.1
    with guard(pipe, ClassifierFree(tiny.SCALE)):
        assert torch.equal(generate(pipe), sound)


# ------------------------------------------------------------- given in the place of a pipeline


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    yield tmp_path / "assets"
    assert list((tmp_path / "assets").rglob("*.part")) == []


def test_a_checkpoint_is_loaded_by_its_file_or_its_folder_and_converted_once(
    mine: Path, folder: Path, cache: Path
) -> None:
    made = converted(found(mine))
    assert cache in made.parents
    before = (made / "model_index.json").stat().st_mtime_ns
    wanted = load_pipeline(folder, "cpu").transformer.state_dict()
    for name in (mine, mine / "model.safetensors"):
        loaded = load_pipeline(name, "cpu").transformer.state_dict()
        require_equal(loaded, wanted)
    assert (made / "model_index.json").stat().st_mtime_ns == before


def test_a_changed_checkpoint_is_converted_again(tmp_path: Path, cache: Path) -> None:
    mine = tiny.save_checkpoint(tmp_path / "mine")
    before = converted(found(mine))
    weights = load_file(mine / "model.safetensors")
    weights["model.model.postprocess_conv.weight"] += 1
    save_file(weights, mine / "model.safetensors")
    after = converted(found(mine))
    assert after != before
    one, other = (
        load_pipeline(made, "cpu").transformer.postprocess_conv.weight for made in (before, after)
    )
    assert torch.equal(one + 1, other)
