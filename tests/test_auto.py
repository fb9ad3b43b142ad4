"""The automatic guard: its numbers come from the index's calibration, or from the index alone."""

import numpy as np
import pytest
import torch
from support.sounds import sounds

from anechoic import Auto, TrainingIndex, embedder, guard
from anechoic.detectors import calibration
from anechoic.detectors.calibration import Calibration
from anechoic.detectors.nearest import NearestStretch
from anechoic.errors import IndexMismatch
from anechoic.guidance import CaptionSubstitution

SECONDS = 1.024
NULL = tuple(np.linspace(0.2, 0.98, 99).tolist())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    index = TrainingIndex.build(sounds(12), embedder(f"magmel:seconds={SECONDS}"))
    return index.save(tmp_path_factory.mktemp("auto") / "index")


@pytest.fixture
def calibrated(folder):
    index = TrainingIndex.load(folder)
    name = NearestStretch(index, embedder(index.embedder_name)).name
    calibration.write(folder, [Calibration(name, NULL)], overwrite=True)
    yield folder
    (folder / calibration.FILE).unlink()


def test_its_limit_is_a_quantile_of_what_held_out_sound_scores(calibrated):
    chosen = Auto.of(calibrated, scale=4.0)
    assert chosen.scale == 4.0
    assert chosen.opens == NULL[94]  # the 95th of 99
    assert "99 held-out sounds" in chosen.because
    assert f"{NULL[94]:.3f}" in chosen.because


def test_without_a_calibration_the_index_gives_it_and_it_says_so(folder):
    chosen = Auto.of(folder)
    assert chosen.opens == CaptionSubstitution(chosen.index, chosen.embedder).opens
    assert "it is not calibrated" in chosen.because


def test_a_given_limit_replaces_what_would_be_read(calibrated):
    index = TrainingIndex.load(calibrated)
    assert Auto(index, embedder(index.embedder_name), opens=0.7).opens == 0.7


def test_a_calibration_of_an_index_that_changed_is_refused(calibrated):
    file = calibrated / calibration.FILE
    file.write_text(file.read_text().replace('"null": [0.2', '"null": [0.1'))
    with pytest.raises(IndexMismatch, match="calibrat"):
        Auto.of(calibrated)


@pytest.mark.parametrize("kind", [str, TrainingIndex.load])
def test_a_guard_takes_the_index_itself(calibrated, kind):
    from anechoic_lab.demo import assets

    pipe = assets.pipeline()
    given = calibrated if kind is str else kind(calibrated)
    seed = torch.Generator().manual_seed(0)
    with guard(pipe, given) as trace:
        pipe("a sound", num_inference_steps=4, generator=seed, audio_end_in_s=SECONDS)
    compared = torch.stack([record.notes["similarity"] for record in trace.records]).isfinite()
    assert compared.any()
    assert trace.records[0].scale.tolist() == [7.0]  # the pipeline's own
