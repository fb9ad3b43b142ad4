"""What every detector promises."""

from __future__ import annotations

import math
from importlib.metadata import entry_points

import pytest
import torch
from support.detector_sounds import RATE, Sounding, noise, tune

from anechoic.detectors import (
    NOTHING,
    Correlation,
    Detector,
    Landmarks,
    NearestRatio,
    Notes,
    Segments,
    TopCosine,
    Transposed,
    fitted,
)
from anechoic.detectors.registry import GROUP, detector, names
from anechoic.detectors.sound import FittedToSome, fit
from anechoic.embedders.magmel import MagMel
from anechoic.errors import BadAudio, BadSetting, IndexMismatch
from anechoic.index import Sound, TrainingIndex

SEEDS = range(8)
TRAINING = [Sound(f"{i}", f"tune {i}", tune(i)[None], RATE) for i in SEEDS]


def make(name: str) -> Detector:
    if name == "segments":
        part = MagMel(seconds=0.5)
        return Segments(TrainingIndex.build(TRAINING, part, window_s=0.5, hop_s=0.125), part)
    if name == "correlation":
        return Correlation.fit(TRAINING)
    if name == "landmarks":
        return Landmarks.fit(TRAINING)
    if name == "transposed":
        return Transposed.fit(TRAINING)
    if name == "notes":
        return Notes.fit(TRAINING)
    whole = MagMel(seconds=2.0)
    index = TrainingIndex.build(TRAINING, whole)
    return TopCosine(index, whole) if name == "cosine" else NearestRatio(index, whole, k=8)


@pytest.fixture(
    scope="module",
    params=[
        "cosine",
        "nearest-ratio",
        "segments",
        "correlation",
        "landmarks",
        "transposed",
        "notes",
    ],
)
def judge(request: pytest.FixtureRequest) -> Detector:
    return make(request.param)


def test_it_is_a_detector_and_names_its_settings(judge: Detector) -> None:
    assert isinstance(judge, Detector)
    assert "(" in judge.name


def test_a_training_clip_is_found_and_scores_above_any_other_sound(judge: Detector) -> None:
    own = judge(torch.stack([clip.wav for clip in TRAINING]), RATE)
    assert [finding.row for finding in own] == list(SEEDS)
    others = judge(torch.stack([tune(100 + i)[None] for i in SEEDS]), RATE)
    assert min(f.score for f in own) > max(f.score for f in others)


def test_a_batch_of_two_is_two_batches_of_one(judge: Detector) -> None:
    wav = torch.stack([tune(3)[None], tune(50)[None]])
    assert judge(wav, RATE) == judge(wav[:1], RATE) + judge(wav[1:], RATE)


def test_the_same_sound_gives_the_same_finding_whatever_was_asked_before(judge: Detector) -> None:
    wav = tune(51)[None, None]
    first = judge(wav, RATE)
    judge(noise(0, 2.0)[None, None], RATE)
    assert judge(wav, RATE) == first


def test_the_level_does_not_matter(judge: Detector) -> None:
    loud, soft = judge(torch.stack([tune(3), 0.001 * tune(3)])[:, None], RATE)
    assert soft.row == loud.row == 3
    assert soft.score == pytest.approx(loud.score, abs=2e-3)


def test_a_constant_offset_is_no_sound(judge: Detector) -> None:
    own, moved, nothing = judge(
        torch.stack([tune(3), tune(3) + 0.5, torch.full_like(tune(3), 0.5)])[:, None], RATE
    )
    assert moved.row == 3
    assert moved.score == pytest.approx(own.score, abs=0.02)
    assert nothing == NOTHING


def test_a_copy_with_one_channel_turned_over_is_a_copy(judge: Detector) -> None:
    (mono,) = judge(tune(3)[None, None], RATE)
    (stereo,) = judge(torch.stack([tune(3), -tune(3)])[None], RATE)
    assert stereo == mono


def test_a_copy_in_one_channel_is_found_whatever_the_other_plays(judge: Detector) -> None:
    (mono,) = judge(tune(3)[None, None], RATE)
    found = judge(torch.stack([torch.stack([tune(3), tune(50)]), torch.stack([tune(50), tune(3)])]),
                  RATE)  # fmt: skip
    assert [match.row for match in found] == [3, 3]
    assert [match.score for match in found] == pytest.approx([mono.score] * 2, abs=1e-4)


def test_a_copy_at_another_sample_rate_is_found(judge: Detector) -> None:
    import soxr

    wav = torch.from_numpy(soxr.resample(tune(3).numpy(), RATE, 44_100))
    (finding,) = judge(wav[None, None], 44_100)
    assert finding.row == 3
    # a clip that ends while it still sounds rings at its end, whoever resamples it
    assert finding.score > 0.9 * judge(tune(3)[None, None], RATE)[0].score


def test_silence_is_not_compared(judge: Detector) -> None:
    wav = torch.stack([torch.zeros(2 * RATE), torch.full((2 * RATE,), 1e-7), tune(3)])
    findings = judge(wav[:, None], RATE)
    assert findings[:2] == [NOTHING, NOTHING]
    assert findings[0].score == -math.inf
    assert [finding.compared for finding in findings] == [False, False, True]


@pytest.mark.parametrize("samples", [1, 2, 100])
def test_next_to_no_sound_is_not_compared_or_not_a_copy(judge: Detector, samples: int) -> None:
    (finding,) = judge(torch.ones(1, 1, samples), RATE)
    assert finding.score < judge(tune(3)[None, None], RATE)[0].score


NAN = torch.full((1, 1, RATE), torch.nan)


@pytest.mark.parametrize(
    "wav", [torch.zeros(RATE), torch.zeros(1, RATE), torch.zeros(1, 1, 0), NAN]
)
def test_what_is_no_batch_of_sound_is_refused(judge: Detector, wav: torch.Tensor) -> None:
    with pytest.raises(BadAudio, match=r"expected|NaN"):
        judge(wav, RATE)


@pytest.mark.parametrize("kind", [Correlation, Landmarks, Transposed, Notes])
def test_a_fitted_detector_is_the_same_from_disk(kind, tmp_path) -> None:
    fitted = kind.fit(TRAINING)
    fitted.save(tmp_path / "fitted")
    wav = torch.stack([tune(3), tune(60)])[:, None]
    assert kind.load(tmp_path / "fitted")(wav, RATE) == fitted(wav, RATE)


def test_a_file_of_another_detector_or_none_is_refused(tmp_path) -> None:
    Correlation.fit(TRAINING[:1]).save(tmp_path / "fitted")
    (tmp_path / "text").write_text("no tensors")
    for name in ("fitted", "text", "missing"):
        with pytest.raises(IndexMismatch, match="fit it again"):
            Landmarks.load(tmp_path / name)


@pytest.mark.parametrize("kind", [Correlation, Landmarks, Transposed, Notes])
def test_a_fitted_detector_that_was_damaged_anywhere_is_refused(kind, tmp_path) -> None:
    whole = kind.fit(TRAINING[:2]).save(tmp_path / "fitted").read_bytes()
    places = [*range(0, len(whole), max(1, len(whole) // 400)), whole.index(b"settings") + 12]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1
        (tmp_path / "damaged").write_bytes(damaged)
        with pytest.raises(IndexMismatch, match="fit it again"):
            kind.load(tmp_path / "damaged")
    (tmp_path / "damaged").write_bytes(whole[:-1])
    with pytest.raises(IndexMismatch, match="fit it again"):
        kind.load(tmp_path / "damaged")


@pytest.mark.parametrize(
    ("tensors", "settings"),
    [
        ({"ends": torch.ones(1)}, {}),
        ({"sound": torch.ones(9), "ends": torch.tensor([9])}, {"sample_rate": "fast"}),
        ({"sound": torch.ones(9), "ends": torch.tensor([9])}, {"tempo": 1}),
    ],
)
def test_a_fitted_detector_of_other_contents_is_refused(tensors, settings, tmp_path) -> None:
    fitted.write(tmp_path / "fitted", "correlation", tensors, settings)
    with pytest.raises(IndexMismatch, match="fit it again"):
        Correlation.load(tmp_path / "fitted")


@pytest.mark.parametrize("kind", [Correlation, Landmarks, Transposed, Notes])
@pytest.mark.parametrize("wav", [torch.zeros(1, RATE), torch.ones(1, 40), torch.ones(RATE)])
def test_a_training_clip_that_is_silent_too_short_or_misshapen_is_refused(kind, wav) -> None:
    with pytest.raises(BadAudio, match="training clip 1"):
        kind.fit([TRAINING[0], Sounding(wav)])


@pytest.mark.parametrize("kind", [Correlation, Landmarks, Transposed, Notes])
def test_a_training_clip_that_is_too_short_is_left_out_and_named(kind) -> None:
    short = Sounding(TRAINING[0].wav[:, : round(0.09 * RATE)])
    detector = fit(kind, [TRAINING[0], short, TRAINING[1]])
    assert isinstance(detector, FittedToSome)
    assert detector.left_out == [1]
    assert detector(TRAINING[1].wav[None], RATE)[0].row == 2
    with pytest.raises(BadAudio, match="training clip 0"):
        fit(kind, [short])


@pytest.mark.parametrize("kind", [Correlation, Landmarks, Transposed])
@pytest.mark.parametrize("samples", [(1055, 2772), (2772, 1055), (801, 4001), (4000, 3999)])
def test_sound_of_any_length_is_compared(kind, samples: tuple[int, int]) -> None:
    made = torch.Generator().manual_seed(0)
    clip, other = (torch.randn(1, n, generator=made) for n in samples)
    detector = fit(kind, [*TRAINING, Sounding(clip)])
    for wav in (other, torch.cat([torch.zeros(1, 4000), other], 1)):
        (match,) = detector(wav[None], 8000)
        assert match.score <= 1


@pytest.mark.parametrize("kind", [Correlation, Landmarks, Transposed, Notes])
def test_no_training_clips_are_refused(kind) -> None:
    with pytest.raises(IndexMismatch, match="at least one training clip"):
        kind.fit([])


def test_clips_longer_than_an_embedder_hears_are_refused_not_cut() -> None:
    whole = MagMel(seconds=2.0)
    with pytest.raises(BadSetting, match="search by segments"):
        TopCosine(TrainingIndex.build(TRAINING, whole), whole)(torch.ones(1, 1, 3 * RATE), RATE)


def test_segments_of_whole_clips_and_an_index_of_another_embedder_are_refused() -> None:
    whole = MagMel(seconds=2.0)
    index = TrainingIndex.build(TRAINING, whole)
    with pytest.raises(BadSetting, match="'--window' and '--hop'"):
        Segments(index, whole)
    for kind in (TopCosine, NearestRatio, Segments):
        with pytest.raises(IndexMismatch):
            kind(index, MagMel())


def test_more_neighbours_than_the_index_has_are_refused() -> None:
    whole = MagMel(seconds=2.0)
    with pytest.raises(BadSetting, match="k from 2 to the 8 rows"):
        NearestRatio(TrainingIndex.build(TRAINING, whole), whole, k=9)


@pytest.mark.parametrize("point", entry_points(group=GROUP), ids=lambda point: point.name)
def test_a_registered_detector_cites_its_source_and_is_one(point) -> None:
    found = detector(point.name)
    assert "Source: " in (found.__doc__ or "")
    assert all(hasattr(found, name) for name in ("name", "__call__"))


def test_an_unknown_detector_is_refused_in_one_sentence() -> None:
    with pytest.raises(BadSetting, match=r"^expected a detector among .*, got 'nosuch'; "):
        detector("nosuch")
    assert names() == sorted(names())


def test_a_clip_that_a_codec_padded_is_compared() -> None:
    """Up to 2 % longer than the embedder takes, as everywhere (`types.require_whole`)."""
    whole = MagMel(seconds=2.0)
    cosine = TopCosine(TrainingIndex.build(TRAINING, whole), whole)
    padded = torch.nn.functional.pad(tune(3), (0, round(0.019 * 2 * RATE)))
    assert cosine(padded[None, None], RATE)[0].row == 3
