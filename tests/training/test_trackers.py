"""What trackers are given: curves, the histogram, the worst sounds; and how Lightning is asked."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from anechoic import audio
from anechoic.errors import BadSetting
from anechoic.training import Observation, PanelSound, callback, lightning_callback, trackers

NAME = "step-0000010-1.wav"


@pytest.fixture
def found(tmp_path):
    audio.write(tmp_path / NAME, 0.1 * torch.randn(2, 100), 8000)
    sounds = tuple(
        PanelSound(text, True, 0, status, score, "a.wav", 2.0, None)
        for text, status, score in (("a", "copy", 0.9), ("b", "no copy", 0.4))
    )
    return Observation(10, sounds, 100.0, 2.0, (NAME,))


def test_tensorboard_gets_curves_a_histogram_and_players(found, tmp_path) -> None:
    calls = []
    writer = SimpleNamespace(
        add_scalar=lambda *given: calls.append(given),
        add_histogram=lambda name, values, step: calls.append((name, values.tolist(), step)),
        add_audio=lambda name, wav, step, rate: calls.append((name, list(wav.shape), step, rate)),
        flush=lambda: calls.append("flush"),
    )
    trackers.tensorboard(writer)(found, tmp_path)
    assert ("anechoic/copies/training", 0.5, 10) in calls
    assert ("anechoic/time_share", 0.02, 10) in calls
    assert ("anechoic/similarity", pytest.approx([0.9, 0.4]), 10) in calls
    assert ("anechoic/worst 1", [1, 100], 10, 8000) in calls
    assert calls[-1] == "flush"


def test_weights_and_biases_gets_one_log(found, tmp_path, monkeypatch) -> None:
    library = ModuleType("wandb")
    library.Histogram, library.Audio = list, lambda path: path
    logged: list[dict] = []
    library.run = SimpleNamespace(log=logged.append)
    monkeypatch.setitem(sys.modules, "wandb", library)
    for track in trackers.usual(tmp_path)[-1:]:
        track(found, tmp_path)
    (content,) = logged
    assert content["anechoic/step"] == 10
    assert content["anechoic/similarity"] == [0.9, 0.4]
    assert content["anechoic/worst 1"] == str(tmp_path / NAME)


def test_the_console_gets_a_line(found, tmp_path, capsys) -> None:
    trackers.console(found, tmp_path)
    assert "step 10: 1 copy of 2 from training captions" in capsys.readouterr().out


def test_lightning_is_stopped_and_asked_once_a_step(monkeypatch) -> None:
    library = ModuleType("pytorch_lightning")
    library.Callback = object
    monkeypatch.setitem(sys.modules, "pytorch_lightning", library)
    asked = []
    hook = lightning_callback(lambda step: asked.append(step) or step >= 2)
    trainer = SimpleNamespace(global_step=0, should_stop=False)
    for step in (0, 1, 1, 2):  # the first two gradients are accumulated
        trainer.global_step = step
        hook.on_train_batch_end(trainer, None, None, None, 0)
    assert asked == [1, 2]
    assert trainer.should_stop


def test_without_lightning_the_other_way_is_named(monkeypatch) -> None:
    monkeypatch.setattr(callback, "LIBRARIES", ("no_such_library",))
    with pytest.raises(BadSetting, match="call the monitor after each step"):
        lightning_callback(lambda step: False)
