"""Runs the demo: the same prompts and seeds unguarded and under each guard, and the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from anechoic.audit import Report, TrainingSet, audit
from anechoic.audit.supplement import (
    Column,
    Curve,
    Detail,
    Figure,
    GuardFigures,
    ScoreInfo,
    Supplement,
)
from anechoic.detectors import calibration
from anechoic.diffusers import Trace
from anechoic.guidance import ClassifierFree
from anechoic.guidance.base import Guidance, WatchingGuidance
from anechoic.guidance.similarity import compared_at
from anechoic.guidance.step import Guided, Record, Step
from anechoic.index import TrainingIndex
from anechoic.types import Embedder
from anechoic_lab.demo import assets
from anechoic_lab.demo.corpus import SAMPLE_RATE, Clip
from anechoic_lab.demo.evaluate import groups
from anechoic_lab.demo.methods import METHODS, guidance
from anechoic_lab.demo.run import Bench, Judgement, generate, generate_and_judge, interval

DRAWN = 64  # ordinary prompts that both splits are taken from
ORDINARY = 6  # ordinary notes in the table
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
    """A guidance that also records how near the conditional estimate is to the training set.

    The output is the inner guidance's; only the trace has an additional note.

    Args:
        guidance: what guides.
        index: the training set.
        embedder: the one that built it.
        apart: the distance in log-SNR from one comparison to the next; 0: each evaluation.
    """

    guidance: Guidance
    index: TrainingIndex
    embedder: Embedder
    apart: float = 0.0

    def __call__(self, step: Step) -> Guided:
        answer = self.guidance(step)
        assert isinstance(answer, Guided)
        if "similarity" in answer.notes:
            return answer
        sim = torch.full((step.batch,), torch.nan)
        far = step.noise.log_snr - compared_at(step) >= self.apart
        if not self.apart or bool(far.all()):
            with torch.no_grad():
                emb = self.embedder(step.decode(step.cond), step.sample_rate)
                sim = self.index.search(self.index.project(emb), 1).scores[:, 0]
        return replace(answer, notes={**answer.notes, "similarity": sim})


@dataclass(frozen=True, eq=False)
class Outcome:
    """One method over all prompts and seeds."""

    name: str
    duplicated: list[list[Judgement]]  # prompts by seeds
    ordinary: list[list[Judgement]]
    seconds: float
    shown: list[Judgement]  # results of the shown prompts, with the first seed
    wav: torch.Tensor  # their sound, [n, t]
    trace: Trace  # their trace


@dataclass(frozen=True, eq=False)
class Show:
    """The results of the demo."""

    folder: Path
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
    """The prompts on which settings were chosen; none of them is in the report."""
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
    """Generate and judge everything that the demo reports."""
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
    return Show(folder, outcomes, shown, duplicated, ordinary, seeds, steps, bench)


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
    watched = Watched(guide or ClassifierFree(assets.CFG_SCALE), bench.index, bench.embedder)
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
    Column(
        "copies", "copies", "Share of duplicated prompts whose generation correlates above 0.9 "
        "(centred log mel) with their own training clip.", ".2f", "lower"),
    Column(
        "confirmed", "confirmed", "Copies that the energy envelope, which no guard follows, also "
        "distinguishes from other renderings of the same caption.", ".2f", "lower"),
    Column(
        "by_rank", "copies by ranks", "Share whose log mel has a rank correlation above 0.9 with "
        "the own clip. Loud spots, by which a gradient lowers the other judges, do not change "
        "it.", ".2f", "lower"),
    Column(
        "mel", "judge: mel", "Mean correlation with the own training clip.", ".2f", "lower"),
    Column(
        "similarity", "guide: magmel", "Mean similarity to the nearest training clip by the "
        "descriptor that AMG follows.", ".2f", "lower"),
    Column(
        "waveform", "waveform", "Peak cross-correlation with the own clip as the codec gives it "
        "back, under a phase of its own.", ".2f", "lower"),
    Column(
        "kept", "adherence", "Duplicated notes: mean of instrument family right and register "
        "right.", ".2f", "higher"),
    Column(
        "ordinary", "adherence, ordinary", "The same for notes that were not duplicated: "
        "what protection costs where none was needed.", ".2f", "higher"),
    Column("seconds", "s / clip", "Mean time for a clip on this machine.", ".2f", "lower"),
)  # fmt: skip


SCORES = (
    ScoreInfo("mel", "mel correlation", "with the own training clip"),
    ScoreInfo("envelope", "envelope correlation", "with the own training clip"),
    ScoreInfo("waveform", "waveform peak", "with the own clip through the codec"),
    ScoreInfo("similarity", "guide's similarity", "to the nearest training clip"),
)


def figures(outcome: Outcome) -> dict[str, Figure]:
    """The row of the table, with 95 % bootstrap intervals over prompts."""

    def of(rows: list[list[Judgement]], key: str) -> Figure:
        values = [[float(getattr(v, key)) for v in row] for row in rows]
        return Figure(*interval(values), n=sum(len(row) for row in values))

    def notes(rows: list[list[Judgement]]) -> list[list[Judgement]]:
        return [row for row in rows if row[0].adherence is not None]

    duplicated = {
        key: of(outcome.duplicated, name)
        for key, name in (
            ("copies", "copied"), ("confirmed", "confirmed"), ("by_rank", "by_rank"),
            ("mel", "mel"),
            ("similarity", "similarity"), ("waveform", "waveform"),
        )
    }  # fmt: skip
    return {
        **duplicated,
        "kept": of(notes(outcome.duplicated), "adherence"),
        "ordinary": of(notes(outcome.ordinary), "adherence"),
        "seconds": Figure(outcome.seconds),
    }


def sentence(table: Mapping[str, Mapping[str, Figure]]) -> str:
    """The result in a sentence, from the figures."""
    plain, names = table["none"], [name for name in table if name != "none"]

    def left(name: str) -> float:
        """The share of copies, by the judge that finds more of them."""
        return max(table[name]["copies"].value, table[name]["by_rank"].value)

    def kept(name: str) -> float:
        """Copies that it stops and prompts that it keeps, as shares of the plain pipeline's."""
        one = table[name]
        stopped = 1 - left(name) / max(left("none"), 1e-9)
        followed = [one[group].value / max(plain[group].value, 1e-9)
                    for group in ("kept", "ordinary")]  # fmt: skip
        return min(stopped, *followed)

    best = max(names, key=kept)
    return (
        f"Asked for what it was trained on too often, this model returns a training clip in "
        f"{left('none'):.0%} of generations. With the guard '{METHODS[best].label}' it "
        f"does so in {left(best):.0%}, and adherence to ordinary prompts is "
        f"{table[best]['ordinary'].value:.0%} (unguarded {plain['ordinary'].value:.0%})."
    )


def supplement(show: Show) -> Supplement:
    """The demo's measurements, in addition to the verdict of the audit."""
    table = {outcome.name: figures(outcome) for outcome in show.outcomes}
    return Supplement(
        title="A small model that memorizes, and guards that stop it",
        sentence=sentence(table),
        columns=COLUMNS,
        guards=[
            GuardFigures(one.name, METHODS[one.name].label, METHODS[one.name].description,
                         table[one.name])
            for one in show.outcomes
        ],
        scores=[
            replace(one, threshold=show.bench.thresholds.get(one.key)) for one in SCORES
        ],
        details={
            (prompt.caption, show.seeds[0], outcome.name): Detail(
                kind="duplicated" if prompt.copies > 1 else "ordinary",
                scores={one.key: getattr(outcome.shown[i], one.key) for one in SCORES},
                curve=curve(outcome.trace.records, i),
            )
            for outcome in show.outcomes
            for i, prompt in enumerate(show.shown)
        },
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Shown:
    """Returns the finished generations of a guard, as a generator for an audit."""

    outcome: Outcome
    prompts: Sequence[str]

    def __call__(self, prompt: str, seed: int) -> tuple[torch.Tensor, int]:
        return self.outcome.wav[self.prompts.index(prompt)][None], SAMPLE_RATE

    @property
    def about(self) -> str:
        """The guard and its settings."""
        method = METHODS[self.outcome.name]
        settings = ", ".join(f"{name}={value}" for name, value in method.settings.items())
        return f"{method.label}: {settings}" if settings else method.label


def tell(show: Show, work: Path) -> Report:
    """The audit of the shown generations, with all measurements of the demo.

    Args:
        show: results of `run`.
        work: an empty folder for the sounds and pictures of the report.
    """
    captions = [clip.caption for clip in show.shown]
    rows = {clip.id: row for row, clip in enumerate(show.bench.clips)}
    index = show.bench.index
    index.name = "demo"
    training = TrainingSet(index, lambda clip: (show.bench.sound[rows[clip.id]][None], SAMPLE_RATE))
    report = audit(
        {one.name: Shown(one, captions) for one in show.outcomes},
        training,
        show.bench.embedder,
        prompts=captions,
        seeds=[show.seeds[0]],
        model=f"the demo model, StableAudioPipeline, {show.steps} steps, "
        f"guidance scale {assets.CFG_SCALE}",
        calibrations=calibration.read(assets.index_folder(show.folder)),
        about=_settings(show),
        work=work,
    )
    return replace(
        report,
        supplement=supplement(show),
        notes=[*report.notes, *NOTES],
        citations=[*report.citations, *CITATIONS],
    )


NOTES = (
    "A guard follows one descriptor (magmel) and is judged by others, because a gradient can fool "
    "the descriptor it follows while a listener still recognizes the clip.",
    "The settings were chosen on other prompts than those on this page.",
    "The model uses a phase-free codec: sound comes from Griffin-Lim, so timbre is rough and the "
    "waveform of a true copy differs from the recording's. The comparison covers only what the "
    "codec preserves.",
    "Intervals are 95 % bootstrap intervals over prompts; with so few prompts they are wide.",
)


def curve(records: Sequence[Record], row: int = 0) -> Curve:
    """What was recorded of one sample, as the report draws it."""

    def column(name: str) -> np.ndarray | None:
        if name not in records[0].notes:
            return None
        return np.array([float(r.notes[name][row]) for r in records])

    gate, switched = column("gate"), column("switched")
    transition = None
    if switched is not None and switched.any():
        transition = records[int(switched.argmax())].progress
    return Curve(
        progress=np.array([r.progress for r in records]),
        log_snr=np.array([r.noise.log_snr for r in records]),
        distance=np.array([float(r.distance[row]) for r in records]),
        similarity=column("similarity"),
        gate=None if gate is None else gate.astype(bool),
        threshold=column("threshold"),
        transition=transition,
    )


def _settings(show: Show) -> dict[str, str]:
    return {
        "prompts of the table": f"{len(show.duplicated)} duplicated, {len(show.ordinary)} ordinary",
        "seeds of the table": ", ".join(str(seed) for seed in show.seeds),
        "training clips": str(len(show.bench.clips)),
    }
