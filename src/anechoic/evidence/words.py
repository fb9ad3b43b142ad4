"""What the figures of an audit say, and do not say, in sentences for readers of the law."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from anechoic.audit.html.report import number
from anechoic.audit.summary import guard_name
from anechoic.errors import BadSetting, some
from anechoic.metrics import share_interval

Row = Mapping[str, Any]  # of the document of an audit
NOT_SAID = (
    "It does not say that anyone infringes a right, nor whether what is alike is protected.",
    "It gives no probability that the sound is a copy: the figures count how often sound that "
    "copies nothing looks as much like a copy.",
    "It does not show that the model was trained on the recordings of the index. A data sheet, a "
    "disclosure or a witness has to.",
    "It says nothing about other prompts, seeds, settings or versions of the model, nor about "
    "recordings that are not in the index.",
    "A sound under the limit is not cleared: another way of measuring, or a listener, may still "
    "find a copy.",
)
ORDINARY_UNASKED = (
    "Nobody named prompts of this audit as ordinary ones. So it does not say how often users of "
    "the model get copies; only what these prompts bring out."
)


def case_sentence(content: Mapping[str, Any], row: Row) -> str:
    """What was found of one sound, as a sentence that can be quoted."""
    clip, rule = row["training"], content["rule"]
    subject = f"The file “{row['name']}” is"
    if content["noun"] == "generation":
        guard = f", under the guard “{guard_name(row['guard'])}”," * (row["guard"] != "none")
        seed = f" with seed {row['seed']}" if row["seed"] is not None else ""
        subject = f"Asked for “{row['prompt']}”{seed}, the model{guard} made a sound that is"
    if clip is None or row["score"] is None:
        return f"{subject} like no recording of the index as far as it could be compared."
    named = f"one recording of the training set, “{clip['caption'] or clip['id']}”"
    if rule is None:
        return f"{subject} most like {named} (score {number(row['score'])}); it was not judged."
    limit = f"{number(rule['threshold'])}, the limit for copies"
    if not row["replicates"]:
        return (
            f"{subject} most like {named}, with a score of {number(row['score'])}, which is under "
            f"{limit}: nothing was proved, and nothing is cleared."
        )
    null = next(one for one in content["detectors"] if one["decides"])["calibration"]
    if not rule["held_out"] or null is None:
        return (
            f"{subject} like {named}, with a score of {number(row['score'])}, which reaches "
            f"{limit}; how often sound that copies nothing does so is not known."
        )
    above = sum(score >= row["score"] for score in null["null"])
    than = f"all but {above} of {len(null['null'])}" if above else f"any of {len(null['null'])}"
    verb = "are" if above else "is"
    return (
        f"{subject} more like {named}, than {than} comparison recordings, which were not in the "
        f"training set, {verb} like any recording in it."
    )


def audit_sentence(content: Mapping[str, Any], guard: str) -> str:
    """What was found of all sounds of a guard, and what chance explains."""
    group = next(one for one in content["guards"] if one["guard"] == guard)
    made = f"{content['noun']}s" + f" ({group['label']})" * (content["noun"] == "generation")
    if group["replications"] is None:
        return f"{group['examined']} {made} were compared; none was judged."
    chance = "how many chance explains is not known"
    if group["expected"] is not None:
        chance = f"chance alone would explain about {group['expected']:.2g}"
    return (
        f"Of {group['examined']} {made}, {group['replications']} are over the limit for copies; "
        f"{chance}."
    )


def ordinary_sentences(content: Mapping[str, Any], prompts: Sequence[str]) -> Iterator[str]:
    """Copies per 1,000 ordinary prompts, under each guard.

    Args:
        content: the document of an audit that judged.
        prompts: those that an ordinary user could write; empty: nobody named any.

    Raises:
        BadSetting: the audit did not ask for one of them, or judged nothing.
    """
    if not prompts:
        yield ORDINARY_UNASKED
        return
    asked = {row["prompt"] for row in (*content["examined"], *content["unexamined"])}
    if unknown := [prompt for prompt in dict.fromkeys(prompts) if prompt not in asked]:
        raise BadSetting(
            f"expected ordinary prompts that the audit asked for, got {some(unknown)}; name only "
            "prompts of its report"
        )
    if content["rule"] is None:
        raise BadSetting("the audit judged nothing, so it cannot count copies; calibrate it first")
    named = set(prompts)
    for group in content["guards"]:
        rows = [row for row in content["examined"]
                if row["guard"] == group["guard"] and row["prompt"] in named]  # fmt: skip
        hits = [float(row["replicates"]) for row in rows]
        if not rows:
            continue
        text = (
            f"{group['label']}: of {len(rows)} sounds from {len({r['prompt'] for r in rows})} "
            f"ordinary prompts, {sum(hits):.0f} are over the limit, "
            f"{1000 * sum(hits) / len(hits):.0f} in 1,000"
        )
        with suppress(BadSetting):  # a single prompt
            found = share_interval(hits, [row["prompt"] for row in rows])
            text += f" (95 % interval {1000 * found.low:.0f} to {1000 * found.high:.0f})"
        yield text + "."
    quoted = {row["prompt"] for row in content["examined"] if row["prompt"] in named
              and _quotes(row)}  # fmt: skip
    yield (
        f"The examiner chose these prompts as ordinary ones. {len(quoted)} of {len(named)} are "
        "word for word a caption of the training set."
    )


def _quotes(row: Row) -> bool:
    """Whether the prompt is a caption of the training set."""
    clip = row["training"]
    return row["own"] is not None or (clip is not None and clip["caption"] == row["prompt"])


def coverage_sentence(content: Mapping[str, Any], share: float | None) -> str:
    """How much of the training set was searched."""
    index = content["index"]
    length = "of unknown length"
    if index["seconds"] is not None:
        length = f"{index['seconds'] / 60:,.1f} minutes together"
    part = "What share of the training set this is, was not stated."
    if share is not None:
        part = f"As the examiner states, this is {100 * share:.3g} % of the training set."
    return f"The index holds {index['clips']:,} recordings, {length}. {part}"


def alarm_sentence(detector: Mapping[str, Any]) -> str:
    """How often a detector takes sound that copies nothing for a copy."""
    known = detector["calibration"]
    if known is None:
        return "not known: it was not calibrated, and decides nothing"
    low, high = (100 * part for part in known["false_positive_interval"])
    return (
        f"{100 * known['false_positive_rate']:.3g} in 100, set on {known['held_out']} comparison "
        f"recordings (true rate between {low:.2g} and {high:.2g} in 100)"
    )
