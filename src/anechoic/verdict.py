"""Is this sound, or this image, a copy of a training clip? The one answer that every command gives.

`Verifier` searches the whole training set and weighs what it finds by a `Rule`: the threshold that
was given, the calibration of the index, or the index's own. Without any of them, and where nothing
could be compared, the answer is "not judged": never "no copy".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from anechoic import audio
from anechoic.detectors import calibration
from anechoic.detectors.calibration import Calibration
from anechoic.detectors.nearest import NearestStretch, locate
from anechoic.detectors.protocol import NOTHING
from anechoic.embedders import embedder as make_embedder
from anechoic.errors import BadSetting, IndexMismatch
from anechoic.index import Clip, TrainingIndex
from anechoic.types import Embedder, Match

COPY = "copy"  # the threshold of an index above which a score is called a copy
Status = Literal["copy", "no copy", "not judged"]
EXIT_CODES: Mapping[Status, int] = {"no copy": 0, "copy": 1, "not judged": 3}


@dataclass(frozen=True)
class Rule:
    """The score of a detector above which a sound is called a copy, and where it comes from.

    A calibrated threshold is a held-out score, so a copy scores above it; any other threshold is
    reached by a copy.
    """

    detector: str
    threshold: float
    origin: str  # where the threshold comes from, as a clause
    calibration: Calibration | None = None
    false_positive_rate: float | None = None  # None: not known

    def status(self, score: float) -> Status:
        """What a score says. One that is not finite compares nothing."""
        if not math.isfinite(score):
            return "not judged"
        known = self.calibration
        over = score >= self.threshold if known is None else known.exceeds(score)
        return "copy" if over else "no copy"

    def is_copy(self, score: float) -> bool:
        """Whether a score is that of a copy."""
        return self.status(score) == "copy"

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "detector": self.detector,
            "threshold": self.threshold,
            "origin": self.origin,
            "false_positive_rate": self.false_positive_rate,
            "held_out": None if self.calibration is None else len(self.calibration.null),
        }


def find_rule(
    detector: str,
    index: TrainingIndex,
    calibrations: Mapping[str, Calibration],
    threshold: float | None = None,
    false_positive_rate: float | None = None,
) -> Rule | None:
    """The rule of a detector: a given threshold, its calibration, or the index's own threshold.

    Args:
        detector: the name of the deciding one.
        index: its `thresholds["copy"]` serves where nothing better is known.
        calibrations: by the names of detectors.
        threshold: replaces all of these.
        false_positive_rate: of a threshold that is not calibrated, where it is known.

    Returns:
        None where there is nothing to judge by.

    Raises:
        BadSetting: a threshold that is not finite.
    """
    if threshold is not None:
        if not math.isfinite(threshold):
            raise BadSetting(f"expected a number as the threshold, got {threshold:g}")
        return Rule(detector, threshold, "it was given", None, false_positive_rate)
    if (known := calibrations.get(detector)) is not None:
        rate = known.false_positive_rate
        origin = f"calibrated on {len(known.null)} held-out sounds, at a false-positive rate of"
        return Rule(detector, known.threshold, f"{origin} {rate:.3g}", known, rate)
    if COPY in index.thresholds:
        origin = f"the threshold for copies of index '{index.name}'"
        return Rule(detector, index.thresholds[COPY], origin, None, false_positive_rate)
    return None


def require_rule(rule: Rule | None, detector: str, index: TrainingIndex) -> Rule:
    """The rule, where there is one.

    Raises:
        BadSetting: there is nothing to judge by.
    """
    if rule is None:
        raise BadSetting(
            f"neither '{detector}' nor index '{index.name}' is calibrated; calibrate it with "
            "'anechoic calibrate FOLDER --index INDEX' on real sound that is not in the training "
            "set, or give '--held-out FOLDER' or '--threshold' here"
        )
    return rule


@dataclass(frozen=True)
class Verdict:
    """Whether a sound is a copy, of which training clip, and where in both."""

    status: Status
    match: Match  # the nearest training clip: its row in the index, and where the two are alike
    clip: Clip | None  # that clip; None: nothing was compared
    p_value: float | None  # at most how often held-out sound scores as high; None: not calibrated
    rule: Rule | None  # None: there is nothing to judge by
    reason: str = ""  # why it was not judged

    @property
    def score(self) -> float:
        """Similarity to the nearest training clip; minus infinity: nothing was compared."""
        return self.match.score

    @property
    def copy(self) -> bool | None:
        """Whether it is a copy; None: not judged."""
        return None if self.status == "not judged" else self.status == "copy"

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it: times in seconds, the clip with all that is known of it."""
        match = self.match
        found = {} if self.clip is None else {
            "score": match.score,
            "start_s": match.start_s,
            "match_start_s": match.match_start_s,
            "seconds": match.length_s,
            "resolution_s": match.resolution_s,
            "clip": {**asdict(self.clip), "row": match.row},
        }  # fmt: skip
        reason = {"reason": self.reason} if self.reason else {}
        return {"verdict": self.status, "copy": self.copy, "p_value": self.p_value,
                **reason, **found}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Verifier:
    """Compares sound, or images, with a whole training set, and judges by one rule.

    Args:
        index: the training set.
        embedder: the one that built the index.
        rule: None: nothing is judged, only compared.
        calibration: gives p-values, whatever the rule is; None: not calibrated.

    Raises:
        IndexMismatch: another embedder built the index.
    """

    index: TrainingIndex
    embedder: Embedder
    rule: Rule | None
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        self.index.check_embedder(self.embedder)

    @classmethod
    def of(
        cls,
        index: TrainingIndex,
        embedder: Embedder,
        calibrations: Mapping[str, Calibration] | None = None,
        threshold: float | None = None,
    ) -> Verifier:
        """A verifier by what is known of an index that is in memory."""
        detector, known = NearestStretch(index, embedder).name, calibrations or {}
        rule = find_rule(detector, index, known, threshold)
        return cls(index, embedder, rule, known.get(detector))

    @classmethod
    def load(
        cls,
        folder: str | Path,
        embedder: str | None = None,
        threshold: float | None = None,
    ) -> Verifier:
        """A verifier by the index of a folder and the calibration that is stored with it.

        Args:
            folder: of the index.
            embedder: its name; by default the one that the index names.
            threshold: a cosine from which on a sound is a copy, instead of the calibrated one.

        Raises:
            IndexMismatch: no index, one that another embedder built, or a calibration of an index
                that was changed since, if it is needed.
            UnknownEmbedder: the embedder is not to be had.
            BadSetting: a threshold that is not a cosine.
        """
        if threshold is not None and not -1 <= threshold <= 1:
            raise BadSetting(f"a threshold is a cosine similarity, from -1 to 1, got {threshold:g}")
        index = TrainingIndex.load(folder)
        made = make_embedder(embedder or index.embedder_name, trusted=embedder is not None)
        index.check_embedder(made)
        calibrations = calibration.read(folder, needed=threshold is None)
        return cls.of(index, made, calibrations, threshold)

    def over(self, index: TrainingIndex) -> Verifier:
        """The same rule over another index of the same clips, such as that of another model."""
        return replace(self, index=index)

    def __call__(self, x: Tensor, sample_rate: int = 0) -> Verdict:
        """Judge one sound [c, t] or, with an embedder of images, one image [3, h, w] in [0, 1].

        A sound is compared as one channel, over every stretch as long as the index's rows.

        Raises:
            BadAudio: not usable sound.
        """
        return self.weigh(self._search(x, sample_rate))

    def weigh(self, match: Match) -> Verdict:
        """Judge what a search of this index found, by the row of the index."""
        status, rule, p_value, reason = "not judged", self.rule, None, ""
        if not match.compared:
            reason = "it is silent, or too short to be compared"
        elif not math.isfinite(match.score):
            raise IndexMismatch(
                f"a search of index '{self.index.name}' gives the score {match.score}; it or the "
                "embedder is damaged: check it with 'anechoic index info --check'"
            )
        elif rule is None:
            reason = f"index '{self.index.name}' has neither a calibration nor a threshold"
        else:
            status = rule.status(match.score)
            p_value = self.calibration and self.calibration.p_value(match.score)
        clip = match.clip_in(self.index.clips) if match.compared else None
        return Verdict(status, match, clip, p_value, rule, reason)  # type: ignore[arg-type]

    def _search(self, x: Tensor, sample_rate: int) -> Match:
        if self.embedder.sample_rate == 0:
            near = self.index.search(self.index.project(self.embedder(x[None], 0)), 1)
            return Match(min(near.scores.item(), 1.0), int(near.rows.item()))
        audio.require_sound(x, "the sound", allow_silence=True)
        if audio.is_silent(audio.mono(x[None], sample_rate)):
            return NOTHING
        return locate(x, sample_rate, self.index, self.embedder)[0]
