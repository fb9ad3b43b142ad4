"""Fine-tunes the demo with repeated clips under a monitor: when does it copy, and what helps?

The set is made of notes that the demo was trained on once, one clip a caption: some are drawn 64,
16 or 4 times as often as the others. The demo's model is fine-tuned on it plainly, and with each
remedy of `anechoic.training.Repeats`, for as many steps and from the same seed, under a monitor.
Early stopping is the plain training where its monitor would have stopped it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anechoic.errors import BadSetting
from anechoic.metrics import Estimate, share_interval
from anechoic.training import Monitor, Observation, Panel, Repeats
from anechoic.training.observation import read_log
from anechoic.training.trackers import Tracker
from anechoic.verdict import Verifier
from anechoic_lab.demo import assets
from anechoic_lab.demo.codec import MelCodec
from anechoic_lab.demo.corpus import Clip
from anechoic_lab.demo.model import Conditioner
from anechoic_lab.demo.run import interval
from anechoic_lab.demo.train import (
    Checkpoint,
    Conditioned,
    Phase,
    StableAudio,
    TrainingRecipe,
    train,
)
from anechoic_lab.demo.watch import Previews, verifier

GROUPS = ((64, 42), (16, 10), (4, 10), (1, 30))  # copies, clips
ORDINARY, HELD_OUT = 12, 299  # prompts, and sounds that the rule is calibrated on
STEPS, LIMIT = 2_000, 0.1
LOOKS, FEWER_LOOKS = 8, 2  # at the plain training, and at the others
PLAIN, EARLY = "plain", "early stopping"
Report = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Remedied(StableAudio):
    """The demo's pipeline, trained with a remedy for repeated clips."""

    clips: Sequence[Clip]
    repeats: Repeats

    def codec(self, wavs: Tensor) -> MelCodec:
        codec: MelCodec = assets.pipeline().vae
        return codec

    def pipeline(self, captions: list[str], codec: MelCodec, recipe: TrainingRecipe) -> Any:
        pipe = assets.pipeline()
        torch.nn.ModuleList(self.parts(pipe)).requires_grad_(True)
        return pipe

    def ids(self, rows: Tensor) -> list[str]:
        """The ids of the clips whose captions stand at some rows."""
        return [self.clips[row % len(self.clips)].id for row in rows.tolist()]


class CaptionDropout(Remedied):
    def condition(
        self, encode: Conditioner, rows: Tensor, dropped: Tensor, generator: torch.Generator
    ) -> Conditioned:
        return encode(rows, dropped | self.repeats.dropped(self.ids(rows), generator))


class Reweighted(Remedied):
    def combine(self, errors: Tensor, rows: Tensor) -> Tensor:
        return (errors * self.repeats.weights(self.ids(rows))).mean()


class NoisedCaptions(Remedied):
    def condition(
        self, encode: Conditioner, rows: Tensor, dropped: Tensor, generator: torch.Generator
    ) -> Conditioned:
        cross, globals_ = encode(rows, dropped)
        return self.repeats.noised(cross, self.ids(rows), generator), globals_


REMEDIES: dict[str, type[Remedied]] = {
    PLAIN: Remedied,
    "caption dropout": CaptionDropout,
    "reweighting": Reweighted,
    "noise on captions": NoisedCaptions,
}


@dataclass(frozen=True, eq=False)
class Material:
    """What all trainings share."""

    clips: list[Clip]
    sound: Tensor  # [n, t]
    ordinary: list[Clip]  # nothing was trained on their captions
    verifier: Verifier
    labels: dict[str, Clip]  # by caption


@cache
def material(seed: int = 0) -> Material:
    """The training clips, the ordinary prompts, and the rule, calibrated on other notes."""
    clips, sound = assets.training_set()
    rng, first = np.random.default_rng(seed), dict[str, int]()
    for row, clip in enumerate(clips):
        if clip.kind == "note" and clip.copies == 1:
            first.setdefault(clip.caption, row)
    rows = [list(first.values())[i] for i in rng.permutation(len(first))]
    ours, at = [], 0
    for copies, count in GROUPS:
        ours += [replace(clips[row], copies=copies) for row in rows[at : at + count]]
        at += count
    wavs = sound[rows[:at]]
    captions = {clip.caption for clip in ours}
    others = [i for i, clip in enumerate(clips) if clip.caption not in captions]
    held = [others[i] for i in rng.permutation(len(others))[:HELD_OUT]]
    ordinary = [clips[row] for row in rows[at : at + ORDINARY]]
    return Material(
        ours,
        wavs,
        ordinary,
        verifier(ours, wavs, sound[held], assets.pipeline().vae),
        {clip.caption: clip for clip in [*ours, *ordinary]},
    )


def monitor(
    known: Material, previews: Previews, folder: Path, every: int, track: Sequence[Tracker]
) -> Monitor:
    """The monitor of one training: of all repeated captions, and of ordinary ones."""
    repeated = tuple(clip.caption for clip in known.clips if clip.copies > 1)
    return Monitor(
        previews,
        known.verifier,
        Panel(repeated, tuple(clip.caption for clip in known.ordinary)),
        folder,
        every=every,
        share=None,
        limit=LIMIT,
        act="warn",
        scorer=assets.adherence,
        track=track,
    )


def run(
    out: Path,
    only: Sequence[str] = (),
    steps: int = STEPS,
    track: Sequence[Tracker] = (),
    report: Report = lambda what, done, total: None,
) -> None:
    """Train with some remedies, each into a folder of `out`; what is there is gone on with.

    Args:
        out: the folder of all of them.
        only: names of remedies; by default all.
        steps: of each training.
        track: where the monitor's observations go, besides its log.
        report: called after each step.

    Raises:
        BadSetting: an unknown name, or a folder that was begun with other settings.
    """
    only = only or tuple(REMEDIES)
    for name in only:
        if name not in REMEDIES:
            raise BadSetting(f"expected a remedy among {', '.join(REMEDIES)}, got '{name}'")
    known = material()
    for name in only:
        folder = out / name.replace(" ", "-")
        previews = Previews()
        every = max(1, steps // (LOOKS if name == PLAIN else FEWER_LOOKS))
        watch = monitor(known, previews, folder, every, track)
        if watch.observations and watch.observations[-1].step >= steps:
            continue
        recipe = TrainingRecipe((Phase(steps, 5e-4, shift=10, tilt=0.05),))
        repeats = Repeats({clip.id: clip.copies for clip in known.clips})

        def step(done: int, loss: float, averaged: Any) -> None:
            previews.pipe = averaged  # noqa: B023  (used while it is this one)
            watch(done)  # noqa: B023
            report(name, done, steps)  # noqa: B023

        train(
            [replace(clip, split="train") for clip in known.clips],
            known.sound.numpy(),
            recipe,
            step,
            REMEDIES[name](clips=known.clips, repeats=repeats),
            Checkpoint(folder / "training.pt"),
        )


# ------------------------------------------------------------------------------- the results


@dataclass(frozen=True)
class Outcome:
    """One way of training, at its end."""

    name: str
    step: int
    copies: Estimate  # of the captions of clips that are repeated most often
    adherence: tuple[float, float, float]  # of the same
    ordinary: tuple[float, float, float]  # adherence of ordinary prompts


def observations(out: Path, name: str, steps: int = STEPS) -> list[Observation]:
    """What the monitor of a finished training saw.

    Raises:
        BadSetting: it is not finished.
    """
    folder = out / name.replace(" ", "-")
    _, found = read_log(folder)
    if not found or found[-1].step < steps:
        raise BadSetting(
            f"the training '{name}' in '{out}' is not finished; go on with 'anechoic demo "
            f"remedies -o {out}'"
        )
    return found


def copies_by_group(found: Observation, copies: int) -> Estimate:
    """The copy rate of the captions of clips that are repeated so many times."""
    labels = material().labels
    sounds = [one for one in found.group(True) if labels[one.prompt].copies == copies]
    hits = [float(one.status == "copy") for one in sounds]
    return share_interval(hits, [one.prompt for one in sounds])


def curve(out: Path, steps: int = STEPS) -> list[tuple[int, dict[int, Estimate]]]:
    """The copy rates of the plain training at each step that was looked at, by the copies."""
    repeated = [copies for copies, _ in GROUPS if copies > 1]
    return [
        (one.step, {copies: copies_by_group(one, copies) for copies in repeated})
        for one in observations(out, PLAIN, steps)
    ]


def outcome(name: str, found: Observation) -> Outcome:
    """The figures of an observation."""
    labels, most = material().labels, GROUPS[0][0]
    group = [one for one in found.group(True) if labels[one.prompt].copies == most]
    return Outcome(
        name,
        found.step,
        copies_by_group(found, most),
        interval([[one.adherence or 0.0] for one in group]),
        interval([[one.adherence or 0.0] for one in found.group(False)]),
    )


def outcomes(out: Path, steps: int = STEPS) -> list[Outcome]:
    """All ways of training, the plain one first, and early stopping after it."""
    found = {name: observations(out, name, steps) for name in REMEDIES}
    lines = [outcome(name, seen[-1]) for name, seen in found.items()]
    for one in found[PLAIN]:
        rate = one.copies()
        if rate is not None and rate.low >= LIMIT:
            return [lines[0], outcome(EARLY, one), *lines[1:]]
    return lines
