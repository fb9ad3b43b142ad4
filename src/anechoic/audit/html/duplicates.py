"""Renders what stands in a training set more than once as one HTML page, with players."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anechoic.audit.html.media import data_uri, flac
from anechoic.audit.html.report import BUDGET, clock, environment, percent
from anechoic.audit.melody import MelodyPair
from anechoic.audit.training import TrainingSet
from anechoic.index import Sound
from anechoic.index.duplicates import Cluster, RankedClip

SHOWN, CAPTIONS, PLAYED = 100, 20, 6  # rows of the tables, clips of a cluster that are played
# clips of a fine-tuning of the demo that were drawn so many times as often as the others, and the
# share of their captions that gave a copy after 2,000 steps: docs/evidence/fine-tuning.md
MEASURED = {64: (0.88, 42), 16: (0.20, 10), 4: (0.10, 10)}


@dataclass(frozen=True)
class Player:
    """A clip to listen to; `uri` is empty where its sound is not here, or past the budget."""

    clip: str
    caption: str
    seconds: float
    uri: str
    detail: float | None  # bits a sample of lossless compression: a plain sound has few


def render_duplicates(
    training: TrainingSet,
    clusters: Sequence[Cluster],
    ranks: Sequence[RankedClip],
    melodies: Sequence[MelodyPair] | None = None,
    lost: Sequence[str] = (),
    command: str = "",
) -> str:
    """The page of a training set.

    Args:
        training: the clips, with their sound where it is here.
        clusters: from `anechoic.index.duplicates.duplicates`.
        ranks: from `anechoic.index.duplicates.ranked`.
        melodies: from `anechoic.audit.melody.same_melody`; None: not looked for.
        lost: clips whose melody could not be compared, with the reason.
        command: that made it, for its foot.
    """
    play = _Players(training, ranks)
    captions = Counter(one.clip.caption for one in ranks).most_common()
    alone = [one for one in ranks if one.alone]
    return (
        environment()
        .get_template("duplicates.html")
        .render(
            name=training.index.name,
            clusters=[
                (one, [play(clip.id) for clip in one.clips[:PLAYED]]) for one in clusters[:SHOWN]
            ],
            found=len(clusters),
            involved=sum(len(one.clips) for one in clusters),
            clips=len(ranks),
            melodies=None if melodies is None else [
                (one, play(training.clips[one.clip].id), play(training.clips[one.other].id))
                for one in melodies[:SHOWN]
            ],
            pairs=len(melodies or ()),
            lost=lost,
            captions=[(text, count) for text, count in captions[:CAPTIONS] if count > 1],
            over=sum(count > 1 for _, count in captions),
            alone=alone,
            ranks=[(one, play(one.clip.id)) for one in ranks[:SHOWN]],
            shown=SHOWN,
            measured=MEASURED,
            percent=percent,
            clock=clock,
            command=command,
        )
    )  # fmt: skip


class _Players:
    """Players of clips by their ids, each read once; their sound goes into the page up to 12 MB."""

    def __init__(self, training: TrainingSet, ranks: Sequence[RankedClip]) -> None:
        self.training, self.used = training, 0
        self.numbers = {clip.id: number for number, clip in enumerate(training.clips)}
        self.seconds = {one.clip.id: one.seconds for one in ranks}
        self.known: dict[str, Player] = {}

    def __call__(self, clip: str) -> Player:
        if clip not in self.known:
            self.known[clip] = self._player(clip)
        return self.known[clip]

    def _player(self, clip: str) -> Player:
        number = self.numbers[clip]
        sound = self.training.sound(number)
        caption = self.training.clips[number].caption
        if not isinstance(sound, Sound):
            return Player(clip, caption, self.seconds[clip], "", None)
        content = flac(np.asarray(sound.wav.T), sound.sample_rate)
        self.used += len(content)
        uri = data_uri("audio/flac", content) if self.used <= BUDGET else ""
        seconds = sound.wav.shape[-1] / sound.sample_rate
        return Player(clip, caption, seconds, uri, 8 * len(content) / sound.wav.numel())
