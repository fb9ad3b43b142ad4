"""Draws the evidence as a PDF to read and to print: pip install 'anechoic[pdf]'.

One page says what was found and what that does not say, one page shows each case, and three say how
often this happens, how it was measured, and through whose hands the file went.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anechoic.audit.html.report import clock, number, short, timeline
from anechoic.errors import BadSetting
from anechoic.evidence.words import (
    NOT_SAID,
    alarm_sentence,
    audit_sentence,
    coverage_sentence,
)

if TYPE_CHECKING:
    from anechoic.evidence.file import CaseFiles, Statement

PAPERS = ("a4", "letter")
MATRIX_WORDS = (
    "Every moment of the one sound beside every moment of the other: time of the examined sound "
    "runs downwards, time of the training clip to the right, and what is alike is bright. A copy "
    "is a bright diagonal, a loop several; two sounds of one instrument are bright blocks."
)
HANDS = ("Date and time", "Handed over by", "Received by", "Purpose", "Signatures")


def draw(
    content: Mapping[str, Any],
    cases: Sequence[CaseFiles],
    ordinary: Sequence[str],
    statement: Statement,
    hashes: Mapping[str, str],
    *,
    paper: str = "a4",
    fonts: Sequence[Path] = (),
) -> tuple[bytes, list[str]]:
    """The PDF, and a sentence if it could not draw some characters.

    Args:
        content: the document of the audit.
        cases: those that it shows.
        ordinary: sentences on ordinary prompts.
        statement: by whom and when.
        hashes: SHA-256 of the other files, by their names.
        paper: "a4" or "letter".
        fonts: TTF or OTF files, for characters that DejaVu does not have.

    Raises:
        BadSetting: the extra 'pdf' is missing, a font cannot be read, or another paper.
    """
    if lost := [name for name in ("fpdf", "matplotlib", "uharfbuzz") if find_spec(name) is None]:
        raise BadSetting(
            f"the PDF needs {' and '.join(lost)}, which is not installed; install it with "
            "pip install 'anechoic[pdf]'"
        )
    if paper not in PAPERS:
        raise BadSetting(f"expected the paper {' or '.join(PAPERS)}, got '{paper}'")
    from anechoic.evidence.sheet import Sheet

    sheet = Sheet(paper, fonts, statement.created, statement.examiner)
    _front(sheet, content, cases, statement)
    for case in cases:
        _case(sheet, content, case)
    _figures(sheet, content, cases, ordinary, statement)
    _method(sheet, content)
    _custody(sheet, content, statement, hashes)
    lost_words = []
    if sheet.undrawn:
        names = ", ".join(f"U+{ord(one):04X}" for one in sorted(sheet.undrawn)[:8])
        more = f" and {len(sheet.undrawn) - 8} more" * (len(sheet.undrawn) > 8)
        lost_words = [
            f"The PDF has no font for {names}{more}, and shows their numbers instead; the page "
            "has them, and '--font FILE' adds a font"
        ]
        sheet.paragraph(f"{lost_words[0]}.", 8, soft=True)
    return sheet.content(), lost_words


def _front(
    sheet: Any, content: Mapping[str, Any], cases: Sequence[CaseFiles], statement: Statement
) -> None:
    sheet.add_page()
    sheet.page_title(
        "Evidence of an audit", "What was found, in a sentence, and what it does not say"
    )
    sheet.quote(
        [cases[0].sentence]
        if len(cases) == 1
        else [audit_sentence(content, guard) for guard in _guards(cases)]
    )
    sheet.heading("What this does not say")
    sheet.bullets(NOT_SAID)
    sheet.heading("What it is about")
    about = content["about"]
    index = content["index"]
    sheet.facts([
        ("Model", about.get("model", "not named: the sounds were made elsewhere")),
        ("Its weights", about.get("weights", "not recorded")),
        ("Index of the training set", f"{index['name']}, sha256 {index['sha256']}"),
        ("Audited on", about.get("date", "not recorded")),
        ("This file was made on", f"{statement.created:%Y-%m-%d %H:%M %Z}"),
        ("By", statement.examiner or "not stated"),
        ("Sounds examined", f"{content['count']['examined']}"),
        ("Sounds that could not be examined", f"{content['count']['unexamined']}"),
        *((f"Case {one.row['rank']}, enclosed", one.row["name"]) for one in cases),
    ])  # fmt: skip


def _guards(cases: Sequence[CaseFiles]) -> list[str]:
    return list(dict.fromkeys(one.row["guard"] for one in cases))


def _case(sheet: Any, content: Mapping[str, Any], case: CaseFiles) -> None:
    row, clip, match = case.row, case.row["training"], case.row["match"]
    sheet.add_page()
    sheet.page_title(f"Case {row['rank']}: {row['prompt'] or row['name']}")
    sheet.quote([case.sentence])
    time, shown = timeline(row), row["shown"]
    spans = {"generated": time.made, "training": time.training, "own": time.own}
    labels = {"generated": f"The {content['noun']}", "training": "The training clip",
              "own": "The training clip that the prompt quotes"}  # fmt: skip
    for which, span in spans.items():
        if span is not None:
            name = f"{case.folder}/{which}"
            frame = None if which == "own" else time.match
            sheet.picture(
                case.excerpts[f"{name}.png"], f"{labels[which]} ({name}.flac)", span, frame
            )
    if shown.get("melodies"):
        sheet.picture(
            case.excerpts[f"{case.folder}/melodies.png"],
            f"Notes of the {content['noun']} above, of the training clip below, moved to the same "
            "key, tempo and time; the lighter ones are in both",
            time.made,
            time.match,
        )
    sheet.axis(time.ticks, f"seconds of the {content['noun']}; low sound below, high above")
    if shown["training"] is None:
        sheet.paragraph(f"The sound of the training clip is not shown: {shown['missing']}.")
    alike = "not located"
    if match is not None:
        length = f", for {clock(match['length_s'])}" if match["length_s"] else ""
        alike = (
            f"from {clock(match['start_s'])} in the {content['noun']} and from "
            f"{clock(match['match_start_s'])} in the training clip{length} (framed)"
        )
    held = [f"p {number(row['p_value'])}"] if row["p_value"] is not None else []
    limit = [] if content["rule"] is None else [f"limit {number(content['rule']['threshold'])}"]
    where = f"enclosed as {case.whole}" if case.whole else "not enclosed"
    clip = clip or {}
    sheet.facts([
        ("Prompt and seed", f"“{row['prompt']}”, seed {row['seed']}" if row["prompt"]
         else "not known"),
        ("Training clip", f"“{clip.get('caption', '')}” ({clip.get('id', 'none')})"),
        ("Its licence and source", "; ".join(
            clip.get(key) or f"{key} not stated" for key in ("licence", "source"))),
        ("Alike", alike),
        ("Score", "; ".join([number(row["score"]), *limit, *held])),
        ("Examined file", f"{where}, {clock(row['seconds'])}, {row['sample_rate']} Hz, "
         f"sha256 {row['sha256']}"),
    ])  # fmt: skip
    sheet.grid(
        ("What each way of measuring says", "Score", "p", "A copy?"),
        [(short(one["detector"]), number(one["score"]), number(one["p_value"]),
          {True: "yes", False: "no", None: "not judged"}[one["copy"]])
         for one in row["findings"]],
        (58, 14, 14, 14),
    )  # fmt: skip
    if shown["matrix"]:
        sheet.matrix(case.excerpts[f"{case.folder}/matrix.png"], MATRIX_WORDS)


def _figures(
    sheet: Any,
    content: Mapping[str, Any],
    cases: Sequence[CaseFiles],
    ordinary: Sequence[str],
    statement: Statement,
) -> None:
    sheet.add_page()
    sheet.page_title("How often this happens")
    sheet.heading("In this audit")
    sheet.bullets(content["sentences"])
    sheet.grid(
        ("Sounds", "Over the limit", "Share, 95 % interval over prompts", "By chance alone"),
        [(group["label"], _of(group), _share(group["share"]),
          "not known" if group["expected"] is None else f"{group['expected']:.3g}")
         for group in content["guards"]],
        (26, 22, 34, 18),
    )  # fmt: skip
    sheet.heading("Ordinary prompts")
    sheet.bullets(ordinary)
    sheet.heading("False alarms: how often sound that copies nothing is called a copy")
    sheet.grid(
        ("Way of measuring", "False alarms"),
        [(short(one["name"]) + (" (decides)" if one["decides"] else ""), alarm_sentence(one))
         for one in content["detectors"]],
        (40, 60),
    )  # fmt: skip
    sheet.heading("How much of the training set was searched")
    sheet.paragraph(coverage_sentence(content, statement.share))
    if content["cautions"]:
        sheet.heading("What makes this less sure than it looks")
        sheet.bullets(content["cautions"])


def _of(group: Mapping[str, Any]) -> str:
    found = group["replications"]
    return f"{'not judged,' if found is None else found} of {group['examined']}"


def _share(share: Sequence[float] | None) -> str:
    if share is None:
        return "not known: a single prompt, or not judged"
    value, low, high = (f"{100 * part:.2g} %" for part in share)
    return f"{value} [{low}, {high}]"


def _method(sheet: Any, content: Mapping[str, Any]) -> None:
    sheet.add_page()
    sheet.page_title("How it was measured, and how to repeat it")
    sheet.facts([(name.capitalize(), value) for name, value in content["about"].items()], 7.5)
    sheet.heading("Ways of measuring")
    ways = {f"{short(one['name'])}: {one['about']}." for one in content["detectors"]}
    sheet.bullets(sorted(ways), 7.5)
    if content["notes"]:
        sheet.heading("Notes")
        sheet.bullets(content["notes"], 7.5)
    sheet.heading("The methods come from")
    sheet.paragraph(" ".join(f"{one.rstrip('.')}." for one in content["citations"]), 7.5)


def _custody(
    sheet: Any, content: Mapping[str, Any], statement: Statement, hashes: Mapping[str, str]
) -> None:
    sheet.add_page()
    sheet.page_title("Chain of custody")
    made = "made by the model, and written to files"
    sheet.bullets([
        f"The sounds were {made if content['noun'] == 'generation' else 'read from files'}; each "
        "is named by the SHA-256 of its file.",
        f"They were compared with the index on {content['about'].get('date', 'a day not recorded')}"
        f", by anechoic {content['anechoic']}, and the report was written.",
        f"This file was made of the report on {statement.created:%Y-%m-%d %H:%M %Z} by "
        f"{statement.examiner or 'somebody not stated'}. Sound and pictures were compared with "
        "their hashes in the report as they were copied.",
    ])  # fmt: skip
    sheet.heading("What is in the file beside this PDF, by its SHA-256")
    sheet.hashes(hashes)
    sheet.paragraph(
        "SHA256SUMS in the file lists these and the PDF. Write down the SHA-256 of the ZIP itself "
        "where others can see it, so that nobody can replace the whole:",
        9,
    )
    sheet.blank("SHA-256 of the ZIP")
    sheet.heading("Through whose hands it went")
    sheet.grid(HANDS, [("",) * len(HANDS)] * 4, (18, 22, 22, 20, 18), height=9)
