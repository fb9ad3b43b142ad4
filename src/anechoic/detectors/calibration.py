"""Calibrates detectors: thresholds, p-values and rates, from scores on held-out real sound.

A threshold belongs to a calibration, not to a detector: the *null* is what a detector scores on
real recordings that are not in the training set but could have been.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from anechoic.detectors.protocol import Detector, TrainingSound
from anechoic.errors import BadAudio, BadSetting, IndexMismatch, OutputExists
from anechoic.parsing import parse_object, parse_record
from anechoic.storage import Storage

FORMAT = 2
FILE, MANIFEST = "calibration.json", "manifest.json"


@dataclass(frozen=True)
class Calibration:
    """A detector's threshold at a chosen false-positive rate.

    With n held-out scores the p-value of a score s is conformal, valid for any distribution:

        p(s) = (1 + #{null >= s}) / (n + 1)

    and a clip is called a copy if p <= the rate, that is, if s is above the k-th largest held-out
    score, k = floor(rate * (n + 1)).

    Raises:
        BadSetting: a rate or confidence outside (0, 1), a score that is not finite, or a rate that
            so few held-out scores cannot resolve.

    Source: Vovk, Gammerman and Shafer, Algorithmic learning in a random world, 2005.
    """

    detector: str  # its name, which includes all its settings
    null: tuple[float, ...] = field(repr=False)  # scores on held-out real sound
    false_positive_rate: float = 0.01
    confidence: float = 0.95
    seconds: float | None = None  # median length of the held-out sound; None: unknown

    def __post_init__(self) -> None:
        for name in ("false_positive_rate", "confidence"):
            if not 0 < getattr(self, name) < 1:
                raise BadSetting(f"expected {name} between 0 and 1, got {getattr(self, name)}")
        object.__setattr__(self, "null", tuple(sorted(map(float, self.null))))
        if not all(map(math.isfinite, self.null)):
            raise BadSetting(
                f"a held-out score of '{self.detector}' is NaN or infinite, as for a clip that "
                "could not be compared; hold out clips that are not silent, and long enough"
            )
        if self._k < 1:
            needed = math.ceil(1 / self.false_positive_rate - 1e-9) - 1
            raise BadSetting(
                f"a false-positive rate of {self.false_positive_rate:g} needs {needed} held-out "
                f"scores or more, got {len(self.null)}; hold out more, or choose a rate of "
                f"{1 / (len(self.null) + 1):.3g} or above"
            )

    @property
    def _k(self) -> int:
        return math.floor(self.false_positive_rate * (len(self.null) + 1) + 1e-9)

    @property
    def threshold(self) -> float:
        """The score above which a clip is a copy."""
        return self.null[-self._k]

    @property
    def threshold_interval(self) -> tuple[float, float]:
        """An interval for the score with exactly that rate above it, by order statistics.

        The upper end is infinite if the held-out scores do not bound it.
        """
        return self.quantile(1 - self.false_positive_rate)[1:]

    def quantile(self, share: float) -> tuple[float, float, float]:
        """The score that this share of held-out sound stays under, and its interval.

        The interval is by order statistics, and holds for any distribution; an end that the
        held-out scores do not bound is infinite.

        >>> Calibration("d", tuple(range(1, 100))).quantile(0.25)
        (25.0, 17.0, 34.0)
        """
        from scipy.stats import binom

        n, tail = len(self.null), (1 - self.confidence) / 2
        low = int(binom.ppf(tail, n, share))
        high = int(binom.ppf(1 - tail, n, share)) + 1
        return (
            self.null[min(max(math.ceil(share * (n + 1) - 1e-9), 1), n) - 1],
            self.null[low - 1] if low else -math.inf,
            self.null[high - 1] if high <= n else math.inf,
        )

    @property
    def false_positive_interval(self) -> tuple[float, float]:
        """An interval for this threshold's true rate: Beta(k, n + 1 - k) for any distribution."""
        from scipy.stats import beta

        tail, k, n = (1 - self.confidence) / 2, self._k, len(self.null)
        low, high = beta.ppf([tail, 1 - tail], k, n + 1 - k)
        return float(low), float(high)

    def p_value(self, score: float) -> float:
        """The share of held-out sound that scores at least as high, this clip included.

        >>> Calibration("d", tuple(range(99))).p_value(98.5)
        0.01
        """
        if math.isnan(score):
            raise BadSetting(f"a score of '{self.detector}' is NaN; score it again")
        at_least = len(self.null) - int(np.searchsorted(self.null, score, side="left"))
        return (1 + at_least) / (len(self.null) + 1)

    def exceeds(self, score: float) -> bool:
        """Whether a score is above the threshold, so that its sound is a copy."""
        return score > self.threshold

    def among(self, detectors: int) -> Calibration:
        """This calibration as that of one of several detectors, any of which finds copies.

        They share the rate, so that together they call no more held-out sound a copy than one
        would.

        Raises:
            BadSetting: too few held-out scores for the share of the rate.

        Source: Bonferroni's inequality.
        """
        return replace(self, false_positive_rate=self.false_positive_rate / detectors)

    def to_dict(self) -> dict[str, Any]:
        """The calibration for JSON."""
        return {
            "detector": self.detector,
            "false_positive_rate": self.false_positive_rate,
            "confidence": self.confidence,
            "threshold": self.threshold,
            "seconds": self.seconds,
            "null": list(self.null),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Calibration:
        """Read the output of `to_dict`; the threshold is computed again.

        Raises:
            IndexMismatch: the content is damaged.
        """
        fields = {name: value for name, value in content.items() if name != "threshold"}
        return parse_record(cls, fields, "a calibration", IndexMismatch, "calibrate again")


def family_p_value(p_values: Sequence[float]) -> float:
    """The p-value of several detectors together, any of which finds copies: the smallest of
    theirs, times their number (Bonferroni). It is at most a rate where one of them exceeds its
    threshold `among` them.

    >>> family_p_value([0.5, 0.002])
    0.004
    """
    return min(1.0, len(p_values) * min(p_values))


def calibrate(
    detector: Detector, held_out: Iterable[TrainingSound], false_positive_rate: float = 0.01
) -> Calibration:
    """Calibrate a detector of sound on held-out recordings.

    Args:
        detector: fitted to the training set.
        held_out: real sound like that of the training set, but not in it, and as long as the sound
            to judge: a longer clip has more parts that may resemble something by chance.
        false_positive_rate: the share of such sound that may be called a copy.

    Raises:
        BadAudio: a recording is not usable sound, is silent, or too short for the detector.
        BadSetting: too few recordings for the rate.
    """
    scores, lengths = [], []
    for number, sound in enumerate(held_out):
        (match,) = detector(sound.wav[None], sound.sample_rate)
        if not match.compared:
            raise BadAudio(
                f"held-out recording {number} is silent, too short or too bare for "
                f"'{detector.name}'; leave it out"
            )
        scores.append(match.score)
        lengths.append(sound.wav.shape[-1] / sound.sample_rate)
    seconds = median(lengths) if lengths else None
    return Calibration(detector.name, tuple(scores), false_positive_rate, seconds=seconds)


# --------------------------------------------------------------------------- with the index


def write(
    folder: str | Path, calibrations: Sequence[Calibration], *, overwrite: bool = False
) -> str:
    """Store calibrations in the folder of the index that they belong to, and return their path.

    Raises:
        IndexMismatch: the folder has no index.
        OutputExists: calibrations exist, and `overwrite` is off.
    """
    place, manifest = require_free(folder, overwrite)
    content = {
        "format": FORMAT,
        "index": hashlib.sha256(manifest).hexdigest(),
        "calibrations": [calibration.to_dict() for calibration in calibrations],
    }
    content["sha256"] = _hash(content)
    place.write(FILE, (json.dumps(content, allow_nan=False) + "\n").encode())
    return place.path(FILE)


def require_free(folder: str | Path, overwrite: bool = False) -> tuple[Storage, bytes]:
    """The storage of an index and its manifest, after a check that calibrations can be written.

    Raises:
        IndexMismatch: the folder has no index.
        OutputExists: calibrations exist, and `overwrite` is off.
    """
    place, manifest = _index(folder)
    if place.exists(FILE) and not overwrite:
        path = place.path(FILE)
        raise OutputExists(f"'{path}' exists already; replace it with '--overwrite'")
    return place, manifest


def read(folder: str | Path, needed: bool = True) -> dict[str, Calibration]:
    """The calibrations of an index, by the names of their detectors; empty if it has none.

    Args:
        folder: the folder of the index.
        needed: whether the verdict depends on them. If not, calibrations of another format, or
            from before the last change of the index, are ignored.

    Raises:
        IndexMismatch: no index, or calibrations that are damaged or edited; or they are needed, and
            have another format or are from before the last change of the index.
    """
    place, manifest = _index(folder)
    if not place.exists(FILE):
        return {}
    name, stored = place.path(FILE), _parse(place.read(FILE), place.path(FILE))
    expected = hashlib.sha256(manifest).hexdigest()
    if stored["format"] == FORMAT and stored["index"] == expected:
        return {one.detector: one for one in map(Calibration.from_dict, stored["calibrations"])}
    if not needed:
        return {}
    raise IndexMismatch(
        f"expected format {FORMAT} and index {expected[:8]} in '{name}', got format "
        f"{stored['format']} and index {str(stored['index'])[:8]}: the index has changed since; "
        "calibrate again with '--overwrite'"
    )


def _index(folder: str | Path) -> tuple[Storage, bytes]:
    place = Storage(folder)
    if not place.exists(MANIFEST):
        raise IndexMismatch(f"index '{folder}' does not exist (no {MANIFEST}); build it first")
    return place, place.read(MANIFEST)


def _parse(content: bytes, name: str) -> dict[str, Any]:
    """Stored calibrations, checked against their own hash."""
    try:
        stored = parse_object(content, f"'{name}'", IndexMismatch, "calibrate again")
        whole = stored["format"] != FORMAT or stored.pop("sha256", None) == _hash(stored)
        if not all(
            isinstance(row, dict) for row in [stored["index"] and {}, *stored["calibrations"]]
        ):
            raise TypeError("not a list of calibrations")
    except (KeyError, TypeError) as error:
        raise IndexMismatch(f"'{name}' is damaged ({error!r}); calibrate again") from error
    if not whole:
        raise IndexMismatch(
            f"'{name}' is damaged or was edited: its hash differs; restore it, or calibrate again "
            "with '--overwrite'"
        )
    return stored


def _hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
