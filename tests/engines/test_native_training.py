"""A fine-tuning by the library's own Lightning wrapper is stopped as it begins to copy."""

from __future__ import annotations

import importlib.util
import sys
from unittest.mock import MagicMock

import pytest
import torch
from support.memorizing import latents, verifier
from support.native import ALL_CAPTIONS, INSTALLED, LIBRARIES, MISSING, make_installed, rows

from anechoic.training import FromStableAudioTools, Monitor, Panel, lightning_callback
from anechoic.training.sketches import SWITCHES, averaged_by

pytestmark = [pytest.mark.engines, pytest.mark.skipif(not INSTALLED, reason=MISSING)]
SAMPLES, RATE = 512, 2048
CAPTIONS = ALL_CAPTIONS[:3]


class Batches(torch.utils.data.IterableDataset):
    """Latents, as the library pre-encodes them, and their conditions."""

    def __iter__(self):
        metadata = [
            {**row, "padding_mask": [torch.ones(SAMPLES // 8, dtype=torch.bool)]}
            for row in rows(CAPTIONS * 2, SAMPLES / RATE)
        ]
        while True:
            yield latents(SAMPLES // 8).repeat(2, 1, 1), metadata


def sketch(model, **settings):
    return FromStableAudioTools(
        model, steps=8, scale=2.0, sample_size=SAMPLES,
        call={"sampler_type": LIBRARIES["installed"].samplers("v")[0]}, **settings,
    )  # fmt: skip


def make(model, tmp_path, **settings):
    with torch.no_grad():
        sounds = model.pretransform.decode(latents(SAMPLES // 8))
        noise = torch.randn(8, 3, SAMPLES // 8, generator=torch.Generator().manual_seed(1))
        others = model.pretransform.decode(noise)
    known = verifier(sounds, CAPTIONS, others, RATE, 0.8)
    settings = {"every": 20, "share": None, "limit": 0.25, "track": [], **settings}
    return Monitor(sketch(model), known, Panel(tuple(CAPTIONS)), tmp_path, **settings)


def fit(wrapper, steps, callbacks=()):
    import pytorch_lightning as pl

    trainer = pl.Trainer(
        accelerator="cpu", max_steps=steps, callbacks=list(callbacks), logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    torch.manual_seed(2)
    trainer.fit(wrapper, torch.utils.data.DataLoader(Batches(), batch_size=None))
    return trainer.global_step


def wrapped(model, **settings):
    # of losses and loggers that are not used here; new versions of torchaudio have no prototypes
    for name in ("wandb", "audiotools", "torchaudio.prototype"):
        if name not in sys.modules and importlib.util.find_spec(name) is None:
            sys.modules[name] = sys.modules[f"{name}.transforms"] = MagicMock(__spec__=None)
    from stable_audio_tools.training.diffusion import DiffusionCondTrainingWrapper

    return DiffusionCondTrainingWrapper(
        model, lr=3e-3, pre_encoded=True, **{"use_ema": False, **settings}
    )


def test_a_fine_tuning_is_stopped_as_it_begins_to_copy(tmp_path) -> None:
    model = make_installed()
    monitor = make(model, tmp_path)
    steps = fit(wrapped(model), 400, [lightning_callback(monitor)])
    assert steps < 400
    assert monitor.observations[-1].step == steps
    assert monitor.observations[0].copies().value < monitor.observations[-1].copies().value == 1
    assert all(sound.distance > 0 for sound in monitor.observations[0].sounds)


def test_the_weights_are_bit_for_bit_those_without_a_monitor(tmp_path) -> None:
    trained = []
    for watched in (False, True):
        model = make_installed()
        before = [getattr(place, name) for place, name in SWITCHES]
        monitor = make(model, tmp_path, every=2, limit=1)
        fit(wrapped(model), 5, [lightning_callback(monitor)] if watched else [])
        assert [getattr(place, name) for place, name in SWITCHES] == before
        trained.append([weight.detach().clone() for weight in model.model.parameters()])
    assert len(monitor.observations) == 2
    assert all(torch.equal(a, b) for a, b in zip(*trained, strict=True))


def test_it_generates_with_the_averaged_weights(tmp_path) -> None:
    model = make_installed()
    wrapper = wrapped(model, use_ema=True)
    fit(wrapper, 3)
    own = model.model
    plain = sketch(model)(CAPTIONS[:1], [0]).sounds[0]
    averages = sketch(model, weights=averaged_by(wrapper))(CAPTIONS[:1], [0]).sounds[0]
    assert model.model is own
    assert not torch.equal(plain, averages)
    own.load_state_dict(wrapper.diffusion_ema.ema_model.state_dict())
    torch.testing.assert_close(sketch(model)(CAPTIONS[:1], [0]).sounds[0], averages)
