"""Adherence by a second judge, text-audio similarity: docs/evidence/text-similarity.md.

    python benchmarks/text_similarity.py --prompts 4    # a look
    python benchmarks/text_similarity.py

Each generation is a line of the work file, as in bench_all.py; a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from anechoic_lab.instruments import measure, text_judge, text_page
from bench_all import SEED, balanced, measure_missing

from anechoic.environment import machine

PAGE = Path("docs/evidence/text-similarity.md")
GUARDS = ("none", "auto", "amg-tuned", "opposite", "projection")
PROMPTS = 24  # of each group


def main() -> None:
    """Measure what is missing, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--models", nargs="+", default=list(measure.SOUND))
    parser.add_argument("--guards", nargs="+", default=list(GUARDS))
    parser.add_argument("--prompts", type=int, default=PROMPTS, help="of each group")
    parser.add_argument("--minutes", type=float, help="stop after so many")
    parser.add_argument("--work", type=Path, default=Path("text-similarity.jsonl"))
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--only-page", action="store_true", help="write it of what there is")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if not chosen.only_page:
        text_judge.embed(torch.zeros(1, 16_000), 16_000)  # refuses without aisfx
        planned = [
            unit
            for guard in chosen.guards
            for unit in balanced(
                measure.units(chosen.models, [guard], [2.0], [50], [SEED], chosen.prompts)
            )
        ]
        measure_missing(planned, chosen.work, chosen.minutes)
    lines = measure.read(chosen.work)
    where = ", ".join(f"{what} {value}" for what, value in machine("1 of one thread").items())
    text_page.write(chosen.page, lines, "python benchmarks/text_similarity.py", where)
    print(f"{chosen.page}: written, of {len(lines)} generations")


if __name__ == "__main__":
    main()
