"""Writes a sweep as a Markdown page for readers, and as JSON for programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from anechoic_lab.basin.claims import called, claims, curve, groups, sentence
from anechoic_lab.basin.sweep import FALL, Scorer, Sweep, SweepTask

LEGEND = f"""\
(a) and (b): similarity to the training set against the step at which classifier-free guidance
starts. At step 0 it is plain guidance; at the last step it never starts. Before it starts, the run
does not follow the prompt at all (zero CFG: only the estimate without a prompt), or is steered away
from it (opposite guidance). If a late start still returns the clip, the run was still inside the
basin at that step. The basin ends where the similarity falls.

(c) and (d): how far the estimates with and without the prompt are apart along a run, as
d_t = ||eps_c - eps_u|| and as ||c - u|| of the x0 estimates. The two differ by the factor
alpha/sigma, which grows along the whole run. The short marks are the steps at which single runs
make their transition: under {FALL:.0%} of the largest ||c - u|| so far in (a), (b) and (d), the
paper's first local minimum of d_t in (c)."""


def table(sweep: Sweep, judge: Scorer) -> tuple[list[str], list[list[str]]]:
    """Mean similarity at every sampled step, as columns and rows of text."""
    kinds = [(before, group) for before in sweep.befores for group in groups(sweep)]
    columns = ["step", "log-SNR", *(f"{called(before)}, {group}" for before, group in kinds)]
    curves = [curve(sweep, judge.name, group, before) for before, group in kinds]
    rows = [
        [f"{step}", f"{sweep.log_snr[step]:.1f}" if step < len(sweep.log_snr) else "never starts",
         *(f"{points[i].mean:.2f}" for points in curves)]
        for i, step in enumerate(sweep.steps)
    ]  # fmt: skip
    return columns, rows


def markdown(
    sweep: Sweep, scene: SweepTask, figure: str, command: str, machine: Mapping[str, str]
) -> str:
    """The page: the figure, where the basin ends, the paper's claims, the conditions.

    Args:
        sweep: what was measured.
        scene: the task that was swept.
        figure: path of the figure, as the page links to it.
        command: the command that writes both.
        machine: the machine it was measured on.
    """
    first = scene.judges[0]
    lines = [
        "# The attraction basin, on sound",
        "",
        "Jain et al. (2025, arXiv:2411.16738) explain replication by an attraction basin: early in "
        "a run, classifier-free guidance (CFG) draws memorized prompts to their training clip, and "
        "CFG that starts after a transition point does not. This page repeats their figures 2 to 4 "
        "on sound. This command writes it, and its figure:",
        "",
        "```sh",
        command,
        "```",
        "",
        f"![Similarity against the start of guidance, and c - u along the run]({figure})",
        "",
        LEGEND,
        "",
        "## Where the basin ends",
        "",
        *(f"- {sentence(sweep, first, before)}" for before in sweep.befores),
        *_tables(sweep, scene.judges),
        "",
        "## Which of the paper's claims hold",
        *_claims(sweep, first),
        "",
        "## Conditions of the measurement",
        "",
        *(f"- {key}: {value}" for key, value in {**about(sweep, scene), **machine}.items()),
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def as_json(sweep: Sweep, scene: SweepTask) -> dict[str, Any]:
    """All measurements, sentences and verdicts."""
    return {
        "about": about(sweep, scene),
        "judges": [
            {"name": judge.name, "about": judge.about, "threshold": judge.threshold}
            for judge in scene.judges
        ],
        "sentences": [sentence(sweep, scene.judges[0], before) for before in sweep.befores],
        "claims": [asdict(claim) for claim in claims(sweep, scene.judges[0])],
        **asdict(sweep),
    }


def about(sweep: Sweep, scene: SweepTask) -> dict[str, str]:
    """The conditions that the figures depend on."""
    captions = {
        f"{group} prompts": "; ".join(p.caption for p in sweep.prompts if p.group == group)
        for group in groups(sweep)
    }
    runs = len(sweep.prompts) * len(sweep.seeds) * (1 + len(sweep.befores) * (len(sweep.steps) - 1))
    return {
        **scene.about,
        "guidance": f"CFG {sweep.scale:g}, after {' or '.join(map(called, sweep.befores))}",
        "steps": f"{len(sweep.log_snr)} evaluations, {len(sweep.steps)} starts sampled",
        "clips": f"{runs}, {scene.batch} at a time",
        "seeds": ", ".join(map(str, sweep.seeds)),
        **captions,
        **{f"similarity {judge.name}": f"{judge.about}; {_copy(judge)}" for judge in scene.judges},
        "intervals": "95 %, resampling prompts",
    }


def _tables(sweep: Sweep, judges: Sequence[Scorer]) -> Iterator[str]:
    for judge in judges:
        columns, rows = table(sweep, judge)
        yield from (
            "",
            f"Mean similarity by {judge.name}, CFG {sweep.scale:g} from that step on:",
            "",
        )
        yield _row(columns)
        yield "|" + "---|" * len(columns)
        yield from map(_row, rows)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _claims(sweep: Sweep, judge: Scorer) -> Iterator[str]:
    for claim in claims(sweep, judge):
        yield from ("", f"**{claim.text}** {claim.verdict[0].upper()}{claim.verdict[1:]}.", "")
        yield from (f"- {text}" for text in claim.evidence)
        yield f'- The verdict is "reproduced" if {claim.rule}.'


def _copy(judge: Scorer) -> str:
    return "no threshold" if judge.threshold is None else f"a copy from {judge.threshold:g}"
