"""A bench can be killed at any moment: finished cells are kept, and nothing else is trusted."""

from __future__ import annotations

import copy
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import Field, replace
from pathlib import Path

import pytest
from anechoic_lab.bench import Method, Plan, Request, Results, Source, cells, run
from support import TESTS

from anechoic.cache import ResultCache
from anechoic.errors import AnechoicError, BadSetting, GuardError
from anechoic.guidance import registry
from anechoic.processes import threads_each

NONE = Method("none", "unguarded")
PUSH = Method("push", "push", "push", {"strength": 1.0})
PLAN = Plan("small", (NONE, PUSH), seeds=(0, 1), scenarios=("large",), batch=4)
CELLS = 2 * 2 * 2 + 2  # methods, seeds, batches, and the two of the scenario
MODULE = "support.bench_task:make"


def bench(work: Path, plan: Plan = PLAN, jobs: int = 1, **options: object) -> Results:
    return run(plan, Source.of(MODULE, **options), work, jobs=jobs)


def stamps(work: Path) -> dict[str, int]:
    """The cells that are there, and when each was written."""
    return {path.name: path.stat().st_mtime_ns for path in (work / "results").glob("*.json")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    """A finished bench, not to be changed, and its results."""
    work = tmp_path_factory.mktemp("finished")
    return work, bench(work)


@pytest.fixture
def work(finished: tuple[Path, Results], tmp_path: Path) -> Path:
    """A copy of the finished bench."""
    return Path(shutil.copytree(finished[0], tmp_path / "work"))


# ------------------------------------------------------------------------------------ to the end


def test_every_cell_is_computed_once_and_a_second_run_computes_nothing(
    finished: tuple[Path, Results], work: Path
) -> None:
    before = stamps(work)
    assert (len(before), finished[1].computed) == (CELLS, CELLS)
    told: list[tuple[int, int]] = []
    again = run(PLAN, Source.of(MODULE), work, progress=lambda *counts: told.append(counts))
    assert (again.computed, told) == (0, [(CELLS, CELLS)])
    assert stamps(work) == before
    assert again == replace(finished[1], computed=0)


def test_rows_are_in_the_order_of_seeds_and_prompts_whatever_the_jobs(
    finished: tuple[Path, Results], tmp_path: Path
) -> None:
    results = bench(tmp_path / "two", jobs=2)
    assert results.rows == finished[1].rows
    rows = results.rows["large", "none"]
    ids = ["m0", "m1", "m2", "o0", "o1", "o2"]
    assert [(row.seed, row.prompt) for row in rows] == [(s, i) for s in (0, 1) for i in ids]


def test_a_larger_plan_takes_over_what_a_smaller_one_computed(work: Path) -> None:
    renamed = Method("mine", "another name", "push", {"strength": 1.0})
    plan = Plan("larger", (renamed, NONE), (1, 2), ("large", "plain"), batch=4)
    results = bench(work, plan)
    # new: seed 2 of "large", both seeds of "plain", its reference and baseline
    assert results.computed == 2 * 2 + 2 * 2 * 3 + 2


STRONGER = (Method("push", "push", "push", {"strength": 1.5}),)


@pytest.mark.parametrize(
    ("change", "computed"),
    [
        ({"steps": 5}, 4),
        ({"split": "tune"}, 2),  # the second batch holds the same ordinary prompts
        ({"batch": 5}, 4),
        ({"methods": STRONGER}, 2),
        ({"methods": (Method("other", "called otherwise", "push", {"strength": 1.0}),)}, 0),
    ],
)
def test_what_determines_a_result_determines_its_cell(
    work: Path, change: dict, computed: int
) -> None:
    before = stamps(work)
    assert bench(work, replace(PLAN, seeds=(0,), **change)).computed == computed
    assert before.items() <= stamps(work).items()


def test_another_version_of_a_package_is_another_cell(
    finished: tuple[Path, Results], monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = cells.Trial("baseline", "large", "f")
    same, other = cell.identity, cells.Trial("baseline", "large", "f")
    monkeypatch.setattr(cells, "versions", lambda: {"torch": "0"})
    assert other.identity != same


def test_another_default_of_a_guard_is_another_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    def cell() -> cells.Trial:
        return cells.Trial("rows", "large", "f", Method("auto", "auto", "auto"))

    same = cell().identity
    assert cell().identity == same
    auto = registry.method("auto")
    found = [replace_default(one) for one in registry.settings(auto)]
    monkeypatch.setattr(registry, "settings", lambda cls: found if cls is auto else [])
    assert cell().identity != same


def replace_default(one: Field[object]) -> Field[object]:
    """The field with another default, if it is the distance between comparisons."""
    other = copy.copy(one)
    if one.name == "watch":
        other.default = 3.0
    return other


# ---------------------------------------------------------------------------------- what is there


def spoil_truncated(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def spoil_emptied(path: Path, other: Path) -> None:
    path.write_bytes(b"")


def spoil_flipped(path: Path, other: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-40] ^= 0x01  # within the result
    path.write_bytes(content)


def spoil_foreign(path: Path, other: Path) -> None:
    shutil.copy(other, path)


def spoil_strange(path: Path, other: Path) -> None:
    path.write_text('{"similarity": [0.0]}')


def spoil_rows(path: Path, other: Path) -> None:
    cache = ResultCache(path.parents[1], "bench")  # the identity stays, the last row goes
    content = cache.get(path.stem)
    content["rows"].pop()
    cache.put(path.stem, content)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [(spoil_truncated, "is damaged"), (spoil_emptied, "its head is not"),
     (spoil_flipped, "is damaged"),
     (spoil_foreign, "holds another result: method 'none', scenario 'large', seed 0"),
     (spoil_strange, "it holds another"), (spoil_rows, "do not belong to its prompts")],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
def test_a_file_that_cannot_be_trusted_is_computed_again_with_a_note(
    finished: tuple[Path, Results], work: Path, spoil, reason: str
) -> None:
    layout = finished[1].layout
    first = tuple(layout.prompts["large"][:4])
    fingerprint = layout.fingerprints["large"]
    victim, other = (
        cells.cache_of(work).path(
            cells.Trial("rows", "large", fingerprint, method, 0, first).identity
        )
        for method in (PUSH, NONE)
    )
    before = stamps(work)
    spoil(victim, other)
    notes: list[str] = []
    results = run(PLAN, Source.of(MODULE), work, note=notes.append)
    assert results.computed == 1
    assert len(notes) == 1
    assert f"'{victim}' is computed again: it" in notes[0]
    assert reason in notes[0]
    assert results.rows == finished[1].rows
    after = stamps(work)
    assert {name for name in after if after[name] != before[name]} == {victim.name}


def test_what_a_killed_write_left_is_passed_over(work: Path) -> None:
    (work / "results" / ".half-written.1234").write_bytes(b"{")
    assert bench(work).computed == 0


# ------------------------------------------------------------------------------------- and killed

DRIVER = """
import sys
from pathlib import Path
from anechoic_lab.bench import Plan, Source, run

plan, work, delay_s = sys.argv[1:]
source = Source.of("support.bench_task:make", delay_s=float(delay_s))
run(Plan.load(plan), source, Path(work), jobs=2)
"""
LONGER = """
seeds = 2
batch = 2
[[methods]]
name = "none"
[[methods]]
name = "push"
guard = "push"
vary = { strength = [0.5, 1.0] }
"""
LONGER_CELLS = 3 * 2 * (6 + 3) + 4  # methods, seeds, batches of both scenarios, and 2 for each


@pytest.fixture
def drive(tmp_path: Path):
    """Start a bench in a process of its own, the leader of its own group."""
    plan = tmp_path / "longer.toml"
    plan.write_text(LONGER)
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])

    def start(work: Path, delay_s: float) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-c", DRIVER, str(plan), str(work), str(delay_s)]
        return subprocess.Popen(
            words, env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip

    return start


@pytest.mark.slow
def test_killed_again_and_again_it_ends_with_the_table_of_a_run_that_was_not(
    drive, tmp_path: Path
) -> None:
    work, rng, kills = tmp_path / "killed", random.Random(5), 0
    known: dict[str, int] = {}
    while len(known) < LONGER_CELLS and kills < 40:
        process = drive(work, delay_s=0.02)
        wanted = min(len(known) + rng.randint(8, 28), LONGER_CELLS)
        while len(now := stamps(work)) < wanted and process.poll() is None:
            time.sleep(rng.uniform(0.0, 0.02))
        process.kill()
        process.communicate()
        kills += 1
        assert known.items() <= now.items(), "a finished cell was written again"
        known = stamps(work)
    assert kills >= 2
    assert len(known) == LONGER_CELLS
    plan = Plan.load(tmp_path / "longer.toml")
    killed, whole = bench(work, plan, jobs=2), bench(tmp_path / "whole", plan, jobs=2)
    assert (killed.computed, whole.computed) == (0, LONGER_CELLS)
    assert replace(whole, computed=0) == killed  # all that the table is a function of
    assert known == stamps(work)


@pytest.mark.slow
def test_processes_end_with_the_one_that_started_them(drive, tmp_path: Path) -> None:
    process = drive(tmp_path / "w", delay_s=0.05)
    while len(stamps(tmp_path / "w")) < 6:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    time.sleep(0.2)
    left = stamps(tmp_path / "w")
    time.sleep(0.3)
    assert stamps(tmp_path / "w") == left
    assert len(left) < LONGER_CELLS


def interrupted(process: subprocess.Popen[bytes]) -> bytes:
    """What it writes until it is over, within five seconds of an interrupt: Python loses one that
    falls into a finalizer, so it is sent again, as people do."""
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=5)[1]
    process.kill()
    pytest.fail("it goes on after three interrupts")


def test_an_interrupt_leaves_finished_cells_and_the_folder_and_is_over_at_once(
    drive, tmp_path: Path
) -> None:
    """Until then, no other bench may use the folder."""
    process = drive(tmp_path / "w", delay_s=20.0)
    while not stamps(tmp_path / "w"):  # the reference, which takes no time
        time.sleep(0.02)
    with pytest.raises(BadSetting, match="another bench is running in"):
        bench(tmp_path / "w")
    time.sleep(0.2)
    stderr = interrupted(process)
    assert stderr.decode().strip().endswith("KeyboardInterrupt")
    assert stamps(tmp_path / "w")
    assert bench(tmp_path / "w").computed  # the lock is gone with its holder


# ------------------------------------------------------------------------------------ and refused


def test_a_failed_cell_is_named_and_the_others_are_kept(tmp_path: Path) -> None:
    failing = Method("bad", "bad", "fail")
    plan = Plan("p", (NONE, failing), (0,), ("large",), batch=6)
    with pytest.raises(GuardError) as error:
        bench(tmp_path, plan)
    assert str(error.value) == (
        "method 'bad', scenario 'large', seed 0, prompts 'm0' to 'o2': the guidance returned NaN"
    )
    assert len(stamps(tmp_path)) == 3  # reference, baseline, and the cell before


def test_a_worker_that_dies_is_told_of(tmp_path: Path) -> None:
    plan = Plan("p", (Method("bad", "bad", "die"),), (0,), ("large",))
    with pytest.raises(AnechoicError, match=r"a worker process died.*finished cells are saved"):
        bench(tmp_path, plan, jobs=2)


@pytest.mark.parametrize(
    ("plan", "options", "sentence"),
    [
        (Plan("p", (Method("a", "a", "cfg"),)), {}, "method 'a': expected the guard push"),
        (
            Plan("p", (NONE,), scenarios=("absent",)),
            {},
            "scenario 'absent' does not exist; expected some of",
        ),
        (Plan("p", (NONE,), split="absent"), {}, "expected the split report or tune"),
        (Plan("p", (NONE,)), {"color": "red"}, "do not fit (got an unexpected keyword argument"),
    ],
)
def test_what_a_subject_refuses_costs_no_cell(tmp_path: Path, plan, options, sentence) -> None:
    with pytest.raises(BadSetting) as error:
        bench(tmp_path, plan, **options)
    assert sentence in str(error.value)
    assert stamps(tmp_path) == {}


@pytest.mark.parametrize("name", ["absent", "no.such.module:make", "support.bench_task:absent"])
def test_a_subject_that_is_not_there_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadSetting, match=r"expected a task among|cannot be opened"):
        run(PLAN, Source.of(name), tmp_path)


@pytest.mark.parametrize(("threads", "jobs", "each"), [("8", 3, 2), ("2", 4, 1), ("1", 1, 1)])
def test_threads_are_split_among_the_processes(
    monkeypatch: pytest.MonkeyPatch, threads: str, jobs: int, each: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    assert threads_each(jobs) == each


def test_no_jobs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="expected 1 job or more, got 0"):
        bench(tmp_path, jobs=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_figure_that_is_not_finite_is_refused(finished: tuple[Path, Results], value) -> None:
    row = finished[1].rows["large", "none"][0]
    prompt = finished[1].layout.prompts["large"][0]
    request = Request("large", [prompt], 0, NONE)
    assert cells.require_rows(request, [row]) == [row]
    for wrong in ({"similarity": value}, {"adherence": value}, {"scores": {"a": value}}):
        with pytest.raises(AnechoicError, match="'m0' are not all finite"):
            cells.require_rows(request, [replace(row, **wrong)])
    with pytest.raises(AnechoicError, match="expected 1 rows"):
        cells.require_rows(request, [])
