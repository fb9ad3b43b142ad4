"""What several services counted, as one."""

from __future__ import annotations

import time

from anechoic_serve.metrics import Board, Metrics


def told(board: Board) -> dict[str, float]:
    """The values that are shown, by their lines' beginnings."""
    shown = (line.rpartition(" ") for line in board.text().decode().splitlines())
    return {name: float(value) for name, _, value in shown if not name.startswith("#")}


def counted(sounds: int, waiting: int, ready: int) -> Metrics:
    metrics = Metrics()
    metrics.sounds.labels("released").inc(sounds)
    metrics.batch.observe(sounds)
    metrics.waiting.set(waiting)
    metrics.ready.set(ready)
    return metrics


def test_counts_are_added_and_all_are_ready_if_each_is() -> None:
    board = Board()
    board.put("a", counted(2, 3, 1).families())
    board.put("b", counted(4, 5, 0).families())
    board.put("b", counted(5, 5, 0).families())  # what it said before is out of date
    found = told(board)
    assert found['anechoic_sounds_total{verdict="released"}'] == 7
    assert found["anechoic_batch_sounds_sum"] == 7
    assert found['anechoic_batch_sounds_bucket{le="2.0"}'] == 1
    assert found['anechoic_batch_sounds_bucket{le="+Inf"}'] == 2
    assert found["anechoic_queue_sounds"] == 8
    assert found["anechoic_ready"] == 0
    assert not [name for name in found if not name.startswith("anechoic_")]


def test_what_a_service_counted_stays_when_it_has_ended() -> None:
    board = Board(seconds=0.2)
    board.put("a", counted(2, 3, 0).families())
    time.sleep(0.3)
    board.put("b", counted(4, 5, 1).families())
    found = told(board)
    assert found['anechoic_sounds_total{verdict="released"}'] == 6
    assert found["anechoic_queue_sounds"] == 5
    assert found["anechoic_ready"] == 1
