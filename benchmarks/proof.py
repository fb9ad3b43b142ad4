"""The proof: protected generations of the demo model, of which none above the limit may leave.

    python benchmarks/proof.py --count 10000 --jobs 2

Memorized and ordinary prompts take turns, each generation under a fresh seed. Every sound goes
through `anechoic.protect` with the automatic guard on from the first attempt on, then a new seed,
then a stronger guard, then refusal. What leaves is judged again by three judges that nothing here
follows: the demo's mel and envelope, and ranks, which a loud spot does not deceive. Of every eighth
batch the unguarded pipeline makes its own, to compare.

Faults strike on the way: a worker is killed, an index is damaged, a detector raises, the model
returns NaN. While a fault lasts, nothing may leave; afterwards the same generations are made again.

The work folder holds a file for each batch, written whole. A run that was interrupted goes on where
it stopped. `--page FILE` writes the results as Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from anechoic.environment import machine
from anechoic.storage import write_whole

BATCH = 16
SEED = 50_000  # of the first generation; the demo was tuned and reported on seeds below 100
COMPARED = 8  # of one in so many batches, the unguarded pipeline makes the same generations
POLICY = ("retry", "stronger", "refuse")
FAULTS = {3: "killed worker", 7: "damaged index", 11: "detector that raises", 19: "NaN"}
ORDINARY = 200  # prompts


@cache
def stage() -> Any:
    """The demo model, its prompts and its judges, once a process."""
    import torch

    torch.set_num_threads(1)
    from anechoic_lab.demo import assets
    from anechoic_lab.demo.evaluate import unique_prompts
    from anechoic_lab.demo.run import Bench

    from anechoic.protection import Judge

    pipe = assets.pipeline()
    bench = Bench.load(assets.SHIPPED, pipe)
    prompts = unique_prompts(bench.clips)
    memorized = [clip for clip in prompts if clip.copies > 1]
    rest = [clip for clip in prompts if clip.copies == 1]
    drawn = np.random.default_rng(0).permutation(len(rest))[:ORDINARY]
    return pipe, bench, memorized, [rest[i] for i in sorted(drawn)], Judge.load("demo")


def asked(batch: int) -> tuple[list[Any], list[int], list[bool]]:
    """The prompts of a batch, as clips, their seeds, and which are memorized."""
    _, _, memorized, ordinary, _ = stage()
    numbers = range(batch * BATCH, (batch + 1) * BATCH)
    clips = [
        memorized[n // 2 % len(memorized)] if n % 2 == 0 else ordinary[n // 2 % len(ordinary)]
        for n in numbers
    ]
    return clips, [SEED + n for n in numbers], [n % 2 == 0 for n in numbers]


def protect_batch(batch: int, steps: int, judge: Any = None, model: Any = None) -> list[Any]:
    """The results of `protect` for one batch."""
    from anechoic_lab.demo.assets import CFG_SCALE

    from anechoic import protect

    pipe, _, _, _, own = stage()
    clips, seeds, _ = asked(batch)
    arguments = {"num_inference_steps": steps, "guidance_scale": CFG_SCALE,
                 "audio_end_in_s": 1.024}  # fmt: skip
    return list(
        protect(
            pipe if model is None else model,
            own if judge is None else judge,
            [clip.caption for clip in clips],
            on_copy=POLICY,
            guard_first=True,
            seed=seeds,
            arguments=arguments,
            batch_size=BATCH,
        )
    )


# ------------------------------------------------------------------------------------- one batch


def measure(batch: int, steps: int) -> list[dict[str, Any]]:
    """What became of each generation of a batch, and what the independent judges say."""
    _, bench, _, _, _ = stage()
    clips, seeds, memorized = asked(batch)
    start = time.perf_counter()
    sounds = protect_batch(batch, steps)
    seconds = (time.perf_counter() - start) / BATCH
    rows = []
    for clip, seed, known, sound in zip(clips, seeds, memorized, sounds, strict=True):
        last = sound.attempts[-1].judgement
        scores = {name: one.score for name, one in last.verdicts.items()}
        limits = {name: one.rule.threshold for name, one in last.verdicts.items()}
        row = {
            "prompt": clip.caption, "seed": seed, "memorized": known, "verdict": sound.verdict,
            "released": sound.released, "attempts": len(sound.attempts), "seconds": seconds,
            "scores": scores, "above": [name for name in scores if scores[name] > limits[name]],
            "first": sound.attempts[0].status, "tries": [one.kind for one in sound.attempts],
        }  # fmt: skip
        if sound.released:
            row |= judged(bench, sound.wav[:, :16384], clip, seed)
        rows.append(row)
    if batch % COMPARED == 0:
        from anechoic_lab.demo.assets import CFG_SCALE

        from anechoic.diffusers.generate import generate
        from anechoic.diffusers.pipelines import call_arguments

        pipe = stage()[0]
        arguments = call_arguments(pipe, CFG_SCALE, steps)
        start = time.perf_counter()
        made = generate(pipe, [clip.caption for clip in clips], seeds, arguments).samples
        plain_s = (time.perf_counter() - start) / BATCH
        for row, clip, seed, wav in zip(rows, clips, seeds, made.split(1), strict=True):
            plain = judged(bench, wav[0], clip, seed)
            row |= {f"unguarded {name}": value for name, value in plain.items()}
            row["unguarded seconds"] = plain_s
    return rows


def judged(bench: Any, wav: Any, clip: Any, seed: int) -> dict[str, Any]:
    """The independent judges of one sound [c, t]."""
    from anechoic_lab.demo.judge import RANK

    (one,) = bench.judge(wav.mean(0, keepdim=True), [clip], seed)
    return {"mel": one.mel, "mel copy": one.copied, "copy": one.confirmed, "rank": one.rank,
            "rank copy": one.rank > RANK, "adherence": one.adherence}  # fmt: skip


# ---------------------------------------------------------------------------------------- faults


def strike(batch: int, steps: int, work: Path) -> dict[str, Any]:
    """Make a batch while its fault lasts; says what left, which has to be nothing."""
    from anechoic.errors import AnechoicError

    fault, left, said = FAULTS[batch], 0, ""
    if fault == "killed worker":  # in the middle of the batch; the driver starts another
        marker = work / f"{batch:05d}.killed"
        if not marker.exists():
            marker.touch()
            signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
            signal.setitimer(signal.ITIMER_REAL, 2.0)
            protect_batch(batch, steps)
        released = (work / f"{batch:05d}.jsonl").exists()
        return {"fault": fault, "left": BATCH if released else 0, "said": "killed, then made again"}
    try:
        with broken(fault, work) as (judge, model):
            sounds = protect_batch(batch, steps, judge, model)
        left = sum(sound.released for sound in sounds)
        said = next((sound.reason for sound in sounds if sound.reason), "")
    except AnechoicError as error:
        said = str(error)
    return {"fault": fault, "left": left, "said": said}


@contextmanager
def broken(fault: str, work: Path) -> Iterator[tuple[Any, Any]]:
    """A judge, or a model, with a fault."""
    import torch
    from anechoic_lab.demo import assets

    from anechoic.protection import Judge

    pipe, _, _, _, own = stage()
    if fault == "damaged index":
        copy = work / "damaged"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(assets.index_folder(), copy)
        judge = Judge.load(copy)
        for file in copy.rglob("*"):
            if file.is_file() and "manifest" not in file.name and file.suffix != ".json":
                file.write_bytes(bytes(file.stat().st_size))
        yield judge, None
        shutil.rmtree(copy)
    elif fault == "detector that raises":

        class Fails(type(own.verifier.embedder)):  # type: ignore[misc]
            def __call__(self, wav: Any, sample_rate: int) -> Any:
                raise RuntimeError("the detector failed")

        from dataclasses import replace

        verifier = replace(own.verifier, embedder=Fails())
        yield replace(own, verifier=verifier), None
    else:
        decode = pipe.vae.decode  # its sound turns to NaN

        def spoilt(*args: Any, **kwargs: Any) -> Any:
            made = decode(*args, **kwargs)
            made.sample = torch.full_like(made.sample, torch.nan)
            return made

        pipe.vae.decode = spoilt
        try:
            yield None, None
        finally:
            del pipe.vae.decode


# ---------------------------------------------------------------------------------------- driver


def work_on(work: Path, batches: Sequence[int], steps: int) -> None:
    """One worker: all its batches, those that are made already left out."""
    for batch in batches:
        file = work / f"{batch:05d}.jsonl"
        fault = work / f"{batch:05d}.fault.json"
        if batch in FAULTS and not fault.exists():
            write_whole(fault, json.dumps(strike(batch, steps, work)).encode())
        if not file.exists():
            lines = (json.dumps(row) + "\n" for row in measure(batch, steps))
            write_whole(file, "".join(lines).encode())


def drive(work: Path, count: int, steps: int, jobs: int) -> None:
    """Run the workers, and start one again that died, until every batch is made."""
    work.mkdir(parents=True, exist_ok=True)
    total = -(-count // BATCH)
    context = get_context("spawn")
    while missing := [b for b in range(total) if not (work / f"{b:05d}.jsonl").exists()]:
        workers = [
            context.Process(target=work_on, args=(work, missing[job::jobs], steps))
            for job in range(jobs)
        ]
        for worker in workers:
            worker.start()
        while any(worker.is_alive() for worker in workers):
            time.sleep(20)
            done = len(list(work.glob("*.jsonl")))
            print(f"{done * BATCH} of {total * BATCH}", flush=True)
        if all(worker.exitcode not in (0, -signal.SIGKILL) for worker in workers):
            raise SystemExit("the workers failed; see above")


# ---------------------------------------------------------------------------------------- report


def rows_of(work: Path) -> list[dict[str, Any]]:
    """All results, in order."""
    files = sorted(work.glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def page(work: Path, steps: int) -> str:
    """The results as Markdown."""
    rows = rows_of(work)
    faults = [json.loads(file.read_text()) for file in sorted(work.glob("*.fault.json"))]
    lines = ["| prompts | generated | left | regenerated | refused | left above the limit | "
             "called copies by the mel judge | ... and the envelope | by ranks | adherence | "
             "s a sound |", "|" + "---|" * 11]  # fmt: skip
    for name, some in split(rows):
        out = [row for row in some if row["released"]]
        above = sum(bool(row["above"]) for row in out)
        lines.append(
            f"| {name} | {len(some):,} | {len(out):,} | "
            f"{sum(row['verdict'] == 'regenerated' for row in some):,} | "
            f"{sum(not row['released'] for row in some):,} | {above} | "
            f"{share(out, 'mel copy')} | {share(out, 'copy')} | {share(out, 'rank copy')} | "
            f"{mean(out, 'adherence')} | "
            f"{mean(some, 'seconds')} |"
        )
    lines += ["", "| unguarded, the same prompts and seeds | generated | mel judge | envelope, too "
              "| ranks | adherence | s a sound |", "|" + "---|" * 7]  # fmt: skip
    for name, some in split([row for row in rows if "unguarded mel" in row]):
        lines.append(
            f"| {name} | {len(some):,} | {share(some, 'unguarded mel copy')} | "
            f"{share(some, 'unguarded copy')} | {share(some, 'unguarded rank copy')} | "
            f"{mean(some, 'unguarded adherence')} | "
            f"{mean(some, 'unguarded seconds')} |"
        )
    lines += ["", "| fault | sounds that left while it lasted | what was said |", "|---|---|---|"]
    lines += [f"| {one['fault']} | {one['left']} | {one['said']} |" for one in faults]
    out = [row for row in rows if row["released"]]
    above = sum(bool(row["above"]) for row in out)
    exact = binomtest(above, len(rows), alternative="less").proportion_ci(0.95)
    about = ", ".join(f"{name} {value}" for name, value in machine("1 thread each").items())
    head = (
        f"{len(rows):,} generations, {steps} steps, seeds from {SEED:,} on; {about}. "
        f"{above} above the limit left; the 95 % upper bound of the rate is "
        f"{1e4 * exact.high:.1f} in 10,000."
    )
    return "\n".join([head, "", *lines, ""])


def split(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    return [
        ("memorized", [row for row in rows if row["memorized"]]),
        ("ordinary", [row for row in rows if not row["memorized"]]),
    ]


def share(rows: Sequence[Mapping[str, Any]], key: str) -> str:
    count = sum(bool(row[key]) for row in rows)
    return f"{count} ({100 * count / max(len(rows), 1):.2f} %)"


def mean(rows: Sequence[Mapping[str, Any]], key: str) -> str:
    values = [row[key] for row in rows if row[key] is not None]
    return f"{np.mean(values):.3f}" if values else "none"


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("proof-work"))
    parser.add_argument("--page", type=Path, help="write the results here as Markdown")
    chosen = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    drive(chosen.work, chosen.count, chosen.steps, chosen.jobs)
    text = page(chosen.work, chosen.steps)
    if chosen.page:
        chosen.page.write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    main()
