"""What an audit is made of: the estimate of the time left, the matrix, excerpts."""

from __future__ import annotations

import numpy as np
import pytest
from support.sounds import RATE, tune

from anechoic.audit.excerpts import CONTEXT_S, LONGEST_S, similarity_matrix, window
from anechoic.audit.html.media import spectrogram_db
from anechoic.audit.progress import AuditProgress, ProgressTimer
from anechoic.detectors import Match


def test_the_time_left_is_what_each_kind_of_work_took(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("anechoic.audit.progress.time.perf_counter", lambda: now[0])
    told: list[AuditProgress] = []
    pace = ProgressTimer([["make a", "examine"], ["make b", "examine"], ["examine"]], told.append)

    def work(kind: str, seconds: float) -> None:
        with pace.timed(kind):
            now[0] += seconds

    assert told[-1] == AuditProgress(0, 3, None)
    work("make a", 10.0)
    work("examine", 1.0)
    pace.finish()
    assert told[-1] == AuditProgress(
        1, 3, 10.0 + 1.0 + 1.0
    )  # "make b" as the slowest that is known
    work("make b", 2.0)
    work("examine", 3.0)
    pace.finish()
    assert told[-1] == AuditProgress(2, 3, 2.0)  # a mean of two
    pace.finish()
    assert told[-1] == AuditProgress(3, 3, 0.0)


def test_a_copy_is_a_diagonal_of_ones_wherever_it_starts() -> None:
    clip = tune(5, 2.0)[0].numpy()
    part = clip[RATE // 2 :]
    a, b = (spectrogram_db(wav, RATE) for wav in (clip, part))
    matrix = similarity_matrix(a, b, (2.0, 1.5), side=40)
    assert matrix.shape == (40, 30)
    assert np.diagonal(matrix, offset=-10).min() > 0.8
    assert np.abs(matrix).max() <= 1 + 1e-9
    assert np.diagonal(matrix, offset=-10).mean() > np.abs(matrix).mean() + 0.3


@pytest.mark.parametrize("at", [0.0, 3.0, 3_000.0, 7_190.0])
def test_an_excerpt_holds_the_match_and_stays_short(at: float) -> None:
    first, last = window(Match(1.0, 0, at, 2.0, 4.0), 7_200.0, 10.0)
    assert first <= at
    assert at + 4.0 <= last
    assert last - first <= LONGEST_S
    assert first >= max(at - CONTEXT_S, min(0.0, at - 2.0)) - 1e-9
