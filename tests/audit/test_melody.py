"""Training clips that are others at another pitch or backwards."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from anechoic import TrainingIndex, embedder
from anechoic.audit import TrainingSet
from anechoic.audit.melody import same_melody
from anechoic.detectors import Calibration
from anechoic.detectors.transposed import Transposed
from anechoic.index import Sound

RATE = 16_000


def melody(seed: int, semitones: float = 0.0) -> Tensor:
    """Twelve notes of 0.25 s, the same for a seed."""
    generator = torch.Generator().manual_seed(seed)
    notes = torch.randint(-12, 12, (12,), generator=generator) + semitones
    t = torch.arange(RATE // 4) / RATE
    hz = 440 * 2 ** (notes / 12)
    wave = torch.sin(2 * torch.pi * hz[:, None] * t) * torch.exp(-6 * t)
    return 0.5 * wave.flatten()[None]


def calibrated(clips: list[Sound]) -> Calibration:
    """On nineteen other melodies."""
    detector = Transposed.fit(clips)
    null = [detector(melody(100 + i)[None], RATE)[0].score for i in range(19)]
    return Calibration(Transposed.name, tuple(null), 0.05)


def test_pairs_at_another_pitch_and_backwards_are_found_and_no_others() -> None:
    sounds = [melody(0), melody(1), melody(2), melody(0, 3.0), melody(1).flip(1), melody(5)]
    clips = [Sound(f"{i}", f"melody {i}", wav, RATE) for i, wav in enumerate(sounds)]
    index = TrainingIndex.build(clips, embedder("magmel:seconds=3.0"))
    training = TrainingSet(index, lambda clip: (sounds[int(clip.id)], RATE))
    held_out = calibrated(clips)
    found, lost = same_melody(training, held_out)
    assert lost == []
    assert {frozenset((one.clip, one.other)) for one in found} == {
        frozenset((0, 3)), frozenset((1, 4))
    }  # fmt: skip
    by = {min(one.clip, one.other): one.match for one in found}
    assert abs(by[0].semitones or 0) == pytest.approx(3, abs=0.2)
    assert [by[number].backwards for number in (0, 1)] == [False, True]
    apart, _ = same_melody(training, held_out, lambda a, b: {a, b} != {0, 3})
    assert [{one.clip, one.other} for one in apart] == [{1, 4}]


def test_a_clip_without_its_sound_is_named() -> None:
    clips = [Sound(f"{i}", "a", melody(i), RATE) for i in range(2)]
    training = TrainingSet(TrainingIndex.build(clips, embedder("magmel:seconds=3.0")))
    held_out = Calibration(Transposed.name, (0.0,) * 19, 0.05)
    assert same_melody(training, held_out) == (
        [], ["0: the index names no file for it", "1: the index names no file for it"]
    )  # fmt: skip
