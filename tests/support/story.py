"""A demo's page, without the demo: cases, methods and figures that are made up."""

from __future__ import annotations

from typing import Literal

import numpy as np

from anechoic.audit.html import (
    Case,
    Clip,
    Column,
    Curve,
    Figure,
    Generation,
    Judge,
    MethodRow,
    Story,
)

RATE = 16_000
NASTY = '<script>alert("x")</script> & \'quotes\' "😀" </style>\u202egnp'
METHODS = {
    "none": ("Unguarded", "Plain classifier-free guidance."),
    "amg": ("AMG", "Anti-memorization guidance, all three terms."),
    "static": ("Static point", "No guidance until a fixed point."),
    "opposite": ("Opposite guidance", "Pushes away from the prompt until a fixed point."),
    "dynamic": ("Dynamic point", "Waits until the prompt's pull starts to fall."),
    "spe": ("Despecification", "One of the three terms of AMG alone."),
}


def note(hz: float, seed: int, noise: float = 0.003) -> np.ndarray:
    """A second of a plucked note with some noise."""
    t = np.arange(RATE) / RATE
    partials = sum(np.sin(2 * np.pi * hz * k * t) * np.exp(-2.0 * k * t) / k for k in range(1, 9))
    rng = np.random.default_rng(seed)
    return (0.3 * np.asarray(partials) + noise * rng.standard_normal(RATE)).astype(np.float32)


def clip(caption: str, ident: str, hz: float, url: str = "https://example.org/sounds") -> Clip:
    return Clip(caption, ident, note(hz, int(hz)), RATE, "CC0 1.0", "sonic-pi-samples", url)


def curve(method: str, copied: bool, n: int = 50) -> Curve:
    progress = np.linspace(0, 1, n)
    fall = 0.35 if copied else 0.75
    distance = 3 + 30 / (1 + np.exp((progress - fall) * 25)) + np.sin(40 * progress)
    similarity = 0.2 + (0.77 if copied else 0.35) / (1 + np.exp(-(progress - 0.3) * 14))
    guarded = method in ("amg", "spe")
    threshold = 0.4 + 0.1 * (1 - progress**2)
    return Curve(
        progress,
        np.linspace(-11, 9, n),
        distance,
        similarity,
        similarity > threshold if guarded else None,
        threshold if guarded else None,
        0.42 if method in ("static", "opposite", "dynamic") else None,
    )


def fake_story(cases: int = 2, methods: int = 6, prompt: str | None = None) -> Story:
    names = list(METHODS)[:methods]
    sounds = ["violin", "trumpet", "marimba", "nylon guitar", "church organ", "flute"]
    made_cases = []
    for at in range(cases):
        kind: Literal["duplicated", "ordinary"] = "duplicated" if at % 3 != 2 else "ordinary"
        words = f"a {sounds[at % 6]} playing note {48 + at}, recorded close and dry"
        training = clip(prompt or words, f"note-{at}", 110 * 2 ** (at / 12))
        generations = []
        for m, name in enumerate(names):
            copied = kind == "duplicated" and name in ("none", "spe")
            nearest = (
                training
                if copied
                else clip("another take", f"take-{at}-{m % 4}", 200 + 10 * at + m % 4)
            )
            wav = note(110 * 2 ** ((at if copied else at + m) / 12), seed=at * 10 + m)
            scores = {"judge": 0.94 if copied else 0.41, "waveform": 0.83 if copied else 0.02}
            similarity = 0.97 if copied else 0.55
            generations.append(
                Generation(
                    name, wav, RATE, similarity, scores, copied, nearest, curve(name, copied)
                )
            )
        made_cases.append(
            Case(words if prompt is None else prompt, kind, at % 5, training, generations)
        )
    rows = []
    for m, name in enumerate(names):
        share = 0.83 if m == 0 else 0.06 if m < 5 else 0.41
        figures = {
            "copies": Figure(share, max(share - 0.12, 0), share + 0.09, 80),
            "similarity": Figure(0.62 + share / 3, 0.60 + share / 3, 0.64 + share / 3, 80),
            "adherence": Figure(0.95 - 0.03 * m, 0.88 - 0.03 * m, 0.98 - 0.03 * m, 80),
            "seconds": Figure(1.2 + 0.9 * (m == 1), n=80),
        }
        rows.append(MethodRow(name, *METHODS[name], figures))
    return Story(
        title="anechoic demo",
        sentence="Unguarded, 83 of 100 generations return a training clip. "
        "Under each full guard it is 6, at a small cost in following the prompt.",
        settings={
            "Model": "demo, StableAudioDiTModel, 12 M parameters",
            "Steps": "50",
            "Seeds": "0 to 4",
        },
        columns=[
            Column(
                "copies",
                "Copies",
                "share of generations that return a training clip",
                ".2f",
                "lower",
            ),
            Column(
                "similarity",
                "Similarity",
                "to the nearest training clip, independent judge",
                ".2f",
                "lower",
            ),
            Column("adherence", "Prompt kept", "right instrument and register", ".2f", "higher"),
            Column("seconds", "Seconds", "for one sound, on 2 cores", ".1f", "lower"),
        ],
        methods=rows,
        cases=made_cases,
        notes=["The thresholds were set on held-out clips, at a false-positive rate of 1 %."],
        citations=["Chen, Liu, Xu: Towards Memorization-Free Diffusion Models, CVPR 2024"],
        judges=[
            Judge("similarity", "Guide's descriptor", "the one that the guard listens to", 0.9),
            Judge("judge", "Independent judge", "a descriptor that no guard has seen", 0.9),
            Judge("waveform", "Waveform match", "peak of the normalised cross-correlation"),
        ],
    )
