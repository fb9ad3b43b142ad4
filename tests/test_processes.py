"""Processes of this machine that make and examine sounds beside each other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.audits import Model, dies, folder_of, told, training_set
from support.sounds import tune

from anechoic import embedder
from anechoic.audit import audit
from anechoic.audit.progress import ProgressTimer
from anechoic.errors import AnechoicError, BadSetting
from anechoic.processes import Processes


@pytest.fixture(scope="module")
def pool() -> Iterator[Processes]:
    with Processes(2) as pool:
        yield pool


def test_a_shared_value_is_read_once_by_each_process(pool: Processes) -> None:
    shared = pool.shared({"rows": [1, 2]})
    found = {pool.submit(told, shared).result()[::2] for _ in range(6)}
    assert len(found) == len({process for process, _ in found})
    assert pool.submit(told, shared).result()[1] == {"rows": [1, 2]}
    assert os.getpid() not in {process for process, _ in found}


def test_the_threads_are_split_among_processes(pool: Processes) -> None:
    assert pool.submit(torch.get_num_threads).result() == max(1, torch.get_num_threads() // 2)


def test_what_no_other_process_can_have_is_refused(pool: Processes) -> None:
    with pytest.raises(BadSetting, match="expected values that can be pickled"):
        pool.shared(lambda: 1)
    with pytest.raises(BadSetting, match="expected 1 job or more, got 0"):
        Processes(0)


def test_an_audit_by_processes_is_that_of_one(pool: Processes, tmp_path: Path) -> None:
    training, embed = training_set(), embedder("magmel")
    sounds = folder_of(tmp_path / "s", copy=0.3 * tune(2), other=tune(50), silent=0 * tune(1))
    left = []
    alone = audit(sounds, training, embed, work=tmp_path / "alone")
    found = audit(
        sounds, training, embed, work=tmp_path / "work", pool=pool,
        progress=lambda progress: left.append(progress.left_s),
    )  # fmt: skip
    assert found.examined == alone.examined
    assert found.unexamined == alone.unexamined
    assert left[0] is None
    assert left[1] > 0, "the time that a process took is known here"
    model = audit(
        Model(), training, embed, prompts=["tune number 3"], model="m", work=tmp_path / "work",
        pool=pool,
    )  # fmt: skip
    assert model.sentence == "1 of 1 generation replicates a training clip."


def test_workers_side_by_side_leave_less_time(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = [["examine"]] * 5
    alone, beside = (ProgressTimer(plan, lambda progress: None, at_once) for at_once in (1, 2))
    for pace in (alone, beside):
        pace.add([("examine", 3.0)])
        pace.finish()
    assert (alone.progress.left_s, beside.progress.left_s) == (12.0, 6.0)


def test_a_worker_that_dies_ends_the_audit_and_what_was_made_is_kept(tmp_path: Path) -> None:
    training, embed = training_set(), embedder("magmel")
    with (
        Processes(1) as pool,
        pytest.raises(AnechoicError, match=r"a worker process died.*fewer '--jobs'"),
    ):
        audit(
            dies, training, embed, prompts=["a tune"], seeds=range(3), model="m",
            work=tmp_path / "work", pool=pool,
        )  # fmt: skip
    assert len(list((tmp_path / "work").glob("sounds/*"))) >= 1
