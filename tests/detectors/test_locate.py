"""Where in a recording, and in the training set, the nearest clips sound."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.sounds import LENGTH, RATE, bands, sounds

from anechoic import TrainingIndex
from anechoic.detectors import locate
from anechoic.embedders import embedder
from anechoic.errors import BadSetting
from anechoic.index import Sound


@pytest.fixture(scope="module")
def index() -> TrainingIndex:
    return TrainingIndex.build(sounds(), embedder("magmel"))


@pytest.mark.parametrize("offset", [0, 5000, 23_456, 40_000])
def test_a_clip_inside_a_longer_recording_is_found_with_its_start(
    index: TrainingIndex, offset: int
) -> None:
    recording = 0.3 * bands(99, 60_000)
    recording[:, offset : offset + LENGTH] = bands(5)
    (match,) = locate(recording, RATE, index, embedder("magmel"))
    assert index.clips[match.row].id == "clip5"
    assert match.score > 0.98
    assert abs(match.start_s - offset / RATE) <= match.resolution_s
    assert match.length_s == 1.024


def test_an_exact_copy_scores_one_whatever_the_length_of_its_clip() -> None:
    clips = [replace(s, wav=s.wav[:, : 6000 + 1000 * i]) for i, s in enumerate(sounds(10))]
    index = TrainingIndex.build(clips, embedder("magmel"))
    for i, clip in enumerate(clips):
        (match,) = locate(clip.wav, RATE, index, embedder("magmel"))
        assert (match.row, match.start_s) == (i, 0.0)
        assert match.score == pytest.approx(1.0, abs=1e-5)


@pytest.fixture(scope="module")
def of_any_length() -> tuple[list[Sound], TrainingIndex]:
    clips = [replace(s, wav=bands(i, 20_000 + 2300 * i)) for i, s in enumerate(sounds(10))]
    return clips, TrainingIndex.build(clips, embedder("magmel:seconds=4"))


@pytest.mark.parametrize("after", ["the end", "silence", "hiss"])
def test_a_clip_of_any_length_is_found_after_silence(
    of_any_length: tuple[list[Sound], TrainingIndex], after: str
) -> None:
    (clips, index), made = of_any_length, embedder("magmel:seconds=4")
    rest = {"the end": torch.zeros(1, 0), "silence": torch.zeros(1, 9000),
            "hiss": 0.001 * bands(98, 9000)}[after]  # fmt: skip
    for i in (1, 4, 6, 8):  # neither the median length nor the longest
        recording = torch.cat([torch.zeros(1, round(0.7 * RATE)), clips[i].wav, rest], 1)
        (match,) = locate(recording, RATE, index, made)
        assert (match.row, match.start_s) == (i, pytest.approx(0.7, abs=match.resolution_s))
        assert match.score > 0.97


@pytest.mark.parametrize("cancelled", [False, True])
@pytest.mark.parametrize("channel", [0, 1])
def test_a_copy_that_the_mix_buries_or_cancels_is_found_in_its_channel(
    index: TrainingIndex, channel: int, cancelled: bool
) -> None:
    copy = sounds()[2].wav
    noise = torch.randn(copy.shape, generator=torch.Generator().manual_seed(1)) * copy.std()
    both = torch.cat([copy, noise - copy if cancelled else noise])
    both = both.flip(0) if channel else both
    match = locate(both, RATE, index, embedder("magmel"))[0]
    assert match.row == 2
    assert match.score > 0.999


def test_a_windowed_index_tells_where_in_the_clip() -> None:
    clips = [Sound(f"long{i}", "", bands(i, 4 * LENGTH), RATE) for i in range(3)]
    index = TrainingIndex.build(clips, embedder("magmel"), window_s=1.024, hop_s=0.512)
    fragment = clips[1].wav[:, LENGTH : 2 * LENGTH]
    recording = torch.cat([0.3 * bands(99, 10_000), fragment, torch.zeros(1, 30_000)], 1)
    (match,) = locate(recording, RATE, index, embedder("magmel"))
    assert index.clips[match.row].id == "long1"
    assert index.clips[match.row].start_s == 1.024
    assert abs(match.start_s - 10_000 / RATE) <= match.resolution_s


def test_other_sound_is_near_nothing(index: TrainingIndex) -> None:
    assert locate(bands(77, 50_000), RATE, index, embedder("magmel"))[0].score < 0.6


def test_as_many_different_rows_as_asked_nearest_first(index: TrainingIndex) -> None:
    matches = locate(bands(4, 30_000), RATE, index, embedder("magmel"), k=5)
    assert len({match.row for match in matches}) == 5
    assert [m.score for m in matches] == sorted((m.score for m in matches), reverse=True)


def test_an_index_of_embeddings_alone_cannot_be_located_in() -> None:
    bare = TrainingIndex.from_embeddings(torch.eye(2048)[:3], embedder_name="magmel")
    with pytest.raises(BadSetting, match="how long its clips are"):
        locate(bands(0), RATE, bare, embedder("magmel"))
