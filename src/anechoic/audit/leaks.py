"""Held-out sound that holds a training clip: it would raise a threshold above copies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from statistics import median

import torch

from anechoic.audit.examine import MATCHED, Examiner, SampleResult
from anechoic.detectors import Calibration, Detector
from anechoic.errors import AnechoicError, BadSetting, some
from anechoic.index import Sound

NEAR = 0.9  # of the way from the median held-out score to what the training clip itself scores
LOOKED_AT = 3  # the search ends at as many scores, from the highest down, that are not as near
CLIPS = 32  # training clips, spread evenly, that a threshold has to call copies
FAILING = 0.1  # of them may score below it themselves, such as clips that hardly sound


def find_leaks(results: Sequence[SampleResult], examiner: Examiner) -> dict[int, str]:
    """The numbers of held-out sounds that a detector finds as near to a training clip as that clip
    is to itself, and why they cannot be used.

    The detectors of the examiner decide, and the correlation of the waveform with the matched clip.
    The median of the scores does not move before half of the sounds are leaks.
    """
    found: dict[int, str] = {}
    detectors = {detector.name: detector for detector in examiner.detectors}
    for name in dict.fromkeys(name for result in results for name in result.matches):
        if name not in detectors and not (name.startswith("correlation") and MATCHED in name):
            continue
        own = _own_scores(detectors.get(name), examiner)
        matches = [(result.matches.get(name), number) for number, result in enumerate(results)]
        scored = [(match, number) for match, number in matches if match and match.compared]
        middle, others = median([match.score for match, _ in scored] or [0.0]), 0
        for match, number in sorted(scored, key=lambda pair: -pair[0].score):
            itself = own(match.row)
            if not middle + NEAR * (itself - middle) <= match.score > middle:
                others += 1
                if others == LOOKED_AT:
                    break
                continue
            clip = "" if match.row is None else f" '{examiner.training.clips[match.row].id}'"
            found.setdefault(
                number,
                f"it holds training clip{clip}: '{name}' scores it {match.score:.3f}, and the clip "
                f"itself {itself:.3f}; hold out sound that is not in the training set",
            )
    return found


def require_copies(calibrations: Mapping[str, Calibration], examiner: Examiner) -> None:
    """Refuse thresholds that would not call the training clips themselves copies.

    Raises:
        BadSetting: naming some of them.
    """
    count = len(examiner.training.clips)
    numbers = torch.linspace(0, count - 1, min(count, CLIPS)).round().long().tolist()
    for detector in examiner.detectors:
        if detector.name not in calibrations:
            continue
        calibration, own = calibrations[detector.name], _own_scores(detector, examiner)
        missed = [number for number in numbers if not calibration.exceeds(own(number))]
        if len(missed) > FAILING * len(numbers):
            names = some([examiner.training.clips[number].id for number in missed])
            raise BadSetting(
                f"the threshold {calibration.threshold:.3f} of '{detector.name}' would call "
                f"{len(missed)} of {len(numbers)} training clips themselves no copies, such as "
                f"{names}; hold out sound that is not in the training set"
            )


def _own_scores(detector: Detector | None, examiner: Examiner) -> Callable[[int | None], float]:
    """A function from the number of a training clip to the score of its own sound; 1, which is a
    cosine with itself, if its sound is not available."""

    @cache
    def own(number: int | None) -> float:
        sound = "" if number is None or detector is None else examiner.training.sound(number)
        if not isinstance(sound, Sound) or detector is None:
            return 1.0
        try:
            (match,) = detector(sound.wav[None], sound.sample_rate)
        except AnechoicError:
            return 1.0
        return match.score if match.compared else 1.0

    return own
