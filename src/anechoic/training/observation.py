"""What a monitor finds at one step of a training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anechoic.errors import BadSetting
from anechoic.metrics import Estimate, share_interval
from anechoic.parsing import parse_object, parse_record
from anechoic.verdict import Status

LOG = "monitor.jsonl"  # the file of a monitor's settings and observations, a line each


@dataclass(frozen=True)
class PanelSound:
    """One generation of the panel, and the verdict on it."""

    prompt: str
    trained: bool  # the prompt is the caption of a training clip
    seed: int
    status: Status
    score: float | None  # similarity to the nearest training clip; None: not compared
    clip: str | None  # the id of that clip
    distance: float | None  # mean d_t of the evaluations; None: one half was not computed
    adherence: float | None  # by the scorer; None: there is none, or the sound was not decoded
    far: bool = False  # far from all clips in latents, so it was not decoded, and is no copy


@dataclass(frozen=True)
class Observation:
    """The panel at one step of a training.

    `trained_s` and `spent_s` are the seconds since the training began, and those of them that the
    monitor took so far.
    """

    step: int
    sounds: tuple[PanelSound, ...]
    trained_s: float
    spent_s: float
    worst: tuple[str, ...] = ()  # files of the sounds that are nearest to training clips

    def group(self, trained: bool) -> list[PanelSound]:
        """The sounds of training captions, or of ordinary prompts."""
        return [sound for sound in self.sounds if sound.trained is trained]

    def copies(self, trained: bool = True) -> Estimate | None:
        """The share of copies among the judged sounds, with its 95 % interval over prompts; None:
        fewer than two prompts could be judged."""
        judged = [sound for sound in self.group(trained) if sound.status != "not judged"]
        try:
            return share_interval(
                [float(sound.status == "copy") for sound in judged],
                [sound.prompt for sound in judged],
            )
        except BadSetting:
            return None

    def mean(self, what: str, trained: bool = True) -> float | None:
        """The mean "distance", "score" or "adherence" of the sounds that have it; None: none has.

        >>> Observation(5, (), 0, 0).mean("score") is None
        True
        """
        known = [v for sound in self.group(trained) if (v := getattr(sound, what)) is not None]
        return math.fsum(known) / len(known) if known else None

    @property
    def share(self) -> float:
        """The monitor's share of the time so far."""
        return self.spent_s / self.trained_s if self.trained_s else 0.0

    def scalars(self) -> dict[str, float]:
        """The figures that a tracker plots, by name."""
        found: dict[str, float] = {"time_share": self.share}
        for name, trained in (("training", True), ("ordinary", False)):
            if (copies := self.copies(trained)) is not None:
                found[f"copies/{name}"] = copies.value
                found[f"copies/{name}_low"] = copies.low
                found[f"copies/{name}_high"] = copies.high
            for what in ("distance", "score", "adherence"):
                if (mean := self.mean(what, trained)) is not None:
                    found[f"{what}/{name}"] = mean
        return found

    def scores(self, trained: bool = True) -> list[float]:
        """The similarities of the compared sounds: what a histogram is drawn of."""
        return [s.score for s in self.group(trained) if s.score is not None]

    def sentence(self) -> str:
        """The observation in a line."""
        parts = []
        for name, trained in (("training captions", True), ("ordinary prompts", False)):
            group = self.group(trained)
            if not group:
                continue
            found, copies = self.copies(trained), sum(s.status == "copy" for s in group)
            interval = f" ({found.low:.0%} to {found.high:.0%})" if found else ""
            many = "1 copy" if copies == 1 else f"{copies} copies"
            text = f"{many} of {len(group)} from {name}{interval}"
            if unjudged := sum(s.status == "not judged" for s in group):
                text += f", {unjudged} not judged"
            for what, symbol in (("distance", "d_t"), ("adherence", "adherence")):
                if (mean := self.mean(what, trained)) is not None:
                    text += f", {symbol} {mean:.3g}"
            parts.append(text)
        return f"step {self.step}: {'; '.join(parts)}; {self.share:.1%} of the time"

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the record, and the figures that are made of it."""
        return {**asdict(self), "scalars": self.scalars()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], what: str) -> Observation:
        """The inverse of `to_dict`.

        Raises:
            BadSetting: it is not such a record.
        """
        record = {name: value for name, value in content.items() if name != "scalars"}
        return parse_record(cls, record, what, BadSetting)


def read_log(folder: Path) -> tuple[dict[str, Any], list[Observation]]:
    """The settings of the monitor that wrote to a folder, and what it saw.

    Raises:
        BadSetting: no log, or a damaged one.
    """
    log = folder / LOG
    if not log.is_file():
        raise BadSetting(f"expected the log of a monitor, and '{log}' does not exist")
    what = f"the log '{log}'"
    settings, *rows = [
        parse_object(line, what, BadSetting, "move it away")
        for line in log.read_text("utf-8").splitlines() or [""]
    ]
    return settings, [Observation.from_dict(row, what) for row in rows]
