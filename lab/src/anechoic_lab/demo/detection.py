"""Evaluates the detectors on the demo's corpus and model, by sound and by prompt."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from torch import Tensor

from anechoic.audit.screen import LOOKS, Look, records
from anechoic.detectors import (
    Angle,
    Calibration,
    Correlation,
    Detector,
    Landmarks,
    Magnitude,
    Match,
    NearestRatio,
    Segments,
    TopCosine,
)
from anechoic.embedders import embedder
from anechoic.guidance.step import Record
from anechoic.index import Sound, TrainingIndex
from anechoic_lab.demo import assets
from anechoic_lab.demo.corpus import SAMPLE_RATE, Clip
from anechoic_lab.demo.evaluate import unique_prompts
from anechoic_lab.demo.pairs import Known
from anechoic_lab.metrics import ConfidenceInterval, auc, true_positive_rate

RATE = 0.01  # false-positive rate
BATCH = 32
WINDOW_S, HOP_S = 0.512, 0.128
ORDINARY = 48  # prompts: as many notes as recordings
LEVELS = (-8.0, -5.36, -4.0, -3.0, -2.0, 0.0, 2.0)  # -5.36: where Stable Diffusion starts
Report = Callable[[str], None]


@dataclass(frozen=True)
class DetectorScore:
    """The performance of one detector on one set of copies."""

    auc: ConfidenceInterval
    tpr: ConfidenceInterval
    right: float  # share of copies whose clip was found
    lag_s: float | None  # median error of the lag of those; None: the detector gives no lag


@dataclass(frozen=True)
class DetectionStudy:
    """All detectors and sets of copies, against one null."""

    null: Mapping[str, Calibration]  # by detector
    cells: Mapping[str, Mapping[str, DetectorScore]]  # by set of copies, then by detector


# --------------------------------------------------------------------------------- by sound


def fit(clips: Sequence[Clip], sound: Tensor, rows: Sequence[int]) -> dict[str, Detector]:
    """The detectors, fitted to some rows of the corpus."""
    sounds = [Sound(clips[i].id, clips[i].caption, sound[i][None], SAMPLE_RATE) for i in rows]
    whole, part = embedder("magmel"), embedder(f"magmel:seconds={WINDOW_S}")
    index = TrainingIndex.build(sounds, whole)
    windows = TrainingIndex.build(sounds, part, window_s=WINDOW_S, hop_s=HOP_S)
    return {
        "cosine": TopCosine(index, whole),
        "nearest ratio": NearestRatio(index, whole),
        "segments": Segments(windows, part),
        "correlation": Correlation.fit(sounds),
        "landmarks": Landmarks.fit(sounds),
    }


def find(detector: Detector, wav: Tensor) -> list[Match]:
    """The matches of clips [n, t]."""
    return [f for part in wav.split(BATCH) for f in detector(part[:, None], SAMPLE_RATE)]


def measure(
    detectors: Mapping[str, Detector],
    nulls: Mapping[str, Tensor],
    copies: Mapping[str, Known],
    report: Report,
) -> dict[str, DetectionStudy]:
    """Score the nulls and the copies once, and compare the copies with each null."""
    scores: dict[str, dict[str, list[float]]] = {}
    found: dict[str, dict[str, list[Match]]] = {}
    for name, detector in detectors.items():
        start = time.perf_counter()
        scores[name] = {key: [f.score for f in find(detector, wav)] for key, wav in nulls.items()}
        found[name] = {key: find(detector, known.wav) for key, known in copies.items()}
        report(f"{name}: {time.perf_counter() - start:.0f} s")
    measured = {}
    for key in nulls:
        null = {
            name: Calibration(detector.name, tuple(scores[name][key]), RATE)
            for name, detector in detectors.items()
        }
        cells = {
            copied: {name: cell(found[name][copied], known, null[name]) for name in detectors}
            for copied, known in copies.items()
        }
        measured[key] = DetectionStudy(null, cells)
    return measured


def cell(findings: Sequence[Match], known: Known, calibration: Calibration) -> DetectorScore:
    """The performance of one detector, from its matches on one set of copies."""
    scores = [f.score for f in findings]
    right = [f.row == row for f, row in zip(findings, known.rows, strict=True)]
    errors = [
        abs(f.start_s - f.match_start_s - lag)
        for f, lag, good in zip(findings, known.lags, right, strict=True)
        if good and lag is not None and f.start_s is not None and f.match_start_s is not None
    ]
    return DetectorScore(
        auc=auc(scores, calibration.null),
        tpr=true_positive_rate(scores, calibration),
        right=float(np.mean(right)),
        lag_s=median(errors) if errors else None,
    )


# -------------------------------------------------------------------------------- by prompt


def prompts(clips: Sequence[Clip], seed: int) -> tuple[list[str], list[str]]:
    """The duplicated prompts, and ordinary ones: as many notes as recordings."""
    rng = np.random.default_rng(seed)
    known = unique_prompts(clips)
    ordinary: list[str] = []
    for kind in ("note", "recording"):
        single = [c.caption for c in known if c.copies == 1 and c.kind == kind]
        ordinary += [single[i] for i in rng.permutation(len(single))[: ORDINARY // 2]]
    return [c.caption for c in known if c.copies > 1], ordinary


def looks() -> Iterator[tuple[str, Look, int]]:
    """The screenings: name, look and number of seeds."""
    yield "magnitude, first step of the schedule (log-SNR -12.4)", LOOKS["first-step"], 4
    for level in LEVELS:
        yield f"magnitude, pure noise at log-SNR {level:g}", Look(Magnitude(1), level), 4
    yield "angle to the score, pure noise at log-SNR 1", LOOKS["angle"], 4
    angle = Angle(against="estimate")
    yield "angle to the estimate, pure noise at log-SNR 1", Look(angle, 1.0), 4
    yield "d_t, mean over the run", Look(Magnitude(None), evaluations=None), 1
    yield "norm of c - u, mean over the run", LOOKS["run"], 1
    yield "angle to the score, end of the run", Look(Angle(), evaluations=None), 1
    yield "angle to the estimate, end of the run", Look(angle, evaluations=None), 1


def measure_prompts(
    pipe: Any, clips: Sequence[Clip], seed: int, report: Report
) -> list[tuple[str, int, ConfidenceInterval, ConfidenceInterval]]:
    """For each look: number of seeds, AUC of the mean over them, AUC of the first seed."""
    memorized, ordinary = prompts(clips, seed)
    seen: dict[tuple[Any, ...], list[list[Record]]] = {}
    rows = []
    for name, look, count in looks():
        start = time.perf_counter()
        columns = []
        for noise in range(count):
            key = (look.log_snr, look.evaluations, noise)
            if key not in seen:  # looks that differ only in their detector share a run
                asked, scale = memorized + ordinary, assets.CFG_SCALE
                seen[key] = records(pipe, asked, look, noise, scale=scale, steps=assets.STEPS)
            columns.append([f.score for run in seen[key] for f in look.detector(run)])
        mean = np.mean(columns, axis=0).tolist()
        split_at = len(memorized)
        every, first = (auc(c[:split_at], c[split_at:]) for c in (mean, columns[0]))
        rows.append((name, count, every, first))
        report(f"{name}: {time.perf_counter() - start:.0f} s")
    return rows
