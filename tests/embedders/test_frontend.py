"""What every embedder does first: mono, rate, level, spectrum."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers.audio_utils import mel_filter_bank

from anechoic.audio import mono, window_starts
from anechoic.embedders import frontend
from anechoic.embedders.frontend import (
    MelBank,
    power_spectrum,
    prepare,
)
from anechoic.errors import BadAudio

CPU = torch.device("cpu")


def tone(hz: float, sample_rate: int, seconds: float = 0.5) -> torch.Tensor:
    time = torch.arange(int(seconds * sample_rate)) / sample_rate
    return torch.sin(2 * math.pi * hz * time)


def test_a_resampled_tone_is_the_tone_at_the_new_rate():
    ours = prepare(tone(440.0, 44_100)[None, None], 44_100, 16_000)[0]
    inside = slice(400, -400)  # the ends ring: the tone begins and stops at once
    torch.testing.assert_close(ours[inside], tone(440.0, 16_000)[inside], atol=2e-3, rtol=0)


@pytest.mark.parametrize(("old", "new"), [(44_101, 16_000), (11_127, 22_050), (16_001, 16_000)])
def test_rates_without_a_common_divisor_are_resampled_as_any_other(monkeypatch, old, new):
    # Julius keeps a kernel of `old` taps for each of `new` phases: 8 GB and more than a minute.
    monkeypatch.setattr(frontend, "_resampler", None)
    ours = prepare(tone(440.0, old)[None, None], old, new)[0]
    assert len(ours) == math.ceil(int(0.5 * old) * new / old)
    inside = slice(600, -600)
    expected = tone(440.0, new)[: len(ours)]
    torch.testing.assert_close(ours[inside], expected[inside], atol=2e-3, rtol=0)


def test_both_ways_to_resample_agree_and_carry_the_same_gradient(monkeypatch):
    def resampled() -> tuple[torch.Tensor, torch.Tensor]:
        wav = torch.randn(2, 3000, generator=torch.Generator().manual_seed(0)).requires_grad_()
        out = frontend._resampled(wav, 44_100, 16_000)
        out.square().sum().backward()
        return out, wav.grad

    kernels = resampled()
    monkeypatch.setattr(frontend, "DENSE", 0)
    monkeypatch.setattr(frontend, "BLOCK", 10_000)  # several blocks
    for ours, theirs in zip(resampled(), kernels, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0)


def test_an_embedder_hears_what_an_index_and_a_detector_hear():
    wav = torch.randn(4, 1, 4000, generator=torch.Generator().manual_seed(0)) * 0.1
    plain = prepare(wav, 8000, 8000)
    for other in (torch.cat([wav, -wav], 1), wav + 0.3, torch.cat([wav + 0.3, -wav], 1)):
        heard = prepare(other, 8000, 8000)
        assert torch.equal(heard, prepare(mono(other, 8000)[:, None], 8000, 8000))
        similarity = torch.cosine_similarity(heard, plain).abs()  # a sign is not heard
        assert torch.allclose(similarity, torch.ones(4), atol=1e-3)


def test_a_gradient_flows_to_the_channel_that_is_heard():
    wav = torch.randn(1, 1, 4000, generator=torch.Generator().manual_seed(0)) * 0.1
    both = torch.cat([0.9 * wav, -wav], 1).requires_grad_()
    prepare(both, 8000, 8000).square().sum().backward()
    assert both.grad[0, 0].abs().max() == 0
    assert both.grad[0, 1].abs().max() > 0


def test_the_spectrum_of_a_tone_is_the_closed_form_of_a_hann_window():
    # A tone in the middle of bin k: the window's mean amplitude, half of it on either side of zero.
    power = power_spectrum(tone(32 * 16_000 / 1024, 16_000)[None], 1024, 256, "reflect")[0, :, 8]
    assert power[32].item() == pytest.approx((1024 / 4) ** 2, rel=1e-4)
    assert power[31].item() == pytest.approx((1024 / 8) ** 2, rel=1e-4)
    assert power[36:].max().item() < 1e-3


def test_every_sample_of_a_batch_is_brought_to_its_own_full_scale():
    quiet, loud = torch.randn(2, 2, 4000, generator=torch.Generator().manual_seed(0)) * 0.1
    both = prepare(torch.stack([quiet * 1e-3, loud]), 8000, 8000)
    torch.testing.assert_close(both[:1], prepare(quiet[None], 8000, 8000))
    torch.testing.assert_close(both.abs().amax(1), torch.ones(2))


@pytest.mark.parametrize("norm", ["slaney", "sum"])
def test_mel_filters_have_the_area_that_their_norm_names(norm):
    filters = MelBank(20, 4096, 16_000, 40.0, 7600.0, "htk", norm).filters(torch.zeros(1).double())
    width_hz = 16_000 / 4096 if norm == "slaney" else 1.0
    # A triangle's area in Hz is exact only for infinitely many bins.
    torch.testing.assert_close(
        filters.sum(1) * width_hz, torch.ones(20).double(), atol=0.02, rtol=0
    )


@pytest.mark.filterwarnings("ignore:At least one mel filter")  # a band narrower than a bin
@pytest.mark.parametrize("scale", ["slaney", "htk"])
@pytest.mark.parametrize(
    ("bands", "size", "rate", "low_hz", "high_hz"),
    [
        (64, 1024, 16_000, 40.0, 7600.0),
        (64, 1024, 48_000, 50.0, 14_000.0),
        (128, 1024, 22_050, 0.0, 11_025.0),
    ],
)
def test_the_mel_bank_is_that_of_transformers_bit_for_bit(
    bands, size, rate, low_hz, high_hz, scale
):
    for norm in ("slaney", None):
        theirs = mel_filter_bank(size // 2 + 1, bands, low_hz, high_hz, rate, norm, scale)
        ours = MelBank(bands, size, rate, low_hz, high_hz, scale, norm).weights()
        assert np.array_equal(ours, theirs.T)


@pytest.mark.parametrize(
    ("length", "size", "hop"), [(25, 10, 5), (12, 10, 5), (3, 10, 5), (20, 10, 5)]
)
def test_windows_cover_everything_and_end_with_the_sound(length, size, hop):
    starts = window_starts(length, size, hop)
    assert set().union(*(range(s, s + size) for s in starts)) >= set(range(length))
    assert starts[-1] == max(length - size, 0)
    assert len(starts) == len(set(starts))


def test_half_precision_is_raised_and_double_is_kept():
    wav = torch.rand(1, 1, 64)
    assert prepare(wav.bfloat16(), 8000, 8000).dtype == torch.float32
    assert prepare(wav.double(), 8000, 16_000).dtype == torch.float64


@pytest.mark.parametrize(
    "wav", [torch.zeros(1, 8), torch.zeros(1, 1, 0), torch.full((1, 1, 8), math.nan)]
)
def test_what_is_no_sound_is_refused_in_one_sentence(wav):
    with pytest.raises(BadAudio, match=r"^expected .*, got .*; "):
        prepare(wav, 8000, 8000)
