"""What each guard costs: seconds per clip against the plain pipeline, and peak memory.

    python benchmarks/speed.py                        # all subjects that this machine has
    python benchmarks/speed.py --subjects demo --batches 1 --pairs 7 --out docs/evidence/speed

Plain and guarded generations alternate, in one process, with the same model, steps, batch and seed;
the figure is the median of the ratios of pairs, its spread the quartiles; where these do not yet
tell on which side of the target it is, a small model is given more pairs. Beside it the fastest
guarded generation over the fastest plain one, and the share of a plain generation that is spent in
the guard's own hooks, with all that they call: noise reaches these least. On a CPU the clock is the
processor time of the process on one thread, which other programs do not count in; on a GPU it is
the wall clock around synchronised generations. Peak memory is that of fresh processes. Prints the
table with targets and verdicts, writes it as .md and .json, and exits with 1 where a target is
missed.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from speed_levers import CHEAPER, EXACT, Lever
from speed_memory import memory
from speed_memory import table as memory_table
from speed_subjects import MAKERS, MEMORIZED, ORDINARY, Published, Subject, amg, generate

from anechoic.auto import Auto
from anechoic.diffusers.connection import Hooks
from anechoic.environment import machine
from anechoic.guidance import ClassifierFree, DynamicTransition, Screened, TransitionPoint

TAU = 0.5  # share of the schedule before the static transition
AUTO = "auto"
STATIC, FULL = "static transition, scale 0 before tau = 0.5", "full AMG, gradient stopped at x0"


@dataclass(frozen=True)
class Row:
    """A guard, the prompt it is timed on, and the most it may cost."""

    guard: str
    prompt: str
    make: Callable[[Subject], Any]
    target: float | None = None
    lever: str = ""  # what is switched off, or on
    trained: bool = False  # it says nothing of random weights
    without: Lever | None = None  # one that is no setting of the guard
    most: int = 1000  # pairs: of what takes long and has no target, one is enough
    gated: bool = True  # it does other work for a memorized prompt
    small: float | None = None  # the target beside a network whose steps take milliseconds


def targets() -> Iterator[Row]:
    """The table of the targets, and what it is to be compared with."""
    yield Row(AUTO, ORDINARY, partial(auto, shut=True), 1.05, small=1.3)
    yield Row(AUTO, MEMORIZED, partial(auto, shut=False), 1.3, trained=True, small=1.4)
    for prompt in (ORDINARY, MEMORIZED):
        made, open_ = partial(amg, kind=prompt), prompt == MEMORIZED
        denoiser = partial(made, gradient="denoiser")
        always = partial(Row, prompt=prompt, gated=False)
        yield always(
            STATIC, make=lambda s: TransitionPoint(s.scale, 0.0, TAU), target=1.0 - 0.45 * TAU
        )
        yield always(
            "opposite guidance", make=lambda s: TransitionPoint(s.scale, -1.0, TAU), target=1.02
        )
        yield always(
            "dynamic transition", make=lambda s: DynamicTransition(s.scale, 0.0, 0.15), target=1.02
        )
        yield Row("AMG without dissimilarity", prompt, partial(made, c3=0.0), 1.5 if open_ else 1.1)
        yield Row(FULL, prompt, made, 2.0 if open_ else 1.1)
        yield Row(
            "full AMG, gradient through the denoiser", prompt, denoiser, 3.5 if open_ else 1.1
        )
    yield Row("published schedule of work", MEMORIZED, Published, most=1)
    yield Row("classifier-free guidance by the guard", ORDINARY, lambda s: ClassifierFree(s.scale))


def levers() -> Iterator[Row]:
    """Each lever switched off, and the screen on."""
    yield Row(FULL, ORDINARY, partial(amg, kind=MEMORIZED), lever="gate as it falls", trained=True)
    both = partial(TransitionPoint, before=0.0, at=TAU, both_halves=True)
    yield Row(STATIC, ORDINARY, lambda s: both(s.scale), lever="without: both halves computed")
    for prompt in (ORDINARY, MEMORIZED):
        made = partial(amg, kind=prompt)
        always = partial(made, start=None, every=1)
        yield Row(FULL, prompt, screened, lever="with the screen, gate as it falls", trained=True)
        yield Row(FULL, prompt, partial(made, every=1), lever="without `every`")
        yield Row(FULL, prompt, partial(made, start=None), lever="without `start`")
        yield Row(FULL, prompt, always, lever="without both")
        yield Row(FULL, prompt, made, lever="without the cheaper decode", without=CHEAPER)
        yield Row(FULL, prompt, always, lever="without all three", without=CHEAPER)
    for exact in EXACT:
        made = partial(amg, kind=MEMORIZED)
        yield Row(FULL, MEMORIZED, made, lever=f"without: {exact.name}", without=exact)


def auto(subject: Subject, shut: bool) -> Auto:
    """The guard without settings. Where weights are random no caption is to be replaced."""
    opens = 0.9999 if shut and subject.over is None else None
    return Auto(subject.index, subject.embed, subject.scale, opens)


def screened(subject: Subject) -> Screened:
    """AMG for the samples alone whose prompt pulls as a memorized one does."""
    assert subject.over is not None  # there is no such row otherwise
    return Screened(amg(subject, MEMORIZED), subject.over, subject.scale)


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    subject: str
    batch: int
    guard: str
    prompt: str
    lever: str
    target: float | None
    ratio: float
    low: float
    high: float
    pairs: int
    fastest: float  # the fastest guarded generation over the fastest plain one
    hooks: float | None  # time in the guard's hooks, over a plain generation
    seconds: float  # of a guarded clip
    passes: float  # of a sample through the network, in a generation
    open: float | None  # share of the evaluations with an open gate

    @property
    def verdict(self) -> str:
        return "" if self.target is None else "holds" if self.ratio <= self.target else "MISSED"


class Clock:
    """Processor time of one thread on a CPU, wall time around synchronised work on a GPU."""

    def __init__(self, pipe: Any, kind: str):
        self.cuda = pipe.device.type == "cuda"
        self.wall = kind == "wall" or self.cuda

    def __call__(self) -> float:
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter() if self.wall else time.process_time()


@contextmanager
def heard(clock: Clock) -> Iterator[list[float]]:
    """How long each call of the guard's hooks takes; not on a GPU, which to look at a clock would
    have to be waited for each time."""
    spent: list[float] = []
    if clock.cuda:
        yield spent
        return

    def timed(hook: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            start = clock()
            try:
                return hook(*args)
            finally:
                spent.append(clock() - start)

        return call

    before, after = Hooks.pre_forward, Hooks.post_forward
    Hooks.pre_forward, Hooks.post_forward = timed(before), timed(after)  # type: ignore[method-assign]
    try:
        yield spent
    finally:
        Hooks.pre_forward, Hooks.post_forward = before, after  # type: ignore[method-assign]


def measure(
    subject: Subject, row: Row, batch: int, pairs: int, clock: Clock, last: dict[str, float]
) -> Figure:
    """Guarded generations between plain ones: the median of their ratios. `last`: seconds of the
    plain generation just before, which need not be made again, by its prompts."""
    guidance, prompts = row.make(subject), "\n".join(subject.prompts[row.prompt][:batch])

    def timed(with_guard: bool) -> tuple[float, Any]:
        start = clock()
        trace = generate(subject, row.prompt, batch, guidance if with_guard else None)
        return (clock() - start) / batch, trace

    without = row.without.off(subject) if row.without else nullcontext()
    with without, heard(clock) as spent:
        plain, ratios, seconds, trace = [last.get(prompts) or timed(False)[0]], [], [], None
        most = pairs if row.target is None else subject.most
        while len(ratios) < pairs or (len(ratios) < most and undecided(ratios, row.target)):
            own, trace = timed(True)
            plain.append(timed(False)[0])
            ratios.append(own / statistics.mean(plain[-2:]))
            seconds.append(own)
    last.clear()
    last[prompts] = plain[-1]
    pairs = len(ratios)
    gates = trace.column("gate") if "gate" in trace.records[0].notes else None
    quartiles = statistics.quantiles(ratios, n=4) if pairs > 1 else [ratios[0]] * 3
    return Figure(
        subject.name, batch, row.guard, row.prompt, row.lever, row.target,
        statistics.median(ratios), quartiles[0], quartiles[2], pairs, min(seconds) / min(plain),
        sum(spent) / pairs / batch / statistics.median(plain) if spent else None,
        statistics.median(seconds),
        sum(record.passes for record in trace.records),
        None if gates is None else gates.float().mean().item(),
    )  # fmt: skip


def undecided(ratios: list[float], target: float) -> bool:
    """Whether chance alone would put as many of them on one side of the target in more than one
    case in twenty (the sign test)."""
    count = len(ratios)
    over = sum(ratio > target for ratio in ratios)
    fewer = min(over, count - over)
    return 2 * sum(math.comb(count, k) for k in range(fewer + 1)) / 2**count > 0.05


def least(subject: Subject, batch: int, clock: Clock, plain: float) -> str:
    """What a static transition could cost at least: the network on half of its rows is not half
    the work, the less so the smaller it is. `plain`: seconds of a plain generation."""
    network, seen = subject.pipe.transformer, {}

    def hear(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.update(zip(signature(module.forward).parameters, args, strict=False), **kwargs)

    handle = network.register_forward_pre_hook(hear, with_kwargs=True)
    generate(subject.of_steps(2), ORDINARY, batch, None)
    handle.remove()
    rows = 2 * batch
    half = {
        name: value[:batch] if isinstance(value, torch.Tensor) and value.shape[:1] == (rows,)
        else value for name, value in seen.items()
    }  # fmt: skip
    times: dict[int, list[float]] = {rows: [], batch: []}
    with torch.no_grad():
        for _ in range(10):
            for count, arguments in ((rows, seen), (batch, half)):
                start = clock()
                network(**arguments)
                times[count].append(clock() - start)
    both, one = statistics.median(times[rows]), statistics.median(times[batch])
    share = min(1.0, both * subject.call["num_inference_steps"] / plain)
    floor = 1 - TAU * share * (1 - one / both)
    return (
        f"The denoiser takes {share:.0%} of a plain generation, and one prediction "
        f"{one / both:.2f} of what both take, so a static transition at {TAU:g} costs at least "
        f"{floor:.2f}."
    )


def table(figures: list[Figure]) -> str:
    """The figures as Markdown."""
    head = ("guard", "prompt", "lever", "target", "x plain", "quartiles", "pairs", "fastest",
            "hooks", "s / clip", "passes", "gate open", "verdict")  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for f in figures:
        cells = (
            f.guard, f.prompt, f.lever, "" if f.target is None else f"{f.target:.3g}",
            f"{f.ratio:.2f}", f"{f.low:.2f} to {f.high:.2f}", str(f.pairs), f"{f.fastest:.2f}",
            "" if f.hooks is None else f"{f.hooks:.1%}",
            f"{f.seconds:.2f}", f"{f.passes:g}",
            "" if f.open is None else f"{f.open:.0%}", f.verdict,
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Plain)
    parser.add_argument("--subjects", nargs="+", choices=MAKERS, default=list(MAKERS))
    parser.add_argument("--batches", nargs="+", type=int, help="for each subject its own")
    parser.add_argument(
        "--pairs", type=int, help="of generations, for each row; for each subject its own"
    )
    parser.add_argument(
        "--only", nargs="+", default=[""], help="guards with one of these in their name"
    )
    parser.add_argument("--no-levers", action="store_true", help="the table of the targets alone")
    parser.add_argument("--clock", choices=("processor", "wall"), default="processor")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--out", type=Path, help="name of the .md and .json files to write")
    return parser.parse_args()


def chosen(subject: Subject, asked: argparse.Namespace) -> Iterator[Row]:
    """The rows that were asked for and that say something of this subject."""
    rows = list(targets())
    if "targets" not in subject.rows:  # those that its levers are to be compared with
        rows = [replace(row, target=None) for row in rows if row.guard in (STATIC, FULL)]
    if "levers" in subject.rows and not asked.no_levers:
        rows += levers()
    if subject.small:
        rows = [row if row.small is None else replace(row, target=row.small) for row in rows]
    same = subject.prompts[MEMORIZED] == subject.prompts[ORDINARY]
    for row in rows:
        if same and row.prompt == MEMORIZED and not row.gated:
            continue  # measured already
        means = not row.trained or subject.over is not None
        fits = row.without is None or row.without.fits(subject)
        if means and fits and any(text in row.guard for text in asked.only):
            yield row


class _Plain(argparse.RawDescriptionHelpFormatter):
    pass


def main() -> int:
    asked = parsed()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    about = machine("1, one thread")
    parts = [", ".join(f"{key} {value}" for key, value in about.items())]
    figures: list[Figure] = []
    peaks: list[dict[str, Any]] = []
    for name in asked.subjects:
        if name == "real" and not torch.cuda.is_available():
            parts.append(
                "## real\n\nSkipped: the real configuration needs a GPU, and this machine has none."
            )
            continue
        subject = MAKERS[name]()
        if asked.pairs:
            subject = replace(subject, pairs=asked.pairs, most=asked.pairs)
        clock = Clock(subject.pipe, asked.clock)
        for batch in asked.batches or subject.batches:
            generate(subject.of_steps(3), MEMORIZED, batch, amg(subject, MEMORIZED))
            own: list[Figure] = []
            last: dict[str, float] = {}
            for row in chosen(subject, asked):
                own.append(measure(subject, row, batch, min(subject.pairs, row.most), clock, last))
                print(name, batch, table([own[-1]]).splitlines()[-1], file=sys.stderr, flush=True)
            if not own:  # `--only` named none that are measured on this subject
                continue
            figures += own
            plain = batch * statistics.median(f.seconds / f.ratio for f in own)
            floor = least(subject, batch, clock, plain)
            parts.append(f"## {name}, batch {batch}\n\n{subject.about}.\n\n{table(own)}\n\n{floor}")
            if not asked.no_memory:
                peaks.append(memory(name, batch))
    if peaks:
        parts.append(f"## Peak memory\n\n{memory_table(peaks)}")
    missed = sum(f.verdict == "MISSED" for f in figures) + sum(
        p["verdict"] == "MISSED" for p in peaks
    )
    if any(f.target is not None for f in figures) or peaks:
        parts.append(f"{missed} targets missed." if missed else "All targets hold.")
    print("\n\n".join(parts))
    if asked.out:
        asked.out.with_suffix(".md").write_text("\n\n".join(parts) + "\n")
        content = {"machine": about, "figures": [asdict(f) for f in figures], "memory": peaks}
        asked.out.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
    return int(missed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
