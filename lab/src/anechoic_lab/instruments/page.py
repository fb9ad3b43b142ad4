"""The page of the bench on all models: every table and figure, from a work file alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from anechoic.metrics import Paired, paired, share_interval
from anechoic_lab.bench.plot import COLOURS, STYLE
from anechoic_lab.bench.task import MEMORIZED
from anechoic_lab.instruments import claims
from anechoic_lab.instruments.claims import Comparison, copied, first_distance, mean_distance
from anechoic_lab.instruments.guards import NAMED, label, origin
from anechoic_lab.instruments.measure import (
    ORDINARY,
    UNGUARDED,
    HonestTakes,
    Line,
    degrees_table,
    honest_table,
    place,
    table,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

Hit = Callable[[Line], bool | None]
Value = Callable[[Line], float]
JUDGES: Mapping[str, Hit] = {
    "two judges": lambda line: line.confirmed,
    "ranks": lambda line: line.by_rank,
    "a second": lambda line: line.in_part,
    "any": lambda line: bool(copied(line)),
}
GRADIENT = ("amg-tuned", "volume-tuned", "projection")  # guards that follow a gradient
SHARES = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)  # of a run, at which a copy may be recognized


# --------------------------------------------------------------------------------- what to choose


def choose(lines: Sequence[Line]) -> str:
    """What to choose, in three sentences, each with the models on which the work file bears it out.

    A sentence is about copies: it names the models on which the guard leaves fewer than no guard
    does, by the rule for claims, and those on which that is not so or not decided.
    """
    return "\n".join(
        f"- {text} {_borne_out(lines, name)}"
        for text, name in (
            ("**With the training set, or the part that must not be replicated: `auto`**, which "
             "has no settings.", "auto"),
            ("**Without it: opposite guidance**, where its cost in adherence can be borne.",
             "opposite"),
            ("**Not for protection alone: guards that follow a gradient**, as full AMG.",
             "amg-tuned"),
        )
    )  # fmt: skip


def _borne_out(lines: Sequence[Line], name: str) -> str:
    by_verdict: dict[str, list[str]] = {}
    for model in models_of(lines):
        part = Comparison("", copied, name, UNGUARDED, less=True, model=model)
        finding = part.decide(lines)
        if finding.found is not None:
            by_verdict.setdefault(finding.verdict, []).append(model)
    of = [x for x in lines if x.guard == name and x.group == MEMORIZED]
    if not of:
        return "Not measured."
    plain = {place(x): x for x in lines if x.guard == UNGUARDED}
    before = sum(copied(plain[place(x)]) for x in of if place(x) in plain)
    left = kept(lines, name, ORDINARY)
    sentences = {
        claims.REPRODUCED: "fewer copies than without on {}",
        claims.NOT_REPRODUCED: "hardly fewer on {}",
        claims.NOT_DECIDED: "not decided on {}",
    }
    parts = [
        text.format(", ".join(by_verdict[verdict]))
        for verdict, text in sentences.items()
        if verdict in by_verdict
    ]
    models = "; ".join(parts)
    count = f"{_share(of, copied)} memorized prompts are copied, unguarded {before:.0f} ({models})"
    return f"{count}; adherence to ordinary prompts is {left}{_at_worst(lines, name)}."


def _at_worst(lines: Sequence[Line], name: str) -> str:
    """On which model ordinary prompts lose the most adherence, as the end of a sentence."""
    found = {
        model: lost([x for x in lines if x.model == model], name, ORDINARY)
        for model in models_of(lines)
    }
    measured = {model: pair for model, pair in found.items() if pair is not None}
    if len(measured) < 2:
        return ""
    worst = min(measured, key=lambda model: measured[model][1].difference)
    return f", at worst {shown_difference(measured[worst][1])} on {worst}"


# -------------------------------------------------------------------------------------- the tables


def copies(lines: Sequence[Line]) -> str:
    """Copies of memorized prompts by each judge, with intervals over prompts."""
    rows = []
    for name in guards_of(lines):
        for model in (*models_of(lines), ""):
            of = [x for x in lines if (x.guard, x.group) == (name, MEMORIZED)]
            of = [x for x in of if model in ("", x.model)]
            if of:
                cells = [_share(of, hit) for hit in JUDGES.values()]
                settings = origin(name, model) if model else ""
                rows.append((label(name), settings, model or "**all**", str(len(of)), *cells))
    return table(("guard", "settings", "model", "n", *JUDGES), rows)


def costs(lines: Sequence[Line]) -> str:
    """What each guard keeps of adherence, paired with the unguarded model, and what it takes."""
    rows = []
    for name in guards_of(lines):
        for model in models_of(lines):
            of = [x for x in lines if (x.guard, x.model) == (name, model)]
            if not of:
                continue
            rows.append((
                label(name), origin(name, model), model,
                kept(of, name, MEMORIZED, lines), kept(of, name, ORDINARY, lines),
                f"{np.median([x.processor for x in of]):.2f}",
                f"{np.mean([x.passes for x in of]):.0f}",
            ))  # fmt: skip
    head = ("guard", "settings", "model", "adherence, memorized: difference", "ordinary",
            "processor s", "passes")  # fmt: skip
    return table(head, rows)


def early(lines: Sequence[Line]) -> str:
    """How early a copy can be recognized: the area under the curve, by model."""
    rows = []
    for what, guard, score in _detectors():
        for model in models_of(lines):
            found = claims.separation(lines, model, guard, score)
            if found is not None:
                area, n = found
                shown = f"{area.value:.2f} [{area.low:.2f}, {area.high:.2f}]"
                rows.append((what, model, shown, str(n)))
    return table(("score", "model", "area under the curve", "samples"), rows)


def _detectors() -> list[tuple[str, str, Callable[[Line], float | None]]]:
    after = [(share, f"after {share:.0%} of the run") for share in SHARES[1:]]
    return [
        ("distance, first evaluation", "cfg", first_distance),
        *((f"distance, {when}", "cfg", _distance(share)) for share, when in after),
        ("distance, mean of the run", "cfg", mean_distance),
        ("similarity, first evaluation", "watched", _similarity(0.0)),
        *((f"similarity, {when}", "watched", _similarity(share)) for share, when in after),
    ]


def _distance(share: float) -> Callable[[Line], float | None]:
    """The distance of the predictions at a share of the run."""
    return lambda line: _until(line.distances, share)


def _similarity(share: float) -> Callable[[Line], float | None]:
    """The similarity of an estimate to the nearest clip at the last comparison until then."""
    return lambda line: _until(line.similarities, share)


def _until(course: Sequence[float | None] | None, share: float) -> float | None:
    """The last value of a course that is known at a share of the run."""
    course = course or ()
    until = course[: 1 + round(share * (len(course) - 1))]
    return next((value for value in reversed(until) if value is not None), None)


# ------------------------------------------------------------------------------------- the figures


def surfaces(lines: Sequence[Line], of: Callable[[Line], bool | float], name: str) -> Canvas:
    """What memorized prompts give over the guidance scale, steps and duplication: small multiples,
    with the guard on and off.

    Args:
        lines: of the work file.
        of: what is drawn of a line, from 0 to 1; its mean over lines.
        name: its name.
    """
    from matplotlib.figure import Figure

    lines = [x for x in lines if x.group == MEMORIZED and x.guard in (UNGUARDED, "auto")]
    models, steps = models_of(lines), sorted({x.steps for x in lines})
    bands = ((2, 8), (9, 32), (33, math.inf))
    with _style():
        figure = Figure((2.6 * len(bands), 1.7 * len(models)), layout="constrained")
        panels = figure.subplots(len(models), len(bands), sharex=True, sharey=True, squeeze=False)
        for model, row in zip(models, panels, strict=True):
            for (least, most), axes in zip(bands, row, strict=True):
                own = [x for x in lines if x.model == model and least <= x.copies <= most]
                for guard, colour in ((UNGUARDED, COLOURS[1]), ("auto", COLOURS[0])):
                    for count, style in zip(steps, (":", "-", "--", "-."), strict=False):
                        chosen = [x for x in own if (x.guard, x.steps) == (guard, count)]
                        scales = sorted({x.scale for x in chosen})
                        means = [np.mean([of(x) for x in chosen if x.scale == s]) for s in scales]
                        axes.plot(scales, means, style, marker="o", markersize=3, color=colour,
                                  label=f"{label(guard)}, {count} steps")  # fmt: skip
                times = f"{least}+" if most == math.inf else f"{least} to {most}"
                axes.set_title(f"{model}, repeated {times} times", fontsize=8)
                if not own:
                    axes.text(0.5, 0.5, "no such prompts", transform=axes.transAxes,
                              ha="center", fontsize=7, color="grey")  # fmt: skip
                axes.set_ylim(-0.05, 1.05)
        for axes in panels[-1]:
            axes.set_xlabel("guidance scale")
        for axes in panels[:, 0]:
            axes.set_ylabel(name)
        handles, names = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=3, fontsize=7)
    return figure


def courses(lines: Sequence[Line]) -> Canvas:
    """The area under the curve along the run, by model: of the distance of the predictions, and of
    the similarity of the estimate to the nearest clip."""
    from matplotlib.figure import Figure

    with _style():
        figure = Figure((8, 3), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        shares = np.linspace(0, 1, 26)
        kinds = (("distance", "cfg", _distance), ("similarity", "watched", _similarity))
        for axes, (name, guard, score) in zip(panels, kinds, strict=True):
            for model, colour in zip(models_of(lines), COLOURS, strict=False):
                found = [claims.separation(lines, model, guard, score(share)) for share in shares]
                known = [
                    (share, one[0].value) for share, one in zip(shares, found, strict=True) if one
                ]
                if known:
                    axes.plot(*zip(*known, strict=True), color=colour, label=model)
            axes.axhline(0.5, color="#888888", linewidth=0.7)
            axes.set_title(name, fontsize=9)
            axes.set_xlabel("share of the run")
            axes.set_ylim(0, 1.03)
        panels[0].set_ylabel("area under the curve")
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside right center", fontsize=8)
    return figure


def _style() -> AbstractContextManager[None]:
    import matplotlib

    return matplotlib.rc_context(STYLE)


# ---------------------------------------------------------------------------------------- the page


PAGE = """# The benchmark: guards on several models

{choose}

Written by `{command}` from its work file; {where}. {count} generations, at a scale of 2 and 50
steps where nothing else is said; seeds {seeds}, with which nothing was tuned but the point from
which `auto` compares ([one of two](auto.md#why-it-does-not-compare-earlier); the same models
[on a fresh seed](auto.md#on-a-fresh-seed)).

{missing}

How to read it. A *copy* is one of the prompt's own clip, or of a second of it where clips are
longer: two judges agree, or ranks of log mel, or ranks of any second at any offset. None of them
guides a guard. Intervals are 95 %, over prompts. *Settings* says how a guard's were found: "tuned
here" and "not tuned here" are those tuned on the demo model, as seen from the model of the row;
"defaults" are the class's own, which come from the papers. `auto` has none, and was worked out on
the demo and on *drums*.

*Adherence* is that of a classifier trained on each model's real sound. A second judge compares
sound and caption ([text-audio similarity](text-similarity.md)); no weights of CLAP come with a
package, so it is a map between two other models that no guard uses.

## Copies

{copies}

## The judges on honest sound

Real training clips that are not repeated, after the codec, compared with the others of their
caption: what the judges call a copy, where there is none.

{honest}

## What it costs

Adherence against the unguarded model on the same prompts and seeds, with the difference's
interval. Seconds are of the processor, with other work beside it. A recording is followed if a clip
of its caption is among the ten nearest by mean spectrum, so a guard that keeps away from a
memorized recording loses some of this by its nature.

{costs}

## What the papers claim

The rule stood before the run. A claim is one or several comparisons of two guards on the same
models, prompts and seeds: McNemar's exact test, or permuted signs for graded figures; Agresti and
Min's interval; and the power to see a difference of .1. *Greater* is **reproduced** at p < .05 in
the claimed direction, **not reproduced** if the interval excludes an advantage of .1, and
otherwise **not decided**. *No worse* is reproduced if a loss of .1 is excluded. A detector tells
copies apart if the interval of the area under its curve lies over .9, on the model where it is
least. A claim is reproduced if all of its comparisons are, and not reproduced if one of them is
not. KL, FAD and the CLAP score of the papers are not part of it.

{claims}

## How early a copy can be recognized

Copies of memorized prompts against ordinary prompts, by what is known while it is generated.
*Distance* is that of the predictions with and without the prompt; *similarity* that of the estimate
to the nearest training clip, by the index's embedder, at the last comparison until then.

{early}

{figures}## How often a clip was repeated

{degrees}
"""


def write(
    out: Path,
    lines: Sequence[Line],
    honest: Mapping[str, HonestTakes],
    command: str,
    where: str,
) -> None:
    """Write the page, and its figures beside it.

    Args:
        out: the Markdown file.
        lines: of the work file.
        honest: the judges' false positives, by model.
        command: what makes it again.
        where: the machine, in words.
    """
    own = [x for x in lines if (x.scale, x.steps) == (2.0, 50)]
    figures = ""
    if len({(x.scale, x.steps) for x in lines}) > 1:
        for name, of in (("copies", copied), ("adherence", lambda x: x.adherence)):
            picture = out.with_name(f"{out.stem}-{name}.png")
            surfaces(lines, of, name).savefig(picture, dpi=110)
            about = f"Memorized prompts: {name} over scale, steps and duplication"
            figures += f"![{about}]({picture.name})\n\n"
    if any(x.guard == "cfg" for x in own):
        courses(own).savefig(out.with_name(f"{out.stem}-early.png"), dpi=110)
        figures += f"![How early a copy can be recognized]({out.stem}-early.png)\n\n"
    text = PAGE.format(
        missing=_missing(lines), seeds=", ".join(map(str, sorted({x.seed for x in lines}))),
        choose=choose(own), command=command, where=where, count=len(lines), copies=copies(own),
        honest=honest_table(honest), costs=costs(own), claims=claims.claims_table(own),
        early=early(own), figures=figures, degrees=degrees_table(own),
    )  # fmt: skip
    out.write_text("\n\n".join(map(wrapped, text.split("\n\n"))), "utf-8")


def wrapped(paragraph: str) -> str:
    """Text in lines of a readable length; tables, headings and figures stay as they are."""
    if paragraph.lstrip().startswith(("|", "#", "!")):
        return paragraph
    lines = paragraph.split("\n- ") if paragraph.startswith("- ") else [paragraph]
    filled = [fill(" ".join(line.removeprefix("- ").split()), 108) for line in lines]
    if paragraph.startswith("- "):
        return "\n".join("- " + one.replace("\n", "\n  ") for one in filled)
    return "\n".join(filled)


def _missing(lines: Sequence[Line]) -> str:
    """What was not run, as a sentence."""
    done = {line.guard for line in lines}
    found = [one.label for name, one in NAMED.items() if name not in done]
    if len({(line.scale, line.steps) for line in lines}) == 1:
        found.append("other scales and numbers of steps")
    at = [x.guard for x in lines if (x.scale, x.steps) == (2.0, 50)]
    fewer = [one.label for name, one in NAMED.items() if 0 < at.count(name) < at.count(UNGUARDED)]
    text = f"Not run: {', '.join(found)}." if found else "All guards were run."
    return text + (f" On fewer prompts than unguarded: {', '.join(fewer)}." if fewer else "")


def models_of(lines: Iterable[Line]) -> list[str]:
    return list(dict.fromkeys(line.model for line in lines))


def guards_of(lines: Iterable[Line]) -> list[str]:
    """In the order of `NAMED`; what only records is left out."""
    found = {line.guard for line in lines} - {"cfg"}
    return [name for name in NAMED if name in found] + sorted(found - NAMED.keys())


def _share(lines: Sequence[Line], hit: Hit | Callable[[Line], float]) -> str:
    """The share of lines that hit, with its interval over prompts; "" where none is judged."""
    known = [(line, found) for line in lines if (found := hit(line)) is not None]
    prompts = [f"{line.model}/{line.prompt}" for line, _ in known]
    if len(set(prompts)) < 2:
        return ""
    hits = [float(found) for _, found in known]
    one = share_interval(hits, prompts)
    return f"{sum(hits):.0f} of {len(hits)} [{one.low:.2f}, {one.high:.2f}]"


def kept(
    lines: Sequence[Line], guard: str, group: str, plain: Sequence[Line] | None = None,
    value: Value = claims.adherence,
) -> str:  # fmt: skip
    """The mean adherence, or another figure, and its difference from the unguarded model."""
    found = lost(lines, guard, group, plain, value)
    if found is None:
        return "not measured"
    mean, difference = found
    return f"{mean:.2f}" + ("" if guard == UNGUARDED else f", {shown_difference(difference)}")


def lost(
    lines: Sequence[Line], guard: str, group: str, plain: Sequence[Line] | None = None,
    value: Value = claims.adherence,
) -> tuple[float, Paired] | None:  # fmt: skip
    """As `kept`, in numbers; None: too few prompts."""
    of = [x for x in lines if (x.guard, x.group) == (guard, group)]
    base = {place(x): x for x in plain or lines if x.guard == UNGUARDED}
    pairs = [(x, base[place(x)]) for x in of if place(x) in base]
    if len({x.prompt for x, _ in pairs}) < claims.LEAST:
        return None
    ours, theirs = ([value(x) for x in side] for side in zip(*pairs, strict=True))
    found = paired(ours, theirs, [f"{x.model}/{x.prompt}" for x, _ in pairs])
    return float(np.mean(ours)), found


def shown_difference(found: Paired) -> str:
    return f"{found.difference:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"
