"""Reports on disk: of a model that copies, and of the same under a guard."""

from __future__ import annotations

from pathlib import Path

from anechoic import embedder
from anechoic.audit import HeldOut, TrainingSet, audit, write_report
from support.audits import Model, folder_of, training_set
from support.sounds import tune

PROMPTS = [*(f"tune number {i}" for i in range(4)), "rain"]


def save_report(
    folder: Path,
    training: TrainingSet | None = None,
    prompts: tuple[str, ...] = tuple(PROMPTS),
    threshold: float | None = None,
    seeds: int = 2,
    guards: tuple[str, ...] = ("none", "amg"),
) -> Path:
    """A report of a plain model, which copies each tune that it is asked for, and of one that
    copies only tune 3: under the guard."""

    def guarded(prompt: str, seed: int):
        return Model(copies=prompt.endswith("3"))(prompt, seed)

    held = None
    if threshold is None:
        sounds = folder_of(folder / "held", **{f"h{i}": tune(500 + i) for i in range(19)})
        held = HeldOut(sounds, 0.05)
    report = audit(
        {guard: Model() if guard == "none" else guarded for guard in guards},
        training or training_set(),
        embedder("magmel"),
        prompts=prompts,
        seeds=range(seeds),
        model="a model",
        held_out=held,
        threshold=threshold,
        about={"command": "anechoic audit ...", "date": "2026-11-29", "weights": "sha256 abc"},
        work=folder / "work",
    )
    return write_report(report, folder / "report")
