"""Ways in which a clip comes back that a detector alone misses: one of the four finds each.

The figures are in docs/evidence/detectors.md; here stand eight tunes, and a limit that none of
sixteen others reaches.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from anechoic_lab.demo.alterations import ALTERATIONS, EDITS
from support.detector_sounds import RATE, tune

from anechoic.detectors import Correlation, Detector, Landmarks, Transposed
from anechoic.detectors.nearest import NearestStretch
from anechoic.embedders.magmel import MagMel
from anechoic.index import Sound, TrainingIndex

EVERY = {**ALTERATIONS, **EDITS}
CLIPS = [Sound(f"{i}", f"tune {i}", tune(i)[None], RATE) for i in range(8)]
OTHERS = range(100, 116)


@cache
def detectors() -> tuple[Detector, ...]:
    whole = MagMel(seconds=2.0)
    nearest = NearestStretch(TrainingIndex.build(CLIPS, whole), whole)
    return (nearest, *(kind.fit(CLIPS) for kind in (Correlation, Landmarks, Transposed)))


@cache
def limits() -> tuple[float, ...]:
    null = torch.stack([tune(seed) for seed in OTHERS])[:, None]
    return tuple(max(found.score for found in one(null, RATE)) for one in detectors())


@pytest.mark.parametrize("name", EVERY)
def test_one_of_the_detectors_finds_it_and_names_the_clip(name: str) -> None:
    row, found = 3, []
    other = tune(200).numpy()
    altered = EVERY[name](tune(row).numpy(), RATE, np.random.default_rng(5), other)
    wav = torch.from_numpy(np.atleast_2d(altered).copy())[None]
    for one, limit in zip(detectors(), limits(), strict=True):
        (match,) = one(wav, RATE)
        if match.score > limit:
            found.append((one.name, match.row))
    assert found, "nothing scores over what unrelated tunes reach"
    assert all(where == row for _, where in found), found
