"""Whether a sound or an image is a copy of a training clip: the one answer that all commands give.

`Verifier` searches the whole training set and judges the result by a `Rule`: a given threshold, the
calibration of the index, or the index's own threshold. Without any of them, or if nothing could be
compared, the answer is "not judged", never "no copy".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from anechoic import audio
from anechoic.detectors import calibration
from anechoic.detectors.calibration import Calibration
from anechoic.detectors.nearest import NearestStretch, locate
from anechoic.detectors.protocol import NOTHING
from anechoic.display import facts_html
from anechoic.embedders import embedder as make_embedder
from anechoic.errors import BadSetting, IndexMismatch
from anechoic.index import Clip, TrainingIndex
from anechoic.types import Embedder, Match

CALIBRATE = (  # what to do where there is no rule
    "calibrate it with 'anechoic calibrate FOLDER', a folder of sound that is known not to be in "
    "the training set"
)
HIGHEST = 1e6  # no detector scores as high
COPY = "copy"  # the name of an index's threshold for copies
Status = Literal["copy", "no copy", "not judged"]
EXIT_CODES: Mapping[Status, int] = {"no copy": 0, "copy": 1, "not judged": 3}


@dataclass(frozen=True)
class Rule:
    """The score of a detector above which a sound is called a copy, and the threshold's origin.

    A calibrated threshold is a held-out score, so a copy scores above it; any other threshold is
    reached by a copy.
    """

    detector: str
    threshold: float
    origin: str  # where the threshold comes from, as a clause
    calibration: Calibration | None = None
    false_positive_rate: float | None = None  # None: unknown
    index: str | None = None  # the folder of the index that it belongs to; None: it was made here

    def status(self, score: float) -> Status:
        """The status that a score gives; a score that is not finite gives "not judged"."""
        if not math.isfinite(score):
            return "not judged"
        calibrated = self.calibration
        over = score >= self.threshold if calibrated is None else calibrated.exceeds(score)
        return "copy" if over else "no copy"

    def is_copy(self, score: float) -> bool:
        """Whether a score is that of a copy."""
        return self.status(score) == "copy"

    def to_dict(self) -> dict[str, Any]:
        """The rule for JSON."""
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
        detector: the name of the detector that decides.
        index: its `thresholds["copy"]` is used if there is nothing better.
        calibrations: by the names of their detectors.
        threshold: replaces all of these.
        false_positive_rate: the rate of a threshold that is not calibrated, if it is known.

    Returns:
        The rule; None if there is nothing to judge by.

    Raises:
        BadSetting: a threshold that is not finite.
    """
    if threshold is not None:
        if not abs(threshold) < HIGHEST:
            raise BadSetting(f"expected a score as the threshold, got {threshold:g}")
        return Rule(detector, threshold, "it was given", None, false_positive_rate, index.folder)
    if (known := calibrations.get(detector)) is not None:
        rate = known.false_positive_rate
        origin = f"calibrated on {len(known.null)} held-out sounds, at a false-positive rate of"
        return Rule(detector, known.threshold, f"{origin} {rate:.3g}", known, rate, index.folder)
    if COPY in index.thresholds:
        origin = f"the threshold for copies of index '{index.name}'"
        return Rule(
            detector, index.thresholds[COPY], origin, None, false_positive_rate, index.folder
        )
    return None


def without_rule(index: TrainingIndex, detector: str = "") -> str:
    """Why nothing can be judged where `find_rule` finds no rule, as a clause."""
    of = f" of '{detector}'" if detector else ""
    return f"index '{index.name}' has neither a calibration{of} nor a threshold"


@dataclass(frozen=True)
class Verdict:
    """Whether a sound is a copy, of which training clip, and where in both."""

    status: Status
    match: Match  # the nearest training clip: its row in the index, and where the two are alike
    clip: Clip | None  # that clip; None: nothing was compared
    p_value: float | None  # bounds how often held-out sound scores as high; None: not calibrated
    rule: Rule | None  # None: there was nothing to judge by
    reason: str = ""  # why it was not judged

    @property
    def score(self) -> float:
        """Similarity to the nearest training clip; minus infinity: nothing was compared."""
        return self.match.score

    @property
    def copy(self) -> bool | None:
        """Whether it is a copy; None: not judged."""
        return None if self.status == "not judged" else self.status == "copy"

    def _repr_html_(self) -> str:
        clip = {} if self.clip is None else {
            "nearest training clip": f"{self.clip.caption} ({self.clip.id})",
            "similarity": f"{self.score:.3f}",
        }  # fmt: skip
        limit = {} if self.rule is None else {"limit": f"{self.rule.threshold:.3f}"}
        p_value = {} if self.p_value is None else {"p-value": f"{self.p_value:.3g}"}
        reason = {"reason": self.reason} if self.reason else {}
        return facts_html(self.status, {**clip, **limit, **p_value, **reason})

    def to_dict(self) -> dict[str, Any]:
        """The verdict for JSON: times in seconds, and the clip with all its fields."""
        match = self.match
        found = {} if self.clip is None else {
            "score": match.score,
            "start_s": match.start_s,
            "match_start_s": match.match_start_s,
            "seconds": match.length_s,
            "resolution_s": match.resolution_s,
            "clip": {**asdict(self.clip), "row": match.row},
        }  # fmt: skip
        if found and match.semitones is not None:
            found |= {name: getattr(match, name) for name in ("semitones", "tempo", "backwards")}
        reason = {"reason": self.reason} if self.reason else {}
        return {"verdict": self.status, "copy": self.copy, "p_value": self.p_value,
                **reason, **found}  # fmt: skip


def together(verdicts: Iterable[Verdict]) -> Status:
    """The status of several verdicts, as by several indexes: a copy if one says so, and no copy
    only if each of them does."""
    statuses = {verdict.status for verdict in verdicts}
    if "copy" in statuses:
        return "copy"
    return "no copy" if statuses == {"no copy"} else "not judged"


def weigh(
    match: Match,
    clips: Sequence[Clip],
    rule: Rule | None,
    calibration: Calibration | None,
    unruled: str,
) -> Verdict:
    """The verdict on what a detector found.

    Args:
        match: of a detector.
        clips: the training clips that its row numbers.
        rule: how its score is judged.
        calibration: gives the p-value, if there is one.
        unruled: the reason for not judging it if there is no rule, as a clause.
    """
    status: Status = "not judged"
    p_value: float | None = None
    reason = ""
    if match.score == -math.inf:
        reason = "it is silent, too short, or has too little in it to be compared"
    elif not math.isfinite(match.score):
        reason = f"its score is {match.score}"
    elif rule is None:
        reason = unruled
    else:
        status = rule.status(match.score)
        p_value = None if calibration is None else calibration.p_value(match.score)
    clip = match.clip_in(clips) if match.compared and match.row is not None else None
    return Verdict(status, match, clip, p_value, rule, reason)


@dataclass(frozen=True, eq=False)
class Verifier:
    """Compares sound, or images, with a whole training set, and judges by one rule.

    Args:
        index: the training set.
        embedder: the one that built the index.
        rule: how scores are judged; None: sounds are compared, but not judged.
        calibration: gives the p-values, whatever the rule is; None: there are none.

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
        """A verifier for an index in memory, by the best rule that is there (`find_rule`)."""
        detector, known = NearestStretch(index, embedder).name, calibrations or {}
        rule = find_rule(detector, index, known, threshold)
        return cls(index, embedder, rule, known.get(detector))

    @classmethod
    def load(
        cls,
        folder: str | Path,
        embedder: str | None = None,
        threshold: float | None = None,
        index: TrainingIndex | None = None,
    ) -> Verifier:
        """A verifier for the index in a folder, with the calibration that is stored there.

        Args:
            folder: the folder of the index.
            embedder: the name of an embedder; by default, the one that the index names.
            threshold: a cosine; sound that reaches it is a copy. Replaces the calibrated one.
            index: the same index, if it is open already, such as one that others search too.

        Raises:
            IndexMismatch: no index, one that another embedder built, or a calibration that is
                needed and older than the last change of the index.
            UnknownEmbedder: the embedder does not exist or is not installed.
            BadSetting: a threshold that is not a cosine.
        """
        if threshold is not None and not -1 <= threshold <= 1:
            raise BadSetting(f"a threshold is a cosine similarity, from -1 to 1, got {threshold:g}")
        index = TrainingIndex.load(folder) if index is None else index
        made = make_embedder(embedder or index.embedder_name, trusted=embedder is not None)
        index.check_embedder(made)
        calibrations = calibration.read(folder, needed=threshold is None)
        return cls.of(index, made, calibrations, threshold)

    def file(self, row: int) -> Path | None:
        """The sound file of a training clip, if the index names one."""
        return self.index.file(row)

    def over(self, index: TrainingIndex) -> Verifier:
        """The same rule over another index of the same clips, such as one for another model."""
        return replace(self, index=index)

    def __call__(self, x: Tensor, sample_rate: int = 0) -> Verdict:
        """Judge one sound [c, t] or, with an embedder of images, one image [3, h, w] in [0, 1].

        The mix of a sound is compared, and each channel that differs from it, over every stretch
        as long as the index's rows.

        Raises:
            BadAudio: not usable sound.
        """
        return self.weigh(self._search(x, sample_rate))

    def weigh(self, match: Match) -> Verdict:
        """Judge the result of a search of this index; its row is a row of the index."""
        if match.compared and not math.isfinite(match.score):
            raise IndexMismatch(
                f"a search of index '{self.index.name}' gives the score {match.score}; it or the "
                "embedder is damaged: check it with 'anechoic index info --check'"
            )
        return weigh(match, self.index.clips, self.rule, self.calibration, without_rule(self.index))

    def _search(self, x: Tensor, sample_rate: int) -> Match:
        if self.embedder.sample_rate == 0:
            near = self.index.search(self.index.project(self.embedder(x[None], 0)), 1)
            return Match(min(near.scores.item(), 1.0), int(near.rows.item()))
        audio.require_sound(x, "the sound", allow_silence=True)
        if audio.is_silent(audio.mono(x[None], sample_rate)):
            return NOTHING
        return locate(x, sample_rate, self.index, self.embedder)[0]
