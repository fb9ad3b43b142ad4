"""Generates with the demo model under a guard, and judges the results."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anechoic.diffusers import Trace
from anechoic.diffusers.generate import generate as generate_samples
from anechoic.diffusers.pipelines import call_arguments, sound_seconds
from anechoic.guidance.base import Guidance
from anechoic.index import TrainingIndex
from anechoic.types import Embedder
from anechoic.verdict import Rule, Verdict, Verifier
from anechoic_lab.demo import assets
from anechoic_lab.demo.assets import CFG_SCALE, STEPS
from anechoic_lab.demo.classifier import NoteClassifier
from anechoic_lab.demo.codec import MelCodec
from anechoic_lab.demo.corpus import Clip
from anechoic_lab.demo.judge import (
    FRAGMENT,
    LONGER,
    NEAREST,
    RANK,
    SECOND_S,
    ClipScorer,
    Fragment,
    FragmentScorer,
    heard,
    waveform,
)

BATCH = 16


@dataclass(frozen=True, eq=False)
class DemoBatch:
    """Generations of one guard, one for each prompt."""

    wav: Tensor  # [n, t] at the model's sample rate
    traces: list[Trace]  # one for each batch; empty for the plain pipeline
    seconds: float  # for each clip
    passes: float  # passes of each clip through the denoiser


def generate(
    pipe: Any,
    prompts: Sequence[str],
    seed: int,
    guidance: Guidance | None = None,
    scale: float = CFG_SCALE,
    steps: int = STEPS,
) -> DemoBatch:
    """Generate one clip per prompt, all with the same seed.

    Each sample has its own generator, so the rest of the batch does not matter.
    """
    arguments = call_arguments(pipe, scale, steps, sound_seconds(pipe))
    wavs, traces, rows = [], [], 0
    start = time.perf_counter()
    for first in range(0, len(prompts), BATCH):
        batch = list(prompts[first : first + BATCH])
        made = generate_samples(pipe, batch, seed, arguments, guidance)
        if guidance is not None:
            traces.append(made.trace)
        rows += round(made.passes * len(batch))
        wavs.append(made.samples[:, 0])
    seconds = (time.perf_counter() - start) / len(prompts)
    return DemoBatch(torch.cat(wavs), traces, seconds, rows / len(prompts))


@dataclass(frozen=True)
class Judgement:
    """The judges' results for one generation."""

    caption: str
    seed: int
    mel: float  # to the nearest training clip of its own caption, or of all if there is none
    envelope: float  # to the same clip
    rank: float  # to the same clip
    waveform: float  # to the same clip after the codec, which loses its phase
    own: int  # that clip's row
    verdict: Verdict  # by the guide's index of all training clips, as `anechoic check` gives it
    copied: bool  # a copy by `mel`, which no guard follows
    confirmed: bool  # ... and by `envelope`
    family: bool | None  # the instrument's family is right; None: the caption names none
    register: bool | None
    recognized: bool | None  # a recording is among the nearest by spectrum; None: a note
    elsewhere: bool  # a confirmed copy of a clip with another caption
    fragment: Fragment | None  # the nearest second of a clip of the caption; None: no longer sound

    @property
    def by_rank(self) -> bool:
        """Whether it is a copy by `rank`, which loud spots do not change."""
        return self.rank > RANK

    @property
    def in_part(self) -> bool | None:
        """Whether a second of it is one of a clip of its caption; None: it is hardly longer."""
        return None if self.fragment is None else self.fragment.score > FRAGMENT

    @property
    def similarity(self) -> float:
        """Similarity to the nearest training clip, by the guide's descriptor."""
        return self.verdict.score

    @property
    def nearest(self) -> int:
        """The row of that clip."""
        assert self.verdict.match.row is not None  # no generation of the demo is silent
        return self.verdict.match.row

    @property
    def adherence(self) -> float | None:
        """Share of the prompt that is right: family and register; None: it names neither."""
        if self.family is None or self.register is None:
            return None
        return (self.family + self.register) / 2


@dataclass(frozen=True, eq=False)
class Bench:
    """All judges of the demo."""

    clips: list[Clip]
    sound: Tensor  # sound of the training clips, [n, t]
    rate: int  # its sample rate in Hz, and that of the model
    judges: dict[str, ClipScorer]
    classifier: NoteClassifier
    verifier: Verifier  # by the guide's index; of a fine-tuned model, by that of its base
    codec: MelCodec
    thresholds: dict[str, float]
    fragments: FragmentScorer | None  # None: the clips are hardly longer than a second

    @classmethod
    def load(cls, folder: Path, pipe: Any) -> Bench:
        """The judges of a demo folder."""
        clips, sound = assets.training_set(folder)
        rate = assets.sample_rate(folder)
        longer = sound.shape[1] > LONGER * SECOND_S * rate
        return cls(
            clips=clips,
            sound=sound,
            rate=rate,
            judges=assets.judges(folder),
            classifier=assets.classifier(folder),
            verifier=Verifier.load(assets.index_folder(assets.base(folder))),
            codec=pipe.vae,
            thresholds=assets.calibration(folder)["thresholds"],
            fragments=FragmentScorer.of(heard(sound, rate)) if longer else None,
        )

    @property
    def index(self) -> TrainingIndex:
        return self.verifier.index

    @property
    def embedder(self) -> Embedder:
        return self.verifier.embedder

    def rule(self, judge: str) -> Rule:
        """The rule by which a score of "mel" or "envelope" is that of a copy."""
        return Rule(judge, self.thresholds[judge], "calibrated on held-out sound of the demo")

    @torch.no_grad()
    def judge(self, wav: Tensor, prompts: Sequence[Clip], seed: int) -> list[Judgement]:
        """Judge one generation [n, t] for each prompt, given as a clip with that caption."""
        at_16_khz = heard(wav, self.rate)
        scores = {name: judge(at_16_khz) for name, judge in self.judges.items()}
        verdicts = [self.verifier(one[None], self.rate) for one in wav]
        families, registers = self.classifier.predict(at_16_khz)
        own = [self._own(prompt, row) for prompt, row in zip(prompts, scores["mel"], strict=True)]
        rows = torch.arange(len(wav))
        mel, envelope = (scores[name][rows, own] for name in ("mel", "envelope"))
        sound = self.codec.encode(self.sound[own][:, None]).latent_dist.mean
        wave = waveform(wav, self.codec.decode(sound).sample[:, 0])
        near = scores["spectrum"].topk(min(NEAREST, len(self.clips))).indices.tolist()
        both = (scores["mel"] > self.thresholds["mel"]) & (
            scores["envelope"] > self.thresholds["envelope"]
        )
        copied = [self.rule("mel").is_copy(score) for score in mel.tolist()]
        confirmed = [
            copy and self.rule("envelope").is_copy(score)
            for copy, score in zip(copied, envelope.tolist(), strict=True)
        ]
        return [
            Judgement(
                caption=prompt.caption,
                seed=seed,
                mel=mel[i].item(),
                envelope=envelope[i].item(),
                rank=scores["rank"][i, own[i]].item(),
                waveform=wave[i].item(),
                own=own[i],
                verdict=verdicts[i],
                copied=copied[i],
                confirmed=confirmed[i],
                family=families[i] == prompt.family if prompt.instrument else None,
                register=registers[i] == prompt.register if prompt.instrument else None,
                recognized=None
                if prompt.instrument
                else any(self.clips[row].caption == prompt.caption for row in near[i]),
                elsewhere=any(
                    self.clips[row].caption != prompt.caption
                    for row in both[i].nonzero().flatten().tolist()
                ),
                fragment=self.fragment(at_16_khz[i], self._rows(prompt.caption)),
            )
            for i, prompt in enumerate(prompts)
        ]

    def _own(self, prompt: Clip, scores: Tensor) -> int:
        """The row of the nearest clip with the prompt's caption; of all clips if there is none."""
        candidates = self._rows(prompt.caption) or list(range(len(self.clips)))
        return candidates[int(scores[candidates].argmax())]

    def _rows(self, caption: str) -> list[int]:
        return [row for row, clip in enumerate(self.clips) if clip.caption == caption]

    def fragment(self, wav: Tensor, rows: Sequence[int]) -> Fragment | None:
        """The nearest second of these clips to one of a sound, [t] at 16 kHz."""
        if self.fragments is None or not rows:
            return None
        found = [self.fragments(wav, clip) for clip in heard(self.sound[list(rows)], self.rate)]
        return max(found, key=lambda one: one.score)


def generate_and_judge(
    pipe: Any,
    bench: Bench,
    prompts: Sequence[Clip],
    seeds: Sequence[int],
    guidance: Guidance | None = None,
    scale: float = CFG_SCALE,
    steps: int = STEPS,
    report: Callable[[], None] = lambda: None,
) -> tuple[list[list[Judgement]], float]:
    """Judge every prompt with every seed: verdicts, prompts by seeds, and the seconds per clip.

    `report` is called after each seed.
    """
    columns, seconds = [], []
    for seed in seeds:
        made = generate(pipe, [c.caption for c in prompts], seed, guidance, scale, steps)
        columns.append(bench.judge(made.wav, prompts, seed))
        seconds.append(made.seconds)
        report()
    return [list(row) for row in zip(*columns, strict=True)], float(np.mean(seconds))


def interval(values: Sequence[Sequence[float]], seed: int = 0) -> tuple[float, float, float]:
    """Mean and its 95 % bootstrap interval, resampling prompts: rows are prompts, columns seeds.

    >>> interval([[1.0, 1.0], [1.0, 1.0]])
    (1.0, 1.0, 1.0)
    """
    means = np.array([np.mean(row) for row in values])
    rng = np.random.default_rng(seed)
    drawn = means[rng.integers(0, len(means), (2000, len(means)))].mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(means.mean()), float(low), float(high)
