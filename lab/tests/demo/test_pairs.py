"""The split that detectors are calibrated on is clean, and known pairs are what is said of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from anechoic_lab.demo import assets, detection, pairs
from anechoic_lab.demo.corpus import SAMPLE_RATE, Clip

from anechoic.detectors import Match
from anechoic.detectors.calibration import Calibration

pytestmark = pytest.mark.skipif(
    not assets.SHIPPED.is_dir(), reason="the demo's corpus is not in this tree"
)


@pytest.fixture(scope="module")
def corpus() -> tuple[list[Clip], torch.Tensor]:
    return assets.training_set()


@pytest.fixture(scope="module", params=[0, 1])
def parts(corpus, request) -> pairs.Split:
    return pairs.split(corpus[0], request.param, copies=12, unrelated=120, siblings=60)


def test_no_caption_and_no_source_stands_on_both_sides(corpus, parts) -> None:
    clips, _ = corpus
    for told in (pairs.source, lambda clip: clip.caption):
        ours = {told(clips[i]) for i in parts.catalogue}
        assert not ours & {told(clips[i]) for i in parts.unrelated}


def test_a_sibling_is_another_take_of_a_caption_of_the_catalogue(corpus, parts) -> None:
    clips, _ = corpus
    assert not set(parts.siblings) & set(parts.catalogue)
    captions = {clips[i].caption for i in parts.catalogue}
    assert all(clips[i].caption in captions for i in parts.siblings)


def test_what_was_asked_for_is_drawn_once_each(corpus, parts) -> None:
    clips, _ = corpus
    drawn = (parts.copies, parts.unrelated, parts.siblings)
    assert [len(rows) for rows in drawn] == [12, 120, 60]
    assert all(len(set(rows)) == len(rows) for rows in drawn)
    assert set(parts.copies) <= set(parts.catalogue)
    assert sum(clips[i].kind == "recording" for i in parts.copies) == 6


def test_the_same_seed_draws_the_same_split(corpus, parts) -> None:
    again = [pairs.split(corpus[0], seed, 12, 120, 60) for seed in (0, 1)]
    assert parts in again
    assert again[0] != again[1]


def test_a_fragment_stands_in_the_bed_at_its_lag(corpus, parts) -> None:
    _, sound = corpus
    bed = pairs.beds(sound, parts, len(parts.copies), seed=3)
    known = pairs.fragments(sound, parts, bed, seed=4)["fragment in 5 s"]
    for wav, row, lag_s in zip(known.wav.numpy(), known.rows, known.lags, strict=True):
        clip, lag = sound[parts.catalogue[row]].numpy(), round(lag_s * SAMPLE_RATE)
        best = max(
            np.corrcoef(wav[lag + t : lag + t + 4000], clip[t : t + 4000])[0, 1]
            for t in range(0, len(clip) - 4000, 1000)
            if 0 <= lag + t <= len(wav) - 4000 and clip[t : t + 4000].std() > 1e-3
        )
        assert best == pytest.approx(1.0, abs=1e-3)


def test_a_cell_counts_what_was_found() -> None:
    known = pairs.Known(torch.zeros(4, 8), rows=[0, 1, 2, 3], lags=[0.0, 0.5, 0.0, None])
    findings = [
        Match(9.0, 0, 1.004, 1.0, 1.0),
        Match(8.0, 1, 1.0, 0.498, 1.0),
        Match(0.0, 7, 3.0, 1.0, 1.0),  # another clip: its lag does not count
        Match(7.0, 3, 3.0, 1.0, 1.0),
    ]
    cell = detection.cell(findings, known, Calibration("d", tuple(np.linspace(0, 1, 99))))
    assert cell.right == 0.75
    assert cell.lag_s == pytest.approx(0.003)
    assert cell.tpr.value == 0.75
