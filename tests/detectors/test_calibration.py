"""Thresholds, p-values and rates, against closed forms and simulations."""

from __future__ import annotations

import hashlib
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest, norm
from support.detector_sounds import Sounding

from anechoic.detectors import NOTHING, Calibration, Match, calibrate
from anechoic.detectors.calibration import family_p_value, read, write
from anechoic.errors import BadAudio, BadSetting, IndexMismatch, OutputExists


def test_p_values_are_uniform_under_the_null() -> None:
    """(n + 1) p is uniform on 1 .. n + 1, so p is uniform to 1 / (n + 1)."""
    rng = np.random.default_rng(0)
    n = 199
    p = [
        Calibration("d", tuple(rng.normal(size=n)), 0.05).p_value(rng.normal()) for _ in range(2000)
    ]
    assert kstest(p, "uniform").statistic < 1 / (n + 1) + 1.63 / math.sqrt(2000)  # 1 % level


def test_the_rate_of_false_positives_is_what_was_asked_for() -> None:
    """Its mean over calibrations is k / (n + 1) for any distribution, ties aside."""
    rng = np.random.default_rng(1)
    rates = []
    for _ in range(400):
        calibration = Calibration("d", tuple(rng.exponential(size=99)), 0.05)
        rates.append(math.exp(-calibration.threshold))  # the share of exponentials above it
    # Beta(5, 95): standard deviation 0.0217
    assert np.mean(rates) == pytest.approx(5 / 100, abs=3 * 0.0217 / 20)


def test_several_detectors_share_the_rate_and_a_single_one_is_enough() -> None:
    rng = np.random.default_rng(2)
    judges = [Calibration(f"d{i}", tuple(rng.normal(size=399)), 0.01).among(4) for i in range(4)]
    sounds = rng.normal(size=(2000, 4))
    sounds[:1000, 2] += 9  # found by one of the four
    p = np.array([family_p_value([j.p_value(s) for j, s in zip(judges, sound, strict=True)])
                  for sound in sounds])  # fmt: skip
    found = [any(j.exceeds(s) for j, s in zip(judges, sound, strict=True)) for sound in sounds]
    assert (p <= 0.01 + 1e-9).tolist() == found
    assert all(found[:1000])
    assert np.mean(found[1000:]) < 0.03  # 0.01 on average over calibrations


DEVIATION = math.sqrt(0.95 * 0.05 / 400)  # of a share of 400 that is 0.95


def test_the_interval_of_the_rate_covers_it() -> None:
    rng = np.random.default_rng(2)
    drawn = [Calibration("d", tuple(rng.exponential(size=150)), 0.05) for _ in range(400)]
    low, high = np.transpose([one.false_positive_interval for one in drawn])
    rates = np.exp([-one.threshold for one in drawn])
    assert np.mean((low <= rates) & (rates <= high)) == pytest.approx(0.95, abs=3 * DEVIATION)


def test_the_interval_of_the_threshold_covers_the_quantile() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(400):
        calibration = Calibration("d", tuple(rng.normal(size=200)), 0.05)
        low, high = calibration.threshold_interval
        assert low <= calibration.threshold <= high
        covered += low <= norm.ppf(0.95) <= high
    assert covered / 400 >= 0.95 - 3 * DEVIATION  # discrete: at least


@settings(max_examples=60, deadline=None)
@given(
    null=st.lists(st.integers(0, 30), min_size=19, max_size=60),
    score=st.integers(-1, 31),
    rate=st.sampled_from([0.05, 0.1, 0.25]),
)
def test_a_copy_is_what_has_a_small_p_value(null: list[int], score: int, rate: float) -> None:
    calibration = Calibration("d", tuple(map(float, null)), rate)
    p = calibration.p_value(score)
    assert p == (1 + sum(s >= score for s in null)) / (len(null) + 1)
    assert (score > calibration.threshold) == (p <= rate + 1e-12)


def test_what_was_not_compared_scores_below_all_held_out_sound() -> None:
    assert not NOTHING.compared
    assert Calibration("d", tuple(range(99))).p_value(NOTHING.score) == 1.0


def test_a_rate_that_so_few_clips_cannot_resolve_is_refused_with_the_number_it_takes() -> None:
    with pytest.raises(BadSetting, match=r"needs 99 held-out scores or more, got 98; .* 0\.0101"):
        Calibration("d", tuple(range(98)), 0.01)
    assert Calibration("d", tuple(range(99)), 0.01).threshold == 98


@pytest.mark.parametrize("bad", [{"false_positive_rate": 0.0}, {"confidence": 1.0}])
def test_a_rate_that_is_none_is_refused(bad) -> None:
    with pytest.raises(BadSetting, match="between 0 and 1"):
        Calibration("d", tuple(range(99)), **bad)


def test_scores_that_are_none_are_refused_on_both_sides() -> None:
    for score in (math.nan, NOTHING.score):
        with pytest.raises(BadSetting, match="NaN"):
            Calibration("d", (*range(99), score))
    with pytest.raises(BadSetting, match="NaN"):
        Calibration("d", tuple(range(99))).p_value(math.nan)


class Peak:
    """A detector: the highest sample, of what lasts three samples or more."""

    name = "peak"

    def __call__(self, wav, sample_rate):
        return [Match(w.max().item()) if w.shape[-1] > 2 else NOTHING for w in wav]


def test_a_detector_is_calibrated_on_the_sounds_that_are_held_out() -> None:
    sounds = [Sounding(torch.full((1, 3 + i), float(i))) for i in range(19)]
    calibration = calibrate(Peak(), sounds, 0.05)
    assert (calibration.detector, calibration.null) == ("peak", tuple(range(19)))
    with pytest.raises(BadAudio, match="recording 19 is silent, too short or too bare for 'peak'"):
        calibrate(Peak(), [*sounds, Sounding(torch.ones(1, 2))], 0.05)


def test_a_calibration_comes_back_from_json_as_it_was() -> None:
    calibration = Calibration("d", (-1e-17, *range(99)), 0.02, 0.9)
    text = json.dumps(calibration.to_dict(), allow_nan=False)
    assert Calibration.from_dict(json.loads(text)) == calibration


def test_calibrations_are_stored_with_the_index_they_belong_to(tmp_path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    assert read(tmp_path) == {}
    made = [Calibration("a", tuple(range(99))), Calibration("b", tuple(range(200)))]
    write(tmp_path, made)
    assert read(tmp_path) == {"a": made[0], "b": made[1]}
    with pytest.raises(OutputExists):
        write(tmp_path, made)
    (tmp_path / "manifest.json").write_text('{"rebuilt": true}')
    with pytest.raises(IndexMismatch, match="calibrate again"):
        read(tmp_path)


def test_edited_calibrations_are_refused_whether_they_are_needed_or_not(tmp_path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    write(tmp_path, [Calibration("a", tuple(range(99)))])
    file = tmp_path / "calibration.json"
    content = json.loads(file.read_text())
    content["calibrations"][0]["null"] = [1e3] * 99
    file.write_text(json.dumps(content))
    for needed in (True, False):
        with pytest.raises(IndexMismatch, match=r"edited.*calibrate again"):
            read(tmp_path, needed)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("no json", "not JSON"),
        ("[]", "not a JSON object"),
        ("[" * 100_000, "not JSON|levels deep"),
        ('{"format": 1}', "damaged"),
    ],
)
def test_damaged_calibrations_are_refused(tmp_path, text: str, complaint: str) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "calibration.json").write_text(text)
    with pytest.raises(IndexMismatch, match=complaint):
        read(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"calibrations": 5},
        {"calibrations": [5]},
        {"calibrations": [{}]},
        {"calibrations": [{"detector": 5, "null": [0.5] * 99}]},
        {"calibrations": [{"detector": "a", "null": ["9" * 400] * 99}]},
        {"calibrations": [{"detector": "a", "null": 5}]},
    ],
)
def test_calibrations_of_other_types_are_refused_although_their_hash_fits(tmp_path, change) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    write(tmp_path, [Calibration("a", tuple(range(99)))])
    file = tmp_path / "calibration.json"
    content = {**json.loads(file.read_text()), **change}
    content.pop("sha256")
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    file.write_text(json.dumps({**content, "sha256": digest}))
    with pytest.raises(IndexMismatch, match="calibrate again"):
        read(tmp_path)


def test_calibrations_without_an_index_are_refused(tmp_path) -> None:
    with pytest.raises(IndexMismatch, match="does not exist"):
        write(tmp_path, [])


def test_what_it_prints_is_short_however_many_sounds_were_held_out() -> None:
    shown = repr(Calibration("ear", tuple(i / 500 for i in range(500)), 0.05))
    assert "ear" in shown
    assert len(shown) < 200
