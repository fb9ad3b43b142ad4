"""MagMel: near a copy under faint noise, far from other sound."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from anechoic.embedders.frontend import MelBank, power_spectrum, prepare
from anechoic.embedders.magmel import MagMel
from anechoic.errors import BadSetting, UnknownEmbedder

RATE = 16_000


def pluck(hz: float, seconds: float = 1.024) -> torch.Tensor:
    """A decaying harmonic tone, [1, 1, t]."""
    time = torch.arange(int(seconds * RATE)) / RATE
    partials = [torch.sin(2 * math.pi * hz * k * time) / k for k in range(1, 6)]
    return (torch.stack(partials).sum(0) * torch.exp(-4 * time))[None, None]


def noisy(wav: torch.Tensor, snr_db: float) -> torch.Tensor:
    noise = torch.randn(wav.shape, generator=torch.Generator().manual_seed(0))
    return wav + noise * wav.square().mean().sqrt() * 10 ** (-snr_db / 20)


def log_mel(wav: torch.Tensor) -> torch.Tensor:
    """The usual descriptor for comparison: 80 dB of mel energies, from zero up, unit norm."""
    filters = MelBank(64, 1024, RATE, 40.0, 7600.0, "slaney", "slaney").filters(wav)
    power = power_spectrum(prepare(wav, RATE, RATE), 1024, 256, "reflect")
    decibels = 10 * (filters @ power).clamp_min(1e-10).log10()
    floor = decibels.amax((1, 2), keepdim=True) - 80
    return F.normalize((decibels - floor).clamp_min(0).flatten(1))


@pytest.mark.parametrize("hz", [110.0, 440.0, 1500.0])
def test_a_copy_with_noise_at_20_db_stays_where_it_was_though_log_mel_moves_away(hz):
    copy, veiled = pluck(hz), noisy(pluck(hz), 20.0)
    embed = MagMel()
    assert (embed(copy, RATE) * embed(veiled, RATE)).sum() > 0.99
    assert (log_mel(copy) * log_mel(veiled)).sum() < 0.9


def test_another_pitch_is_far_away():
    embed = MagMel()
    assert (embed(pluck(440.0), RATE) * embed(pluck(622.0), RATE)).sum() < 0.8


def test_silence_after_the_window_changes_nothing_and_sound_after_it_neither():
    embed = MagMel()
    short = pluck(440.0, 0.5)
    torch.testing.assert_close(embed(F.pad(short, (0, 90_000)), RATE), embed(short, RATE))
    # Plucks decay, so the peak that sets the level lies inside the window.
    torch.testing.assert_close(
        embed(pluck(440.0, 3.0), RATE)[:, :10], embed(pluck(440.0), RATE)[:, :10]
    )


def test_silence_has_the_flat_embedding_and_no_gradient():
    wav = torch.zeros(1, 1, RATE, requires_grad=True)
    emb = MagMel()(wav, RATE)
    assert emb.norm().item() == pytest.approx(1.0, abs=1e-5)
    (grad,) = torch.autograd.grad(emb[0, 7], wav)
    assert not grad.any()


def test_the_name_records_the_window():
    assert MagMel().name == "magmel"
    assert MagMel(seconds=2.0).name == "magmel:seconds=2.0"
    again = MagMel("seconds=2.0")
    assert (again.seconds, again.dim) == (2.0, 64 * 63)


@pytest.mark.parametrize("source", ["seconds=long", "hop=256", "2.0"])
def test_settings_that_magmel_does_not_have_are_refused(source):
    with pytest.raises(UnknownEmbedder, match=r"^expected .*, got .*; "):
        MagMel(source)


@pytest.mark.parametrize("seconds", [0.0, -1.0, 0.01, math.nan, math.inf])
def test_a_window_without_one_frame_is_refused(seconds):
    with pytest.raises(BadSetting, match=r"^expected .*, got .*; "):
        MagMel(seconds=seconds)
