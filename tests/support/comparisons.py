"""An audit with a supplement, without a demo: figures, scores and curves that are made up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from anechoic import embedder
from anechoic.audit import Report, audit
from anechoic.audit.supplement import (
    Column,
    Curve,
    Detail,
    Figure,
    GuardFigures,
    ScoreInfo,
    Supplement,
)
from support.audits import NASTY, Model, training_set

GUARDS = {
    "none": ("Unguarded", "Plain classifier-free guidance."),
    "amg": ("AMG", "Anti-memorization guidance, all three terms."),
    "static": ("Static point", "No guidance until a fixed point."),
}
PROMPTS = ["tune number 0", "tune number 1", NASTY, "long" * 50]
COLUMNS = (
    Column("copies", "Copies", "share of generations that return a clip", ".2f", "lower"),
    Column("adherence", "Prompt kept", "right instrument and register", ".2f", "higher"),
    Column("seconds", "Seconds", "for one sound, on 2 cores", ".1f", "lower"),
)
SCORES = (
    ScoreInfo("mel", "Mel correlation", "with the prompt's own clip", 0.9),
    ScoreInfo("waveform", "Waveform match", "peak of the normalised cross-correlation"),
)


def curve(guard: str, copied: bool, n: int = 50) -> Curve:
    progress = np.linspace(0, 1, n)
    fall = 0.35 if copied else 0.75
    distance = 3 + 30 / (1 + np.exp((progress - fall) * 25)) + np.sin(40 * progress)
    similarity = 0.2 + (0.77 if copied else 0.35) / (1 + np.exp(-(progress - 0.3) * 14))
    threshold = 0.4 + 0.1 * (1 - progress**2)
    return Curve(
        progress,
        np.linspace(-11, 9, n),
        distance,
        similarity,
        similarity > threshold if guard == "amg" else None,
        threshold if guard == "amg" else None,
        0.42 if guard == "static" else None,
    )


def supplement() -> Supplement:
    """What was measured of three guards over two duplicated prompts and two ordinary ones."""
    rows = []
    for m, (guard, words) in enumerate(GUARDS.items()):
        share = 0.83 if m == 0 else 0.06
        figures = {
            "copies": Figure(share, share - 0.06, share + 0.09, 80),
            "adherence": Figure(0.95 - 0.03 * m, 0.88 - 0.03 * m, 0.98 - 0.03 * m, 80),
            "seconds": Figure(1.2 + 0.9 * m, n=80),
        }
        rows.append(GuardFigures(guard, *words, figures))
    details = {}
    for at, prompt in enumerate(PROMPTS):
        for guard in GUARDS:
            copied = at < 2 and guard == "none"
            scores = {"mel": 0.94 if copied else 0.41, "waveform": 0.83 if copied else 0.02}
            kind = "duplicated" if at < 2 else "ordinary"
            details[prompt, 0, guard] = Detail(kind, scores, curve(guard, copied))
    return Supplement(
        title="anechoic demo",
        sentence="Unguarded, 83 of 100 generations return a training clip.",
        columns=COLUMNS,
        guards=rows,
        scores=SCORES,
        details=details,
    )


def compared(work: Path) -> Report:
    """The audit of four prompts under three guards, of which only the plain model copies."""
    generators = {guard: Model(copies=guard == "none") for guard in GUARDS}
    report = audit(
        generators,
        training_set(),
        embedder("magmel"),
        prompts=PROMPTS,
        model="m",
        work=work,
    )
    return replace(report, supplement=supplement())
