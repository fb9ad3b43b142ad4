"""Detectors that say where: closed forms, and what changes neither the score nor the place."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from anechoic_lab.demo import alterations as alter
from scipy.signal import correlate
from support.detector_sounds import RATE, Sounding, hidden, noise, tune
from torch import Tensor

from anechoic.detectors import Correlation, Detector, Landmarks, Match, Segments
from anechoic.detectors.correlation import correlation_peak
from anechoic.embedders.magmel import MagMel
from anechoic.errors import BadSetting
from anechoic.index import Sound, TrainingIndex

CLOSE_S = 0.010
LENGTHS = [2.0, 3.0, 2.0, 2.0, 4.0, 2.0]  # of the training clips
TRAINING = [tune(i, seconds) for i, seconds in enumerate(LENGTHS)]
OTHER = tune(99).numpy()


def make(name: str) -> Detector:
    sounds = [Sounding(wav[None]) for wav in TRAINING]
    if name == "correlation":
        return Correlation.fit(sounds)
    if name == "landmarks":
        return Landmarks.fit(sounds)
    part = MagMel(seconds=0.5)
    clips = [Sound(f"{i}", "tune", wav[None], RATE) for i, wav in enumerate(TRAINING)]
    return Segments(TrainingIndex.build(clips, part, window_s=0.5, hop_s=0.125), part)


@pytest.fixture(scope="module", params=["segments", "correlation", "landmarks"])
def judge(request: pytest.FixtureRequest) -> Detector:
    return make(request.param)


@pytest.fixture(scope="module")
def waves() -> Detector:
    return make("correlation")


@pytest.fixture(scope="module")
def landmarks() -> Detector:
    return make("landmarks")


def one(judge: Detector, wav: Tensor | np.ndarray) -> Match:
    (finding,) = judge(torch.as_tensor(np.asarray(wav))[None, None], RATE)
    return finding


def lag_s(finding: Match) -> float:
    assert finding.start_s is not None
    assert finding.match_start_s is not None
    return finding.start_s - finding.match_start_s


@pytest.mark.parametrize("cut_s", [0.0, 0.25, 0.777])
def test_a_clip_that_starts_later_is_found_at_its_lag(judge: Detector, cut_s: float) -> None:
    finding = one(judge, TRAINING[4][round(cut_s * RATE) :])
    assert finding.row == 4
    assert lag_s(finding) == pytest.approx(-cut_s, abs=CLOSE_S)


@pytest.mark.parametrize(
    ("row", "start_s", "at_s"), [(1, 1.311, 0.777), (4, 0.5, 3.1), (0, 0.9, 0)]
)
def test_a_fragment_inside_longer_noise_is_found_with_its_start_in_both(
    judge: Detector, row: int, start_s: float, at_s: float
) -> None:
    start = round(start_s * RATE)
    piece = TRAINING[row][start : start + RATE]
    finding = one(judge, hidden(noise(1, 5.0), piece, at_s))
    assert finding.row == row
    assert lag_s(finding) == pytest.approx(at_s - start_s, abs=CLOSE_S)
    assert finding.start_s is not None
    assert finding.length_s is not None
    # the match lies inside the fragment, to a hop of the segments
    assert at_s - 0.126 <= finding.start_s
    assert finding.start_s + finding.length_s <= at_s + 1.0 + 0.126


def test_a_loop_that_starts_elsewhere_is_found(judge: Detector) -> None:
    finding = one(judge, alter.shift(TRAINING[4].numpy(), RATE, 1.5))
    assert finding.row == 4
    lags = (-1.5, LENGTHS[4] - 1.5)  # one for each piece
    assert min(abs(lag_s(finding) - lag) for lag in lags) < CLOSE_S


def test_a_fragment_of_the_waveform_starts_and_ends_where_it_does(waves: Detector) -> None:
    piece = TRAINING[1][round(1.311 * RATE) : round(2.311 * RATE)]
    finding = one(waves, hidden(noise(1, 5.0), piece, 0.777))
    assert finding.score == pytest.approx(1.0, abs=1e-3)  # stored in 16 bits
    assert finding.start_s == pytest.approx(0.777, abs=CLOSE_S)
    assert finding.match_start_s == pytest.approx(1.311, abs=CLOSE_S)
    assert finding.length_s == pytest.approx(1.0, abs=2 * CLOSE_S)


def test_correlation_is_that_of_scipy_at_its_best_lag() -> None:
    """An independent reference: one training clip, one window, no resampling."""
    clip, window = noise(2, 1.0), 0.2 * noise(3, 0.5) + noise(2, 1.0)[2000:10000]
    detector = Correlation.fit([Sounding(clip[None])], RATE, window_s=0.5)
    (finding,) = detector(window[None, None], RATE)
    x = (clip / clip.abs().max()).half().double().numpy()
    w = window.double().numpy() - window.double().mean().item()
    deviation = np.lib.stride_tricks.sliding_window_view(x, len(w)).std(1) * len(w) ** 0.5
    expected = np.abs(correlate(x, w, "valid", "direct")) / (deviation * np.linalg.norm(w))
    assert finding.score == pytest.approx(expected.max(), abs=1e-5)
    assert round(-lag_s(finding) * RATE) == expected.argmax() == 2000


def test_the_correlation_peak_is_one_wherever_a_clip_stands() -> None:
    rng = torch.Generator().manual_seed(0)
    clip = torch.randn(2, 400, generator=rng)
    longer = torch.cat([torch.zeros(2, 300), -0.01 * clip, torch.zeros(2, 500)], 1)
    assert correlation_peak(clip, longer) == pytest.approx(1.0, abs=1e-9)
    assert correlation_peak(longer, clip) == pytest.approx(1.0, abs=1e-9)
    other = torch.randn(2, 400, generator=rng)
    assert correlation_peak(clip, other) < 0.3
    assert correlation_peak(clip, clip + other) == pytest.approx(math.sqrt(0.5), abs=0.05)


def test_silence_has_no_correlation_peak() -> None:
    assert correlation_peak(torch.zeros(1, 400), noise(1, 0.1)[None]) == 0.0
    assert correlation_peak(noise(1, 0.1)[None], torch.zeros(1, 4000)) == 0.0


def test_silence_beside_an_offset_correlates_with_nothing(waves: Detector) -> None:
    """Two constant stretches are no copy of each other, whatever the sound around them."""
    push = torch.cat([tune(31, 0.4).abs(), torch.zeros(RATE)])
    detector = Correlation.fit(
        [Sounding(torch.cat([tune(30, 0.4).abs(), torch.zeros(RATE)])[None])]
    )
    assert one(detector, push).score < 0.9
    assert one(detector, push + 0.1).score == pytest.approx(one(detector, push).score, abs=1e-3)


def test_correlation_with_noise_of_equal_power_is_the_root_of_a_half(waves: Detector) -> None:
    clip = noise(7, 2.0)
    detector = Correlation.fit([Sounding(clip[None])], RATE, window_s=2.0)
    finding = one(detector, clip + noise(8, 2.0))
    assert finding.score == pytest.approx(0.5**0.5, abs=0.01)  # 32,000 samples


def test_a_wave_that_is_turned_over_is_the_same_wave(waves: Detector) -> None:
    upright, over = one(waves, TRAINING[1]), one(waves, -TRAINING[1])
    assert over == upright
    assert over.score == pytest.approx(1.0, abs=1e-3)


def test_a_training_clip_shorter_than_a_window_is_found_in_a_clip() -> None:
    hit = tune(11, 0.3)
    detector = Correlation.fit([Sounding(TRAINING[0][None]), Sounding(hit[None])])
    finding = one(detector, hidden(noise(4, 3.0), hit, 1.234))
    assert (finding.row, finding.match_start_s) == (1, 0.0)
    assert finding.score == pytest.approx(1.0, abs=0.01)
    assert finding.start_s == pytest.approx(1.234, abs=CLOSE_S)


def test_a_clip_shorter_than_a_window_is_not_compared(waves: Detector) -> None:
    assert not one(waves, TRAINING[0][: round(0.49 * RATE)]).compared
    assert one(waves, TRAINING[0][: round(0.51 * RATE)]).row == 0


@pytest.mark.parametrize("settings", [{"window_s": 0.01}, {"sample_rate": 0}])
def test_a_rate_or_window_that_cannot_be_is_refused(settings) -> None:
    with pytest.raises(BadSetting, match=r"above 0 .* change them"):
        Correlation(torch.ones(8000).half(), torch.tensor([8000]), **settings)


ROBUST = {
    "level": lambda wav: alter.level(wav, -20.0),
    "equaliser, treble": lambda wav: alter.equalise(wav, RATE, 12.0),
    "equaliser, bass": lambda wav: alter.equalise(wav, RATE, -12.0),
    "MP3": lambda wav: alter.mp3(wav, RATE, 64),
    "noise": lambda wav: alter.noise(wav, 10.0, np.random.default_rng(0)),
    "another sound": lambda wav: alter.mix(wav, OTHER, 0.0),
}


@pytest.mark.parametrize("name", ROBUST)
@pytest.mark.parametrize("row", [0, 2, 3])
def test_landmarks_survive(landmarks: Detector, name: str, row: int) -> None:
    background = max(one(landmarks, tune(200 + i)).score for i in range(5))
    finding = one(landmarks, ROBUST[name](TRAINING[row].numpy()))
    assert finding.row == row
    assert finding.score > 2 * background
    assert lag_s(finding) == pytest.approx(0.0, abs=CLOSE_S)


def test_landmarks_of_a_clip_with_itself_all_agree(landmarks: Detector) -> None:
    """n = m = m_j, so the score is n / (n + 10)."""
    finding = one(landmarks, TRAINING[0])
    count = int(landmarks.ends[0])  # type: ignore[attr-defined]
    assert finding.score == pytest.approx(count / (count + 10))
    assert lag_s(finding) == 0.0


def test_landmarks_do_not_survive_a_transposition(landmarks: Detector) -> None:
    """What the docstring says they cannot do."""
    wav = TRAINING[0].numpy()
    up = alter.pitch(wav, RATE, 1.0)
    assert one(landmarks, up).score < 0.2 * one(landmarks, wav).score


def test_where_no_landmark_agrees_there_is_no_row() -> None:
    detector = Landmarks.fit([Sounding(TRAINING[0][None])])
    hum = torch.sin(2 * torch.pi * 50 * torch.arange(2 * RATE) / RATE)
    finding = one(detector, hum)
    assert (finding.score, finding.row, finding.compared) == (0.0, None, True)
