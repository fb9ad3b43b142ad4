"""A catalogue that a model saw while it was trained is recognized as a whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from anechoic_lab.membership import compare, read, scores
from scipy.stats import kstest
from support.model_folder import audible_pipe, noise_clips
from support.sounds import RATE

from anechoic import audio
from anechoic.errors import BadSetting


def test_p_values_of_clips_of_one_kind_are_uniform() -> None:
    drawn = torch.Generator().manual_seed(0)
    p = [compare(*torch.randn(2, 30, generator=drawn)).p_value for _ in range(300)]
    assert kstest(p, "uniform").pvalue > 0.01


def test_a_small_difference_shows_in_many_clips_and_not_in_few() -> None:
    drawn = torch.Generator().manual_seed(0)
    ours, theirs = torch.randn(2, 400, generator=drawn)
    few, many = compare(ours[:20] + 0.3, theirs[:20]), compare(ours + 0.3, theirs)
    assert many.p_value < 1e-3 < few.p_value
    assert many.auc == pytest.approx(0.58, abs=0.04)  # of unit normals 0.3 apart


def test_under_twenty_clips_are_refused() -> None:
    with pytest.raises(BadSetting, match=r"20 clips or more of the catalogue.*got 19 and 20"):
        compare(torch.zeros(19), torch.zeros(20))


def test_a_clip_has_one_score_in_any_batch_and_a_seed_another_one() -> None:
    pipe, clips = audible_pipe(), noise_clips()
    together = scores(pipe, clips, levels=(0.0,), seeds=(0,))
    alone = torch.cat([scores(pipe, [clip], levels=(0.0,), seeds=(0,)) for clip in clips])
    np.testing.assert_allclose(together, alone, atol=1e-4)
    assert not torch.equal(together, scores(pipe, clips, levels=(0.0,), seeds=(1,)))


def test_a_folder_with_captions_is_read(tmp_path: Path) -> None:
    clip = noise_clips()[0]
    audio.write(tmp_path / "a.wav", clip.wav, RATE)
    (tmp_path / "metadata.csv").write_text("file_name,caption\na.wav,a bell\n")
    (found,) = read(str(tmp_path))
    assert (found.id, found.caption, found.sample_rate) == ("a.wav", "a bell", RATE)
    assert found.wav.shape == clip.wav.shape
