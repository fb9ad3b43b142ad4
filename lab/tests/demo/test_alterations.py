"""What was done to a clip is what is said: spectra, levels, lengths."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from anechoic_lab.demo import alterations as alter
from support.detector_sounds import RATE, tune

from anechoic.errors import BadSetting

CLIP = tune(0, 1.0).numpy()
OTHER = tune(1, 1.0).numpy()
WHITE = np.random.default_rng(0).standard_normal(1 << 16).astype(np.float32)


def power(wav: np.ndarray) -> float:
    return float(np.mean(np.square(wav, dtype=np.float64)))


def pitch_hz(wav: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(wav * np.hanning(len(wav)), 1 << 17))
    return int(spectrum.argmax()) * RATE / (1 << 17)


EVERY = {**alter.ALTERATIONS, **alter.EDITS}


@pytest.mark.parametrize("name", EVERY)
def test_an_alteration_is_seeded_and_leaves_the_clip_alone(name: str) -> None:
    before = CLIP.copy()
    made = [EVERY[name](CLIP, RATE, np.random.default_rng(5), OTHER) for _ in range(2)]
    np.testing.assert_array_equal(made[0], made[1])
    np.testing.assert_array_equal(CLIP, before)
    assert made[0].dtype == np.float32
    assert np.isfinite(made[0]).all()


def test_a_tilt_is_flat_at_its_pivot_and_half_the_tilt_at_both_ends() -> None:
    response = np.abs(np.fft.rfft(alter.equalise(WHITE, RATE, 12.0))) / np.abs(np.fft.rfft(WHITE))
    at = {hz: 20 * np.log10(response[round(hz * len(WHITE) / RATE)]) for hz in (40, 1000, 7500)}
    assert at[40] == pytest.approx(-6, abs=0.2)
    assert at[1000] == pytest.approx(0, abs=0.2)
    assert at[7500] == pytest.approx(6, abs=0.2)


def test_noise_and_mixes_have_the_power_that_was_asked_for() -> None:
    added = alter.noise(CLIP, 10.0, np.random.default_rng(0)) - CLIP
    assert 10 * np.log10(power(CLIP) / power(added)) == pytest.approx(10, abs=1e-3)
    assert power(alter.mix(CLIP, OTHER, 0.0) - CLIP) == pytest.approx(power(CLIP), rel=1e-4)


def test_a_shift_by_nothing_and_by_all_is_the_clip() -> None:
    np.testing.assert_array_equal(alter.shift(CLIP, RATE, 0.0), CLIP)
    np.testing.assert_array_equal(alter.shift(CLIP, RATE, 1.0), CLIP)
    assert alter.shift(CLIP, RATE, 0.25)[0] == CLIP[RATE // 4]


def test_mp3_loses_something_and_moves_nothing() -> None:
    coded = alter.mp3(CLIP, RATE, 64)
    assert coded.shape == CLIP.shape
    assert 1e-5 < power(coded - CLIP) / power(CLIP) < 0.05
    lags = np.correlate(coded, CLIP, "full")
    assert lags.argmax() == len(CLIP) - 1
    assert power(alter.mp3(CLIP, RATE, 24) - CLIP) > power(coded - CLIP)


def test_mp3_at_a_rate_it_does_not_have_is_refused() -> None:
    with pytest.raises(BadSetting, match="8 to 160 kbit/s"):
        alter.mp3(CLIP, RATE, 320)
    with pytest.raises(BadSetting, match="no sample rate"):
        alter.mp3(CLIP, 96_000, 64)


def test_another_sound_of_another_length_or_silent_is_refused() -> None:
    for other in (OTHER[:100], np.zeros_like(CLIP)):
        with pytest.raises(BadSetting, match="cut or pad it"):
            alter.mix(CLIP, other)


needs_stretch = pytest.mark.skipif(
    importlib.util.find_spec("python_stretch") is None, reason="python-stretch is not installed"
)


@needs_stretch
@pytest.mark.parametrize("semitones", [-1.0, 1.0])
def test_a_semitone_is_a_twelfth_of_an_octave_and_keeps_the_length(semitones: float) -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE).astype(np.float32)
    made = alter.pitch(tone, RATE, semitones)
    assert len(made) == len(tone)
    assert pitch_hz(made) == pytest.approx(440 * 2 ** (semitones / 12), rel=0.003)


@needs_stretch
@pytest.mark.parametrize("factor", [0.95, 1.05])
def test_a_stretched_clip_is_so_much_longer_at_its_pitch(factor: float) -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE).astype(np.float32)
    tone[: RATE // 2] = 0
    made = alter.stretch(tone, RATE, factor)
    assert len(made) == pytest.approx(factor * RATE, abs=2)
    assert pitch_hz(made[-RATE // 3 :]) == pytest.approx(440, rel=0.003)
    onset = int((np.abs(made) > 0.5).argmax())
    assert onset / RATE == pytest.approx(0.5 * factor, abs=0.01)  # its latency was taken off


def test_filters_keep_what_they_say() -> None:
    low, high = (alter.pass_band(WHITE, RATE, kind, 1000.0) for kind in ("low", "high"))
    at = np.abs(np.fft.rfft(WHITE)) > 0
    hz = np.fft.rfftfreq(len(WHITE), 1 / RATE)
    for wav, lost in ((low, hz > 2000), (high, hz < 500)):
        spectrum = np.abs(np.fft.rfft(wav))
        assert spectrum[lost & at].max() < 0.03 * spectrum.max()


def test_parts_loops_and_reversals_are_made_of_the_clip() -> None:
    half = len(CLIP) // 2
    piece = alter.part(CLIP, 1 / 2, np.random.default_rng(0))
    assert any(np.array_equal(piece, own) for own in (CLIP[:half], CLIP[half : 2 * half]))
    np.testing.assert_array_equal(alter.backwards(alter.backwards(CLIP, 0.5), 0.5), CLIP)
    made = alter.EDITS["one channel"](CLIP, RATE, np.random.default_rng(0), OTHER)
    np.testing.assert_array_equal(made[0], CLIP)
    assert power(made[1]) == pytest.approx(power(CLIP), rel=1e-3)


def test_a_silent_part_is_not_drawn() -> None:
    faded = np.concatenate([np.zeros(300, np.float32), CLIP[:100]])
    for seed in range(8):
        piece = alter.part(faded, 1 / 4, np.random.default_rng(seed))
        np.testing.assert_array_equal(piece, CLIP[:100])


def test_clipping_leaves_no_sample_above_its_limit() -> None:
    clipped = alter.clip_peaks(CLIP, 0.2)
    assert np.abs(clipped).max() == pytest.approx(np.quantile(np.abs(CLIP), 0.8))
