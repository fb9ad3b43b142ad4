"""The page of the text judge: what it is right about on real sound, and what guards cost by it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anechoic.metrics import Paired
from anechoic_lab.bench.task import MEMORIZED
from anechoic_lab.instruments import claims
from anechoic_lab.instruments.guards import label
from anechoic_lab.instruments.measure import ORDINARY, UNGUARDED, Line, table
from anechoic_lab.instruments.page import guards_of, kept, lost, models_of, wrapped
from anechoic_lab.instruments.text_fit import CAPTIONS, LEAST, NEAR
from anechoic_lab.instruments.text_judge import REPORT, place
from anechoic_lab.metrics import auc

GROUPS = (MEMORIZED, ORDINARY)


def text_rank(line: Line) -> float:
    """The share of the model's other captions that fit the sound worse than its own."""
    assert line.text_rank is not None  # `judged` left such lines out
    return line.text_rank


def judged(lines: Sequence[Line]) -> list[Line]:
    """The lines of which the text judge has said something."""
    return [line for line in lines if line.text_rank is not None]


@dataclass(frozen=True)
class Near:
    """Whether a line's own caption is among the first `NEAR` of its model's.

    Args:
        among: the number of captions of each model.
    """

    among: Mapping[str, int]

    def __call__(self, line: Line) -> float:
        return float(place(text_rank(line), self.among[line.model]) < NEAR)


def guards_table(
    lines: Sequence[Line], among: Mapping[str, int], models: Sequence[str] = ("",)
) -> str:
    """Each guard by both judges of adherence, on the same lines, paired with unguarded.

    Args:
        lines: of the work file; those that are not judged are left out.
        among: the number of captions of each model.
        models: those with a row of their own; "" is all together.
    """
    of, rows = judged(lines), []
    near = Near(among)
    for group in GROUPS:
        for guard in guards_of(of):
            for model in models:
                some = [x for x in of if model in ("", x.model)]
                count = sum((x.guard, x.group) == (guard, group) for x in some)
                if count:
                    by = [kept(some, guard, group, value=value)
                          for value in (text_rank, near, claims.adherence)]  # fmt: skip
                    rows.append((group, label(guard), model or "all", str(count), *by))
    head = ("prompts", "guard", "model", "n", "rank", f"among the first {NEAR}",
            "classifier")  # fmt: skip
    return table(head, rows)


@dataclass(frozen=True)
class Pair:
    """What both judges say of a guard on one group of a model's prompts, against unguarded."""

    model: str
    guard: str
    group: str
    text: Paired
    classifier: Paired

    @property
    def verdicts(self) -> tuple[str, str]:
        return _verdict(self.text), _verdict(self.classifier)


def pairs(lines: Sequence[Line]) -> list[Pair]:
    """The guards that both judges have seen on one group of a model's prompts."""
    of, found = judged(lines), []
    for model in models_of(of):
        some = [x for x in of if x.model == model]
        for guard in guards_of(some):
            for group in GROUPS:
                both = [lost(some, guard, group, value=value)
                        for value in (text_rank, claims.adherence)]  # fmt: skip
                if guard != UNGUARDED and both[0] and both[1]:
                    found.append(Pair(model, guard, group, both[0][1], both[1][1]))
    return found


def _verdict(found: Paired) -> str:
    if found.p >= claims.LEVEL:
        return "no difference shown"
    return "worse" if found.difference < 0 else "better"


def agreement(lines: Sequence[Line]) -> str:
    """Whether the judges agree on guards, as sentences."""
    from scipy.stats import spearmanr

    found = pairs(lines)
    if len(found) < claims.LEAST:
        return "Too little was measured to compare the judges."
    rho = float(spearmanr([x.text.difference for x in found],
                          [x.classifier.difference for x in found]).statistic)  # fmt: skip
    same = [x for x in found if x.verdicts[0] == x.verdicts[1]]
    idle = sum(x.text.difference == x.classifier.difference == 0 for x in found)
    text = (
        f"Of {len(found)} comparisons of a guard with no guard (a model, a guard, a group of "
        f"prompts) the judges give the same verdict (worse, better, or no difference shown at "
        f"p < {claims.LEVEL:g}) in {len(same)}, of which {idle} are of guards that changed neither "
        f"figure; Spearman's correlation of the differences is {rho:.2f}."
    )
    apart = [
        f"{x.verdicts[0]} by text, {x.verdicts[1]} by the classifier: {label(x.guard)} on "
        f"{x.model}, {x.group} ({x.text.difference:+.2f} and {x.classifier.difference:+.2f})"
        for x in found
        if x.verdicts[0] != x.verdicts[1]
    ]
    return text + "".join(f"\n- {one}" for one in apart).replace("\n", "\n\n", 1)


def orders(lines: Sequence[Line]) -> str:
    """The guards in the order of what they lose by each judge, as a sentence a group."""
    of, sentences = judged(lines), []
    for group in GROUPS:
        parts = []
        for judge, value in (("text", text_rank), ("the classifier", claims.adherence)):
            found = {name: lost(of, name, group, value=value) for name in guards_of(of)}
            by = {name: pair[1] for name, pair in found.items() if pair and name != UNGUARDED}
            order = sorted(by, key=lambda name: -by[name].difference)
            said = ", ".join(f"{label(name)} ({by[name].difference:+.3f})" for name in order)
            parts.append(f"by {judge} {said}")
        sentences.append(f"- {group} prompts, from the least lost: {'; '.join(parts)}.")
    return "\n".join(sentences)


def sounds_table(lines: Sequence[Line]) -> str:
    """Whether sounds that the classifier calls right rank above those that it calls wrong."""
    rows = []
    for model in models_of(judged(lines)):
        of = [x for x in judged(lines) if x.model == model]
        right, wrong = ([x.text_rank or 0.0 for x in of if (x.adherence == 1) == side]
                        for side in (True, False))  # fmt: skip
        if min(len(right), len(wrong)) >= claims.LEAST:
            area = auc(right, wrong)
            shown = f"{area.value:.2f} [{area.low:.2f}, {area.high:.2f}]"
            rows.append((model, shown, str(len(right)), str(len(wrong))))
    return table(("model", "area under the curve", "all right", "not all right"), rows)


def cells_table(cells: Sequence[Mapping[str, Any]]) -> str:
    """What the judge is right about on held-out real sound, and where it judges."""
    rows = [
        (
            one["model"], one["group"], one["caption"], f"{one['clips']} of {one['captions']}",
            _interval(one["rank"]), _interval(one["apart"]), f"{one['first']:.2f}",
            f"{one['near']:.2f} ({one['chance near']:.2f})",
            "judged" if one["judged"] else "**not judged**",
        )
        for one in cells
    ]  # fmt: skip
    head = ("model", "prompts", "caption", "clips of captions", "rank", "apart", "first",
            f"among the first {NEAR} (by chance)", "")  # fmt: skip
    return table(head, rows)


def _interval(found: Sequence[float] | None) -> str:
    return "" if found is None else f"{found[0]:.2f} [{found[1]:.2f}, {found[2]:.2f}]"


PAGE = """# Text-audio similarity: a second judge of adherence

[The benchmark](bench.md) judges by a classifier whether a generation follows its prompt. Here a
second judge looks at the same prompts and seeds. It maps a sound (embedder `aisfx`, trained on
libraries of sound effects) linearly to where the caption should be (sentence embedder
all-MiniLM-L6-v2), and compares that with the captions of the model. No model or guard was trained
with either embedder, or follows it. The map was fitted on {clips} real clips of {captions}
captions, not on generations, and not on the clips that models have memorized.

*Rank* is the share of the model's other captions that fit the sound worse than its own: 1 is the
best, .5 is chance.

## What guards cost, by both judges

Written by `{command}`; {where}. {count} generations at a scale of 2, 50 steps and the seed
{seeds}, of which {judged} are judged; both judges see these same lines. Differences are from the
unguarded model on the same prompts and seed, with 95 % intervals over prompts. *Classifier* is
adherence as the benchmark gives it.

{orders}

{guards}

## By model

The intervals are Agresti and Min's, which add half a prompt each way. Where ranks hardly differ,
the test of permuted signs, by which the next section goes, is the sharper one.

{by_model}

## Do the judges agree?

{agreement}

Sound by sound: the chance that one which the classifier calls all right ranks higher than one that
it calls wrong in something. Samples of one prompt count as independent, so the intervals are too
narrow.

{sounds}

## Where it may judge

Real clips that were held out of the fit, after the codec. *Known* captions are those of whose other
clips the map was fitted, *new* ones are those of none. *Apart* is the area under the curve that
separates the similarity to the own caption from that to a caption of another class. *First* is how
often the own caption is the nearest of all.

The rule stood before the first run: a cell is judged if {captions_least} held-out captions or more
are in it, and both *rank* and *apart* are over {least:g} at the lower ends of their intervals.
After that run a leak was closed: a recording that one model has memorized, and another has not, had
been fitted. What is not judged has `null` in [the lines](text-similarity.jsonl.xz): above all
memorized recordings and effects, as their only clip is the memorized one.

{cells}

## Limits

- It is not CLAP: the space of captions is a general one, the map a linear one, and it hears what
  `aisfx` does. It knows the words of these captions, and would not understand a free prompt.
- A caption's neighbours are other pitches and registers of its instrument, so a wrong pitch costs
  little rank. *Among the first {near}* is stricter.
- The rule is hard on small cells: with ten captions even an area of 1 has .80 as its lower end.
- It learnt the real sound of the ordinary captions, some of these clips themselves. It was not
  fitted on what is memorized, so a copy has no advantage by that.
- It was fitted on clips after the codec. A generation is further from real sound than a held-out
  clip is, which lowers all figures, unguarded ones, too.
- One seed, and few prompts in some cells.

Make it again:

```sh
make text-judge  # fits the map, and writes what it is right about: ten minutes of one core
xz -dc docs/evidence/text-similarity.jsonl.xz > text-similarity.jsonl  # the lines, to go on from
python benchmarks/text_similarity.py
```
"""


def write(
    out: Path, lines: Sequence[Line], command: str, where: str, report: Path = REPORT
) -> None:
    """Write the page.

    Args:
        out: the Markdown file.
        lines: of the work file.
        command: what makes it again.
        where: the machine, in words.
        report: what `text_fit` measured.
    """
    found = json.loads(report.read_text())
    among = {one["model"]: one["among"] for one in found["cells"]}
    text = PAGE.format(
        clips=found["clips"], captions=found["captions"], command=command, where=where,
        count=len(lines), seeds=", ".join(map(str, sorted({x.seed for x in lines}))),
        judged=len(judged(lines)), orders=orders(lines), guards=guards_table(lines, among),
        by_model=guards_table(lines, among, models_of(judged(lines))), agreement=agreement(lines),
        sounds=sounds_table(lines), cells=cells_table(found["cells"]), least=LEAST,
        captions_least=CAPTIONS, near=NEAR,
    )  # fmt: skip
    head, fence, rest = text.partition("```sh")
    out.write_text("\n\n".join(map(wrapped, head.split("\n\n"))) + fence + rest, "utf-8")
