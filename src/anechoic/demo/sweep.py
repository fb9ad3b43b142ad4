"""The sweep behind the demo's settings, on the tuning split: `python -m anechoic.demo.sweep`.

Prints a Markdown table. No prompt of it is in the demo's own table.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from anechoic.demo import assets
from anechoic.demo.run import Bench, Verdict, generate_and_judge, interval
from anechoic.demo.show import prompts_to_tune
from anechoic.guidance import AntiMemorization, DynamicTransition, LogSNR, TransitionPoint
from anechoic.types import Guidance

SCALE = assets.CFG_SCALE
# c1, c2, c3; lambda from and to; where the gradient stops
AMG: tuple[tuple[tuple[float, float, float], float, float, Literal["x0", "denoiser"]], ...] = (
    ((4.0, 3.0, 100.0), 0.5, 0.6, "x0"),
    ((4.0, 3.0, 300.0), 0.5, 0.6, "x0"),
    ((4.0, 3.0, 1000.0), 0.5, 0.6, "x0"),
    ((4.0, 3.0, 300.0), 0.7, 0.8, "x0"),
    ((4.0, 3.0, 300.0), 0.5, 0.6, "denoiser"),
    ((4.0, 3.0, 1000.0), 0.5, 0.6, "denoiser"),
    ((4.0, 0.0, 0.0), 0.5, 0.6, "x0"),
    ((0.0, 3.0, 0.0), 0.5, 0.6, "x0"),
    ((0.0, 0.0, 300.0), 0.5, 0.6, "x0"),
)


def settings(bench: Bench, which: str) -> Iterator[tuple[str, Guidance | None]]:
    """Every setting of a family of guards, with its name."""
    if which in ("none", "all"):
        yield "unguarded", None
    if which in ("static", "all"):
        for at in (-2.0, -1.0, 0.0, 0.5, 1.0, 1.5):
            yield f"zero CFG until log-SNR {at:g}", TransitionPoint(SCALE, 0.0, LogSNR(at))
    if which in ("opposite", "all"):
        for before, at in ((-1.0, -1.0), (-1.0, -0.5), (-2.0, -2.0), (-2.0, -1.5), (-2.0, -1.0),
                           (-4.0, -2.0)):  # fmt: skip
            guide = TransitionPoint(SCALE, before, LogSNR(at))
            yield f"opposite {before:g} until log-SNR {at:g}", guide
    if which in ("dynamic", "all"):
        for before in (0.0, -2.0):
            yield f"dynamic {before:g}, first minimum", DynamicTransition(SCALE, before)
            for fall in (0.4, 0.3, 0.2, 0.15):
                yield f"dynamic {before:g}, fall {fall:g}", DynamicTransition(SCALE, before, fall)
    if which in ("amg", "all"):
        for terms, low, high, gradient in AMG:
            constants = ", ".join(f"{constant:g}" for constant in terms)
            yield (
                f"AMG {constants}, lambda {low:g} to {high:g}, gradient at {gradient}",
                AntiMemorization(bench.index, bench.embedder, SCALE, *terms, low, high,
                                 gradient=gradient),
            )  # fmt: skip


def line(name: str, pipe: Any, bench: Bench, guide: Guidance | None, seeds: range) -> str:
    """One row: copies, confirmed, judges, guide, what is kept, seconds."""
    duplicated, ordinary = prompts_to_tune(bench.clips)
    rows, seconds = generate_and_judge(pipe, bench, duplicated + ordinary, seeds, guide)
    first, second = rows[: len(duplicated)], rows[len(duplicated) :]

    def mean(part: list[list[Verdict]], key: str) -> str:
        known = [[float(getattr(v, key)) for v in row] for row in part if row[0].kept is not None
                 or key != "kept"]  # fmt: skip
        value, low, high = interval(known)
        return f"{value:.2f} [{low:.2f}, {high:.2f}]"

    cells = [mean(first, key) for key in ("copied", "confirmed", "mel", "similarity", "kept")]
    return " | ".join(["", name, *cells, mean(second, "kept"), f"{seconds:.2f}", ""]).strip()


def main() -> None:
    """Run the sweep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=assets.SHIPPED)
    parser.add_argument("--which", default="all", help="none, static, opposite, dynamic, amg")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", default="", help="settings whose name holds this")
    chosen = parser.parse_args()
    pipe = assets.pipeline(chosen.data)
    bench = Bench.load(chosen.data, pipe)
    print("| setting | copies | confirmed | mel | guide | kept, duplicated | kept, ordinary | s |")
    print("|---|---|---|---|---|---|---|---|")
    for which in chosen.which.split(","):
        for name, guide in settings(bench, which):
            if chosen.only in name:
                print(line(name, pipe, bench, guide, range(chosen.seeds)), flush=True)


if __name__ == "__main__":
    main()
