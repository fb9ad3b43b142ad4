"""Runs a bench: computes the missing cells in processes and saves each finished one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from anechoic import engines
from anechoic.environment import machine
from anechoic.errors import AnechoicError, BadSetting
from anechoic.processes import Processes, threads_each
from anechoic_lab.bench import cells
from anechoic_lab.bench.cells import Finished, Trial
from anechoic_lab.bench.plan import Method, Plan
from anechoic_lab.bench.task import BenchPrompt, SampleScore, Source, Task, open_task

SAVED = "finished cells are saved; start the bench again to continue"


@dataclass(frozen=True)
class Layout:
    """The description that a task gives before anything is generated."""

    name: str
    about: Mapping[str, str]
    prompts: Mapping[str, Sequence[BenchPrompt]]  # by scenario
    fingerprints: Mapping[str, str]  # by scenario


@dataclass(frozen=True)
class Results:
    """All measurements, in the order of the plan."""

    plan: Plan
    layout: Layout
    rows: Mapping[tuple[str, str], Sequence[SampleScore]]  # by scenario and method
    reference: Mapping[str, Sequence[Sequence[float]]]  # by scenario, quality embeddings [m, d]
    baseline: Mapping[str, Sequence[float]]  # by scenario
    machines: Sequence[Mapping[str, str]]  # distinct machines that computed the cells
    computed: int  # number of cells that were missing


def run(
    plan: Plan,
    source: Source,
    work: Path,
    *,
    jobs: int = 1,
    engine: str = "local",
    progress: Callable[[int, int], None] = lambda done, total: None,
    note: Callable[[str], None] = lambda sentence: None,
) -> Results:
    """Run the missing cells of a bench.

    Every finished cell is a file in `work`. A bench that is killed at any moment and started again
    continues from there. The results do not depend on the number of processes, except the seconds.

    Worker processes import the caller's main module: in a script with more than one job, call this
    under `if __name__ == "__main__":`.

    Args:
        plan: the plan to run.
        source: the task to run it on; each process opens its own.
        work: folder of finished cells, created if missing. Plans can share it and reuse each
            other's cells.
        jobs: number of processes, which share the threads; 1: this one.
        engine: "local", or "ray": the processes are tasks on a Ray cluster, whose machines share
            the work folder and what the source names; a task whose worker is killed runs again.
        progress: called with the number of finished cells and the total, at the start and after
            each cell.
        note: called with a sentence about each file that is not trusted.

    Raises:
        BadSetting: jobs below 1, an unknown engine, a work folder that another bench is using, no
            prompts, or a setting that the task refuses.
        AnechoicError: a cell failed; the message names it, and finished cells are saved.
    """
    many = engines.find(engine)
    cache = cells.cache_of(work)
    workers: Any = many.tasks if many is not None else Processes if jobs != 1 else _here
    with cache.alone(), workers(jobs) as pool:
        if engine == "local" and cache.is_empty:
            # every process will have work: the others open the task while one describes it
            for _ in range(jobs - 1):
                pool.submit(_open, source)
        layout = _layout(plan, source, pool)
        wanted = {cell.identity: cell for cell in _cells(plan, layout)}
        finished = {name: found for name, cell in wanted.items()
                    if (found := _trusted(work, cell, note))}  # fmt: skip
        missing = [cell for name, cell in wanted.items() if name not in finished]
        progress(len(finished), len(wanted))
        how = f"{jobs} x {threads_each(jobs)} threads"
        if many is not None:
            how = f"{jobs} {engine.capitalize()} tasks x {pool.share.cpus} threads"
        for cell in _computed(pool, source, work, missing, how):
            if (found := _trusted(work, cell, note)) is None:
                raise AnechoicError(f"{cell}: its file is not what was written; check the disk")
            finished[cell.identity] = found
            progress(len(finished), len(wanted))
    return _results(plan, layout, finished, len(missing))


# ------------------------------------------------------------------------------ cells of the plan


def _layout(plan: Plan, source: Source, pool: Executor | None) -> Layout:
    describe = partial(_describe, source, plan)
    asked = describe if pool is None else pool.submit(describe).result
    layout: Layout = _answer(asked, f"task '{source.name}'")
    for scenario, prompts in layout.prompts.items():
        if not prompts:
            raise BadSetting(f"scenario '{scenario}' has no prompts in the split '{plan.split}'")
        ids = [prompt.id for prompt in prompts]
        if twice := [name for name in ids if ids.count(name) > 1]:
            raise BadSetting(f"scenario '{scenario}' has two prompts with the id '{twice[0]}'")
    return layout


def _cells(plan: Plan, layout: Layout) -> Iterator[Trial]:
    """All cells, ordered so that the first ones already compare all methods."""
    for scenario, fingerprint in layout.fingerprints.items():
        yield Trial("reference", scenario, fingerprint)
        yield Trial("baseline", scenario, fingerprint)
    for seed in plan.seeds:
        for scenario, prompts in layout.prompts.items():
            for batch in _batches(prompts, plan.batch):
                for method in plan.methods:
                    yield _cell(plan, layout, scenario, method, seed, batch)


def _cell(
    plan: Plan,
    layout: Layout,
    scenario: str,
    method: Method,
    seed: int,
    prompts: Sequence[BenchPrompt],
) -> Trial:
    return Trial(
        "rows", scenario, layout.fingerprints[scenario], method, seed, tuple(prompts), plan.steps
    )


def _batches(prompts: Sequence[BenchPrompt], size: int) -> Iterator[Sequence[BenchPrompt]]:
    return (prompts[first : first + size] for first in range(0, len(prompts), size))


def _trusted(work: Path, cell: Trial, note: Callable[[str], None]) -> Finished | None:
    """The content of a cell's file, if there is one and it can be trusted."""
    found = cells.read(work, cell)
    if isinstance(found, str):
        note(f"'{cells.cache_of(work).path(cell.identity)}' is computed again: {found}")
        return None
    return found


def _results(
    plan: Plan, layout: Layout, finished: Mapping[str, Finished], computed: int
) -> Results:
    def values(kind: cells.Kind, scenario: str) -> Sequence[Sequence[float]]:
        return finished[Trial(kind, scenario, layout.fingerprints[scenario]).identity].values

    rows = {
        (scenario, method.name): [
            row
            for seed in plan.seeds
            for batch in _batches(prompts, plan.batch)
            for row in finished[_cell(plan, layout, scenario, method, seed, batch).identity].rows
        ]
        for scenario, prompts in layout.prompts.items()
        for method in plan.methods
    }
    machines = {tuple(cell.machine.items()): cell.machine for cell in finished.values()}
    return Results(
        plan,
        layout,
        rows,
        reference={scenario: values("reference", scenario) for scenario in layout.prompts},
        baseline={scenario: [value for (value,) in values("baseline", scenario)]
                  for scenario in layout.prompts},
        machines=[machines[key] for key in sorted(machines)],
        computed=computed,
    )  # fmt: skip


# ------------------------------------------------------------------------------------- processes


@contextmanager
def _here(jobs: int) -> Iterator[None]:
    """No pool: this process computes. It opens the task anew each time, as files may change."""
    try:
        yield None
    finally:
        _opened.cache_clear()


def _computed(
    pool: Executor | None, source: Source, work: Path, missing: Sequence[Trial], how: str
) -> Iterator[Trial]:
    """Compute cells and write their files; yields each when it is done."""
    if pool is None:
        for cell in missing:
            _answer(partial(_compute, source, work, cell, how), str(cell))
            yield cell
        return
    running = {pool.submit(_compute, source, work, cell, how): cell for cell in missing}
    for future in as_completed(running):
        _answer(future.result, str(running[future]))
        yield running[future]


def _answer(call: Callable[[], Any], what: str) -> Any:
    try:
        return call()
    except BrokenExecutor as error:
        raise AnechoicError(
            f"a worker process died at or next to {what}, killed or out of memory; {SAVED}, with "
            "fewer '--jobs' if memory is short"
        ) from error
    except AnechoicError as error:
        raise type(error)(f"{what}: {error}") from error
    except Exception as error:  # from any library that a task uses
        raise AnechoicError(f"{what}: {type(error).__name__}: {error}; {SAVED}") from error


# ------------------------------------------------------------------------------ inside a process


@cache
def _opened(source: Source) -> Task:
    return open_task(source)


def _open(source: Source) -> None:
    _opened(source)


def _describe(source: Source, plan: Plan) -> Layout:
    task = _opened(source)
    scenarios = plan.scenarios or tuple(task.scenarios)
    if unknown := [name for name in scenarios if name not in task.scenarios]:
        raise BadSetting(
            f"scenario '{unknown[0]}' does not exist; expected some of {', '.join(task.scenarios)}"
        )
    for scenario in scenarios:
        for method in plan.methods:
            try:
                task.guidance(scenario, method)  # refuses a bad setting before any work
            except AnechoicError as error:
                raise type(error)(f"method '{method.name}': {error}") from error
    return Layout(
        task.name,
        dict(task.about()),
        {scenario: tuple(task.prompts(scenario, plan.split)) for scenario in scenarios},
        {scenario: task.fingerprint(scenario) for scenario in scenarios},
    )


def _compute(source: Source, work: Path, cell: Trial, processes: str) -> None:
    task = _opened(source)
    if cell.request is not None:
        rows = cells.require_rows(cell.request, task.generate(cell.request))
        finished = Finished(rows=rows, machine=machine(processes))
    elif cell.kind == "reference":
        values = [list(map(float, row)) for row in task.reference(cell.scenario)]
        finished = Finished(values=values, machine=machine(processes))
    else:
        values = [[float(value)] for value in task.baseline(cell.scenario)]
        finished = Finished(values=values, machine=machine(processes))
    cells.write(work, cell, finished)
