"""The demo itself: the same prompts and seeds unguarded and under each guard, as a story."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from anechoic.audit.html import story
from anechoic.diffusers import Trace
from anechoic.guidance import ClassifierFree
from anechoic.guidance.base import Guidance, WatchingGuidance
from anechoic.guidance.step import Guided, Step
from anechoic_lab.demo import assets
from anechoic_lab.demo.corpus import SAMPLE_RATE, Clip
from anechoic_lab.demo.evaluate import groups
from anechoic_lab.demo.methods import METHODS, guidance
from anechoic_lab.demo.run import Bench, Judgement, generate, generate_and_judge, interval

DRAWN = 64  # ordinary prompts that both splits are taken from
ORDINARY = 6  # ordinary notes in the table
STOPPED = 0.1  # share of copies under which a guard has done its work
CITATIONS = (
    "Chen, Liu, Xu: Towards Memorization-Free Diffusion Models. CVPR 2024, arXiv:2404.00922",
    "Messina, Ronchini, Comanducci, Bestagini, Antonacci: Mitigating data replication in "
    "text-to-audio generative diffusion models through anti-memorization guidance. 2025, "
    "arXiv:2509.14934",
    "Jain, Kobayashi, Shibuya, Takida, Memon, Togelius, Mitsufuji: Classifier-Free Guidance inside "
    "the Attraction Basin May Cause Memorization. CVPR 2025, arXiv:2411.16738",
)


@dataclass(frozen=True)
class Watched(WatchingGuidance):
    """A guidance that also notes how near the conditional estimate is to the training set.

    The output is the inner guidance's; only the trace knows more.
    """

    guidance: Guidance
    bench: Bench

    def __call__(self, step: Step) -> Guided:
        answer = self.guidance(step)
        assert isinstance(answer, Guided)
        if "similarity" in answer.notes:
            return answer
        with torch.no_grad():
            emb = self.bench.embedder(step.decode(step.cond), step.sample_rate)
            sim = self.bench.index.search(self.bench.index.project(emb), 1).scores[:, 0]
        return replace(answer, notes={**answer.notes, "similarity": sim})


@dataclass(frozen=True, eq=False)
class Outcome:
    """One method over all prompts and seeds."""

    name: str
    duplicated: list[list[Judgement]]  # prompts by seeds
    ordinary: list[list[Judgement]]
    seconds: float
    shown: list[Judgement]  # of the shown prompts, under the first seed
    wav: torch.Tensor  # theirs, [n, t]
    trace: Trace  # theirs


@dataclass(frozen=True, eq=False)
class Show:
    """What the demo ran and found."""

    outcomes: list[Outcome]
    shown: list[Clip]
    duplicated: list[Clip]
    ordinary: list[Clip]
    seeds: Sequence[int]
    steps: int
    bench: Bench


def prompts_to_report(bench: Bench, ordinary: int = ORDINARY) -> tuple[list[Clip], list[Clip]]:
    """Duplicated prompts of the report split, and ordinary ones."""
    found = groups(bench.clips, DRAWN, seed=1)
    duplicated = found["duplicated notes"][1::2] + found["duplicated recordings"][1::2]
    return duplicated, found["ordinary notes"][:ordinary] + found["ordinary recordings"][:2]


def prompts_to_tune(clips: Sequence[Clip], ordinary: int = 10) -> tuple[list[Clip], list[Clip]]:
    """Those the settings were chosen on: none of them is in the report."""
    found = groups(clips, DRAWN, seed=1)
    duplicated = found["duplicated notes"][::2] + found["duplicated recordings"][::2]
    return duplicated, found["ordinary notes"][-ordinary:] + found["ordinary recordings"][-2:]


def run(
    folder: Path = assets.SHIPPED,
    seeds: Sequence[int] = (0, 1),
    methods: Sequence[str] = tuple(METHODS),
    steps: int = assets.STEPS,
    report: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Show:
    """Generate and judge everything that the demo tells of."""
    pipe = assets.pipeline(folder)
    report("loading the judges", 0, 1)
    bench = Bench.load(folder, pipe)
    duplicated, ordinary = prompts_to_report(bench)
    shown = duplicated[:2] + duplicated[-2:] + ordinary[:2]
    outcomes = []
    for i, name in enumerate(methods):
        report(METHODS[name].label, i, len(methods))
        guide = guidance(name, bench.index, bench.embedder)
        outcomes.append(
            _outcome(name, guide, pipe, bench, duplicated, ordinary, shown, seeds, steps)
        )
    report("done", len(methods), len(methods))
    return Show(outcomes, shown, duplicated, ordinary, seeds, steps, bench)


def _outcome(
    name: str,
    guide: Guidance | None,
    pipe: object,
    bench: Bench,
    duplicated: list[Clip],
    ordinary: list[Clip],
    shown: list[Clip],
    seeds: Sequence[int],
    steps: int,
) -> Outcome:
    prompts = duplicated + ordinary
    rows, seconds = generate_and_judge(pipe, bench, prompts, seeds, guide, steps=steps)
    watched = Watched(guide or ClassifierFree(assets.CFG_SCALE), bench)
    looked_at = generate(pipe, [clip.caption for clip in shown], seeds[0], watched, steps=steps)
    return Outcome(
        name=name,
        duplicated=rows[: len(duplicated)],
        ordinary=rows[len(duplicated) :],
        seconds=seconds,
        shown=bench.judge(looked_at.wav, shown, seeds[0]),
        wav=looked_at.wav,
        trace=looked_at.traces[0],
    )


COLUMNS = (
    story.Column(
        "copies", "copies", "Share of duplicated prompts whose generation correlates above 0.9 "
        "(centred log mel) with their own training clip.", ".2f", "lower"),
    story.Column(
        "confirmed", "confirmed", "Copies that the energy envelope, which no guard follows, tells "
        "apart from other takes of the same caption.", ".2f", "lower"),
    story.Column(
        "mel", "judge: mel", "Mean correlation with the own training clip.", ".2f", "lower"),
    story.Column(
        "similarity", "guide: magmel", "Mean similarity to the nearest training clip by the "
        "descriptor that AMG follows.", ".2f", "lower"),
    story.Column(
        "waveform", "waveform", "Peak cross-correlation with the own clip as the codec gives it "
        "back, under a phase of its own.", ".2f", "lower"),
    story.Column(
        "kept", "prompt kept", "Duplicated notes: mean of instrument family right and register "
        "right.", ".2f", "higher"),
    story.Column(
        "ordinary", "prompt kept, ordinary", "The same for notes that were not duplicated: "
        "what protection costs where none was needed.", ".2f", "higher"),
    story.Column("seconds", "s / clip", "Mean time for a clip on this machine.", ".2f", "lower"),
)  # fmt: skip


def figures(outcome: Outcome) -> dict[str, story.Figure]:
    """The row of the table, with 95 % bootstrap intervals over prompts."""

    def of(rows: list[list[Judgement]], key: str) -> story.Figure:
        values = [[float(getattr(v, key)) for v in row] for row in rows]
        return story.Figure(*interval(values), n=sum(len(row) for row in values))

    def notes(rows: list[list[Judgement]]) -> list[list[Judgement]]:
        return [row for row in rows if row[0].kept is not None]

    duplicated = {
        key: of(outcome.duplicated, name)
        for key, name in (
            ("copies", "copied"), ("confirmed", "confirmed"), ("mel", "mel"),
            ("similarity", "similarity"), ("waveform", "waveform"),
        )
    }  # fmt: skip
    return {
        **duplicated,
        "kept": of(notes(outcome.duplicated), "kept"),
        "ordinary": of(notes(outcome.ordinary), "kept"),
        "seconds": story.Figure(outcome.seconds),
    }


def sentence(table: Mapping[str, Mapping[str, story.Figure]]) -> str:
    """The verdict in a sentence, from the figures."""
    plain = table["none"]["copies"].value
    guarded = {k: v["copies"].value for k, v in table.items() if k != "none"}
    # of those that stop it, the one that costs ordinary prompts least; else whoever stops most
    stops = [k for k in guarded if guarded[k] < STOPPED]
    best = (
        max(stops, key=lambda k: table[k]["ordinary"].value)
        if stops
        else min(guarded, key=lambda k: guarded[k])
    )
    return (
        f"Asked for what it was trained on too often, this model returns a training clip in "
        f"{plain:.0%} of generations. With {METHODS[best].label} it does so in "
        f"{guarded[best]:.0%}, and an ordinary prompt is kept in "
        f"{table[best]['ordinary'].value:.0%} of what is asked (unguarded "
        f"{table['none']['ordinary'].value:.0%})."
    )


def tell(show: Show) -> story.Story:
    """The page's story."""
    table = {outcome.name: figures(outcome) for outcome in show.outcomes}
    training = {}

    def clip(row: int) -> story.Clip:
        known = show.bench.clips[row]
        if row not in training:
            training[row] = story.Clip(
                known.caption, known.id, show.bench.sound[row].numpy(), SAMPLE_RATE,
                known.licence, known.source, known.url,
            )  # fmt: skip
        return training[row]

    cases = []
    for i, prompt in enumerate(show.shown):
        made = [
            story.Generation(
                method=outcome.name,
                wav=outcome.wav[i].numpy(),
                sample_rate=SAMPLE_RATE,
                similarity=outcome.shown[i].similarity,
                scores={k: getattr(outcome.shown[i], k) for k in ("mel", "envelope", "waveform")},
                copy=outcome.shown[i].copied,
                nearest=clip(outcome.shown[i].nearest),
                curve=_curve(outcome.trace, i),
            )
            for outcome in show.outcomes
        ]
        own = clip(show.bench.clips.index(prompt))
        kind: Literal["duplicated", "ordinary"] = "duplicated" if prompt.copies > 1 else "ordinary"
        cases.append(story.Case(prompt.caption, kind, show.seeds[0], own, made))
    limits = show.bench.thresholds
    return story.Story(
        title="A small model that memorizes, and guards that stop it",
        sentence=sentence(table),
        settings=_settings(show),
        columns=COLUMNS,
        methods=[
            story.MethodRow(o.name, METHODS[o.name].label, METHODS[o.name].description,
                            table[o.name])
            for o in show.outcomes
        ],
        cases=cases,
        notes=NOTES,
        citations=CITATIONS,
        judges=(
            story.Judge("mel", "mel correlation", "with the own training clip", limits["mel"]),
            story.Judge("envelope", "envelope correlation", "with the own training clip",
                        limits["envelope"]),
            story.Judge("waveform", "waveform peak", "with the own clip through the codec"),
            story.Judge(story.SIMILARITY, "guide's similarity", "to the nearest training clip"),
        ),
    )  # fmt: skip


NOTES = (
    "A guard follows one descriptor (magmel) and is judged by others, because a gradient can fool "
    "the descriptor it follows while the ear hears the same clip.",
    "The settings were chosen on other prompts than those of this page.",
    "The model sings through a phase-free codec: sound comes from Griffin-Lim, so timbre is rough "
    "and the waveform of a true copy differs from the recording's. What is compared is what the "
    "codec keeps.",
    "Intervals are 95 % bootstrap intervals over prompts; with so few prompts they are wide.",
)


def _curve(trace: Trace, row: int) -> story.Curve:
    """What one sample looked like from inside."""
    records = trace.records

    def column(name: str) -> np.ndarray | None:
        if name not in records[0].notes:
            return None
        return np.array([float(r.notes[name][row]) for r in records])

    gate, switched = column("gate"), column("switched")
    transition = None
    if switched is not None and switched.any():
        transition = records[int(switched.argmax())].progress
    return story.Curve(
        progress=np.array([r.progress for r in records]),
        log_snr=np.array([r.noise.log_snr for r in records]),
        distance=np.array([float(r.distance[row]) for r in records]),
        similarity=column("similarity"),
        gate=None if gate is None else gate.astype(bool),
        threshold=column("threshold"),
        transition=transition,
    )


def _settings(show: Show) -> dict[str, str]:
    about = {
        "model": f"StableAudioPipeline, {show.steps} steps, guidance scale {assets.CFG_SCALE}",
        "prompts": f"{len(show.duplicated)} duplicated, {len(show.ordinary)} ordinary",
        "seeds": ", ".join(str(seed) for seed in show.seeds),
        "training clips": str(len(show.bench.clips)),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": ", ".join(
            f"{name} {version(name)}" for name in ("anechoic", "torch", "diffusers", "transformers")
        ),
    }
    for outcome in show.outcomes:
        settings = METHODS[outcome.name].settings
        if settings:
            about[METHODS[outcome.name].label] = ", ".join(f"{k}={v}" for k, v in settings.items())
    return about
