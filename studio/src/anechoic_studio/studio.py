"""A model and the index of its training set, and what the page asks of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from anechoic_lab.demo.show import Watched, curve
from torch import Tensor

from anechoic import audio
from anechoic.audit.supplement import Curve
from anechoic.cli.generate import chosen_guard
from anechoic.diffusers import fingerprint
from anechoic.diffusers.generate import generate
from anechoic.diffusers.loading import load_pipeline
from anechoic.diffusers.pipelines import (
    adapter_for,
    call_arguments,
    default_scale,
    default_steps,
)
from anechoic.engine.model import require_own_index
from anechoic.errors import BadSetting
from anechoic.guidance import ClassifierFree, TransitionPoint
from anechoic.guidance.base import Guidance
from anechoic.guidance.step import Guided, Record, Step
from anechoic.models import SCALE, KnownModel, find
from anechoic.protection import Judge, Judgement, protect
from anechoic.verdict import Status, Verdict
from anechoic_studio.background import Post

GUARDED, PLAIN = "guarded", "plain"  # the sides of the page
APART = 1.0  # log-SNR between two comparisons of a guard that makes none itself
GENERATING = "Generating ..."
GUARDS = ("auto", "amg", "cfg")  # for every model, besides those with settings of its own


@dataclass(frozen=True)
class Request:
    """What to generate."""

    prompt: str
    seed: int
    steps: int
    scale: float
    guard: str = "auto"

    def __post_init__(self) -> None:
        if not (self.prompt or "").strip():
            raise BadSetting("the prompt is empty; say what is to sound")


@dataclass(frozen=True, eq=False)
class Take:
    """One sound of the page: on its way, or done."""

    words: str  # what happens, or what became of it
    done: float = 0.0  # share of the steps
    curve: Callable[[], Curve | None] = lambda: None
    wav: Tensor | None = None  # [c, t]; None: nothing to hear
    sample_rate: int = 0  # in Hz
    judgement: Judgement | None = None
    file: Path | None = None  # what may be downloaded, with its certificate beside it


@dataclass(frozen=True, kw_only=True)
class Live(Watched):
    """A guidance that posts how far it is, with its curve so far, to a side of the page."""

    post: Post
    side: str
    seen: list[Record] = field(default_factory=list, repr=False)  # of the latest attempt

    def __call__(self, step: Step) -> Guided:
        self.seen[:] = step.history
        curve = partial(drawn, step.history, self.guidance)
        self.post(self.side, Take(GENERATING, step.progress, curve))
        return super().__call__(step)


@dataclass(eq=False)
class Studio:
    """A loaded model, its judge, and a folder for what is generated.

    Args:
        known: the model, with its settings.
        pipe: its pipeline.
        index_name: what `Judge.load` opens.
        judge: verifies what was generated.
        work: a folder for files.
        guarded_only: nothing unguarded is made.
    """

    known: KnownModel
    pipe: Any
    index_name: str
    judge: Judge
    work: Path
    guarded_only: bool = False
    alone: Lock = field(default_factory=Lock)
    _numbers: Any = field(default_factory=lambda: count(1))

    @classmethod
    def open(
        cls,
        model: str,
        work: Path,
        index: str | None = None,
        device: str | None = None,
        guarded_only: bool = False,
    ) -> Studio:
        """Load a model and an index.

        Args:
            model: a name, a folder or a hub id, as of `anechoic generate`.
            work: a folder for files.
            index: a folder; by default the index that comes with the model.
            device: by default a GPU if there is one.
            guarded_only: nothing unguarded is made.

        Raises:
            BadSetting: the model brings no index, and none was given.
            AnechoicError: the model or the index cannot be used, or do not belong together.
        """
        known = find(model)
        if index is None and known.index is None:
            raise BadSetting(
                f"model '{model}' brings no index; give that of its training set with '--index', "
                "made by 'anechoic index build'"
            )
        name = index or model
        judge = Judge.load(name)
        pipe = load_pipeline(known.pipeline, device)
        pipe.set_progress_bar_config(disable=True)
        require_own_index(judge.index, partial(fingerprint, pipe))
        return cls(known, pipe, name, judge, work, guarded_only)

    # ------------------------------------------------------------------------- what it has

    @property
    def steps(self) -> int:
        """Sampler steps, if nobody asks for others."""
        return self.known.steps or default_steps(self.pipe)

    @property
    def scale(self) -> float:
        """Guidance scale, if nobody asks for another."""
        return self.known.scale or default_scale(self.pipe) or SCALE

    @property
    def guards(self) -> list[str]:
        """Names of guards, the automatic one first."""
        return list(dict.fromkeys(["auto", *self.known.guards, *GUARDS]))

    @property
    def reports(self) -> Path:
        """The folder of the reports of audits, which the page may show."""
        return self.work / "reports"

    @property
    def editable(self) -> bool:
        """Whether clips may be added and withdrawn; an index that ships with a model stays."""
        return find(self.index_name).index is None

    def guard(self, name: str, scale: float) -> Guidance:
        """A guard by its name, at the settings that the model has for it."""
        index, embedder = self.judge.index, self.judge.verifier.embedder
        return chosen_guard(name, self.known, [f"scale={scale}"], index, embedder)

    def suggestions(self, number: int = 6) -> list[str]:
        """Captions to begin with: of the demo model, those that it memorized."""
        if self.known.name == "demo":
            from anechoic_lab.demo import assets

            clips = assets.training_clips()
            often = sorted(clips, key=lambda clip: -clip.copies)
            return list(dict.fromkeys(clip.caption for clip in often))[:number]
        captions = list(self.judge.training.of_caption)
        return captions[:: max(len(captions) // number, 1)][:number]

    def warm(self) -> None:
        """Judge a second of noise, so that the first sound does not wait for what is loaded."""
        with self.alone:
            rate = adapter_for(self.pipe).sample_rate
            noise = torch.randn(1, rate, generator=torch.Generator().manual_seed(0))
            self.judge(0.1 * noise, rate)

    def reopen(self) -> None:
        """Open the index again after a change. Until that works, nothing is released: the old
        judge says that its index has changed."""
        with self.alone:
            self.judge = Judge.load(self.index_name)

    # --------------------------------------------------------------------------- generating

    def generate(self, asked: Request, post: Post) -> None:
        """Generate under the guard, verify and certify; then the unguarded twin."""
        guide = self.guard(asked.guard, asked.scale)
        post(PLAIN, Take("Waits for the guarded sound."))
        post(GUARDED, Take(GENERATING))
        live = self._live(guide, post, GUARDED)
        (sound,) = protect(
            self.pipe, self.judge, asked.prompt, guidance=live, guard_first=True, seed=asked.seed,
            arguments=self._arguments(asked), certificates=True,
            files=[self.work / f"anechoic-{next(self._numbers):03d}.wav"],
        )  # fmt: skip
        tries = len(sound.attempts)
        words = {
            "released": "Verified, certified and released.",
            "regenerated": f"Verified, certified and released at attempt {tries}.",
        }.get(sound.verdict, f"Nothing is released: {sound.reason}.")
        last = sound.attempts[-1] if tries else None
        if last is not None and last.substitute:
            words += f" The prompt gave way to the caption “{last.substitute}”."
        judgement = None if last is None else last.judgement
        curve = partial(drawn, live.seen, guide)
        post(
            GUARDED,
            Take(words, 1.0, curve, sound.wav, sound.sample_rate, judgement, sound.file),
        )
        if not self.guarded_only:
            self._plain(asked, ClassifierFree(asked.scale), post)

    def explore(self, asked: Request, start: float, post: Post) -> tuple[float, Status]:
        """Generate without guidance up to a share of the steps, and with it from there.

        Returns:
            The similarity to the nearest training clip, and the verdict.
        """
        if start <= 0:
            return self._plain(asked, ClassifierFree(asked.scale), post)
        return self._plain(asked, TransitionPoint(asked.scale, 0.0, start), post)

    def _plain(self, asked: Request, guide: Guidance, post: Post) -> tuple[float, Status]:
        """Post a sound that was not verified before it is shown, and is not for release."""
        live = self._live(guide, post, PLAIN)
        made = generate(self.pipe, asked.prompt, asked.seed, self._arguments(asked), live)
        wav, sample_rate = made.samples[0], adapter_for(self.pipe).sample_rate
        judgement = self.judge(wav, sample_rate)
        words = {"copy": "A copy of a training clip.", "no copy": "Not a copy."}
        told = words.get(judgement.status, f"Not judged: {judgement.why()}.")
        curve = partial(drawn, made.records, guide)
        post(PLAIN, Take(told, 1.0, curve, wav, sample_rate, judgement))
        found = nearest(judgement)
        return (0.0 if found is None else found.score), judgement.status

    def check(self, file: Path) -> Take:
        """The verdict on a file of somebody else's.

        Raises:
            BadAudio: it is not usable sound.
        """
        wav, sample_rate = audio.read(file)
        return Take(file.name, 1.0, Take.curve, wav, sample_rate, self.judge(wav, sample_rate))

    def _live(self, guide: Guidance, post: Post, side: str) -> Live:
        index, embedder = self.judge.index, self.judge.verifier.embedder
        return Live(guide, index, embedder, APART, post=post, side=side)

    def _arguments(self, asked: Request) -> dict[str, Any]:
        return call_arguments(self.pipe, asked.scale, asked.steps)


def nearest(judgement: Judgement | None) -> Verdict | None:
    """The verdict of the detector that searches the whole training set, which is the first."""
    return next(iter(judgement.verdicts.values()), None) if judgement is not None else None


def drawn(records: Sequence[Record], guide: Guidance) -> Curve | None:
    """What was recorded as a curve: between two comparisons a straight line, and nothing before
    the first. None: too little to draw."""
    if len(records) < 2:
        return None
    found = curve(records)
    assert found.similarity is not None
    known = np.flatnonzero(np.isfinite(found.similarity))
    similarity = np.full(len(records), np.nan)
    if len(known):
        inside = slice(known[0], known[-1] + 1)
        at = found.progress
        similarity[inside] = np.interp(at[inside], at[known], found.similarity[known])
    limit = getattr(guide, "threshold", None)
    threshold = None if limit is None else np.full(len(records), float(limit))
    threshold = threshold if found.threshold is None else found.threshold
    return replace(found, similarity=similarity, threshold=threshold)
