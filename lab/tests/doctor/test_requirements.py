"""What a pipeline needs and takes, told before it is loaded: its files, its memory, its pace."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from anechoic_lab.demo import assets
from anechoic_lab.doctor.blueprint import fingerprint_of_files, read_blueprint
from anechoic_lab.doctor.footprint import PeakMemory, footprint
from anechoic_lab.doctor.latency import gates, measure_latency
from support import original_model
from support.model_folder import save
from support.pipelines import make as make_tiny
from support.pipelines import make_pipe

from anechoic import TrainingIndex, embedder
from anechoic.diffusers import fingerprint
from anechoic.diffusers.loading import load_pipeline
from anechoic.diffusers.pipelines import adapter_for
from anechoic.engine.memory_efficient import memory_efficient, saving_memory
from anechoic.errors import UnsupportedPipeline
from anechoic.guidance import (
    AntiMemorization,
    BasinEdge,
    ClassifierFree,
    Sequence,
    TransitionPoint,
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("shared"))


# ----------------------------------------------------------------------- a pipeline without weights


@pytest.mark.parametrize(
    "name",
    [
        "StableAudioPipeline",
        "AudioLDM2Pipeline",
        "LongCatAudioDiTPipeline",  # which makes its scheduler by itself, and saves none
        "StableDiffusionXLPipeline",
    ],
)
def test_a_blueprint_tells_what_the_loaded_pipeline_tells(name: str, tmp_path: Path) -> None:
    pipe = make_tiny(name)
    pipe.to(torch.float16).save_pretrained(tmp_path)
    blueprint = read_blueprint(tmp_path)
    loaded = load_pipeline(tmp_path, "cpu")
    parts = [part for part in loaded.components.values() if isinstance(part, torch.nn.Module)]
    assert blueprint.parameters == sum(
        tensor.numel() for part in parts for tensor in (*part.parameters(), *part.buffers())
    )
    assert all(
        tensor.is_meta for part in blueprint.modules.values() for tensor in part.parameters()
    )
    one, other = (adapter_for(pipe) for pipe in (blueprint.pipe, loaded))
    assert one.sample_rate == other.sample_rate
    assert blueprint.pipe.scheduler.config == loaded.scheduler.config
    if one.adapter.sound:
        assert one.adapter.sound.longest_s(blueprint.pipe) == one.adapter.sound.longest_s(loaded)
    assert fingerprint_of_files(blueprint) == fingerprint(loaded)  # of float16, as of float32


def test_the_demos_fingerprint_is_read_from_its_files() -> None:
    if not assets.SHIPPED.is_dir():
        pytest.skip("the demo's model is not in this tree")
    assert fingerprint_of_files(read_blueprint(assets.model_folder())) == assets.index().model


# ---------------------------------------------------------------------------------- what is needed


def test_memory_is_counted_from_when_a_tensor_is_made_to_when_it_is_dropped() -> None:
    with PeakMemory() as memory:
        one = torch.ones(100, device="meta")
        two = one + 1
        one = two.view(10, 10)  # the first is gone, and a view holds nothing
        three = two + 1
        del one, two, three
    assert (memory.peak, memory.now) == (800, 0)


def test_memory_counted_without_weights_is_what_the_tensors_of_a_cpu_take(shared: Path) -> None:
    blueprint = read_blueprint(shared / "model")
    counted = footprint(blueprint.pipe, torch.float32, "decoder")
    loaded = load_pipeline(shared / "model", "cpu")
    x = torch.randn(1, 3, 16, requires_grad=True)
    decoder = memory_efficient(loaded.vae.requires_grad_(False).modules())
    with PeakMemory() as memory, saving_memory(decoder):
        torch.autograd.grad(loaded.vae.decode(x).sample.float().sum(), x)
    assert counted is not None
    # PyTorch's CPU kernels make a few bytes more or less in a step of their own
    assert counted.guard == pytest.approx(memory.peak, rel=0.02)
    with torch.no_grad(), PeakMemory() as memory:
        loaded.vae.decode(torch.randn(1, 3, 16))
    assert counted.decoder == pytest.approx(memory.peak, rel=0.02)


def test_a_gradient_through_the_network_needs_more_and_half_precision_less(shared: Path) -> None:
    pipe = read_blueprint(shared / "model").pipe
    needed = [footprint(pipe, torch.float32, reach) for reach in ("none", "decoder", "network")]
    none, decoder, network = (one.guard for one in needed if one is not None)
    assert none == 0 < decoder < network
    half = footprint(pipe, torch.bfloat16, "decoder")
    assert half is not None
    assert half.guard < 0.6 * decoder
    assert {part.dtype for part in (pipe.vae, pipe.transformer)} == {torch.float32}  # as it was


def test_memory_of_a_pipeline_that_is_not_known_is_not_made_up(tmp_path: Path) -> None:
    make_tiny("StableDiffusionPipeline").save_pretrained(tmp_path)
    assert footprint(read_blueprint(tmp_path).pipe, torch.float32) is None


def test_a_method_reaches_as_far_back_as_the_methods_inside_it(shared: Path) -> None:
    index = TrainingIndex.load(shared / "i")
    far = AntiMemorization(index, embedder("magmel"))
    near = replace(far, gradient="x0")
    static = TransitionPoint()
    reaches = [static, replace(far, c3=0.0), near, far, Sequence(static, near, BasinEdge())]
    assert [one.gradient_reach() for one in reaches] == [
        "none", "none", "decoder", "network", "decoder",
    ]  # fmt: skip


# ------------------------------------------------------------------------------------ how long


def test_a_pace_is_worked_out_for_all_evaluations_of_the_scheduler(generate) -> None:
    from diffusers import HeunDiscreteScheduler

    pipe = make_pipe(HeunDiscreteScheduler(prediction_type="v_prediction"))
    pace = measure_latency(pipe, ClassifierFree(), "a dog barks", steps=10)
    assert pace.evaluations == 19  # twice a step, but once at the end
    assert pace.sound_s == pace.around_s + 19 * pace.evaluation_s
    assert pace.evaluation_s > 0
    assert pace.memory is None  # only a GPU tells
    assert not pipe.transformer._forward_pre_hooks


def test_a_gate_is_measured_shut_and_open(shared: Path) -> None:
    amg = AntiMemorization(TrainingIndex.load(shared / "i"), embedder("magmel"))
    shut, opened = gates(amg).values()
    assert (shut.threshold(0.5), opened.threshold(0.5)) == (0.9999, -1.0)
    assert list(gates(TransitionPoint())) == [""]


# --------------------------------------------------------------------------- the original's format


def test_a_checkpoint_of_stable_audio_tools_is_examined_like_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    mine = original_model.save_checkpoint(tmp_path / "mine")
    blueprint = read_blueprint(mine)
    loaded = load_pipeline(mine / "model.safetensors", "cpu")
    assert blueprint.missing == []
    assert fingerprint_of_files(blueprint) == fingerprint(loaded)
    (mine / "model_config.json").write_text('{"model_type": "autoencoder"}')
    with pytest.raises(UnsupportedPipeline, match="cannot express this model"):
        read_blueprint(mine)
