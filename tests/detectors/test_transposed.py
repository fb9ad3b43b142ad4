"""A clip at another pitch, at another tempo and backwards is found, and how it was changed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from anechoic_lab.demo import alterations as alter
from support.detector_sounds import RATE, Sounding, noise, tune

from anechoic.detectors import NOTHING, Match, Transposed

TRAINING = [tune(seed) for seed in range(12)]
CLIP = TRAINING[3].numpy()
OTHERS = [tune(seed) for seed in range(100, 110)]


@pytest.fixture(scope="module")
def judge() -> Transposed:
    return Transposed.fit([Sounding(wav[None]) for wav in TRAINING])


@pytest.fixture(scope="module")
def chance(judge: Transposed) -> float:
    """The highest score of sounds that copy nothing."""
    return max(one(judge, wav.numpy()).score for wav in OTHERS)


def one(judge: Transposed, wav: np.ndarray) -> Match:
    (match,) = judge(torch.from_numpy(np.ascontiguousarray(wav))[None, None], RATE)
    return match


@pytest.mark.parametrize("semitones", [-5.0, -2.0, -1.0, 1.0, 2.0, 5.0])
def test_a_transposed_clip_is_found_and_by_how_much(judge, chance, semitones: float) -> None:
    found = one(judge, alter.pitch(CLIP, RATE, semitones))
    assert found.row == 3
    assert found.score > chance
    assert found.semitones == pytest.approx(semitones, abs=0.25)
    assert (found.tempo, found.backwards) == (1.0, False)


@pytest.mark.parametrize("factor", [0.85, 0.9, 1.1, 1.2])
def test_a_clip_at_another_tempo_is_found_and_at_which(judge, chance, factor: float) -> None:
    found = one(judge, alter.stretch(CLIP, RATE, factor))
    assert found.row == 3
    assert found.score > chance
    assert found.tempo == pytest.approx(1 / factor, rel=0.05)
    assert found.semitones == pytest.approx(0, abs=0.25)


def test_a_clip_backwards_is_found(judge, chance) -> None:
    found = one(judge, CLIP[::-1])
    assert (found.row, found.backwards) == (3, True)
    assert found.score > chance


def test_a_clip_whose_second_half_runs_backwards_is_found(judge, chance) -> None:
    half = len(CLIP) // 2
    found = one(judge, np.concatenate([CLIP[:half], CLIP[half:][::-1]]))
    assert found.row == 3
    assert found.score > chance


def test_a_clip_whose_rate_was_declared_wrongly_is_found(judge, chance) -> None:
    (found,) = judge(torch.from_numpy(CLIP)[None, None], round(RATE * 1.1))
    assert found.row == 3
    assert found.score > chance
    assert found.semitones == pytest.approx(12 * np.log2(1.1), abs=0.3)
    assert found.tempo == pytest.approx(1.1, rel=0.05)


def test_the_match_says_where_in_both(judge) -> None:
    late = np.concatenate([noise(0, 0.5).numpy() * 0.001, alter.pitch(CLIP, RATE, 2.0)])
    found = one(judge, late)
    assert found.start_s is not None
    assert found.match_start_s is not None
    assert found.start_s - found.match_start_s == pytest.approx(0.5, abs=0.05)
    assert found.length_s is not None
    assert found.length_s > 1.0


def test_a_score_is_a_share(judge) -> None:
    assert 0.5 < one(judge, CLIP).score < 1


def test_sound_with_too_few_peaks_is_not_compared(judge) -> None:
    assert one(judge, np.sin(np.arange(8000) * 0.3).astype(np.float32)[:2100]) == NOTHING
