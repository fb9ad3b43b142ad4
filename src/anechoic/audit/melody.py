"""Pairs of training clips that are alike at another pitch or tempo, or backwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from anechoic.audit.training import TrainingSet
from anechoic.detectors import Calibration
from anechoic.detectors.transposed import Transposed
from anechoic.index import Sound
from anechoic.types import Match


@dataclass(frozen=True)
class MelodyPair:
    """Two clips, and how the second is found in the first."""

    clip: int  # number in the training set
    other: int
    match: Match


def same_melody(
    training: TrainingSet,
    calibration: Calibration,
    apart: Callable[[int, int], bool] = lambda clip, other: True,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[MelodyPair], list[str]]:
    """The pairs whose likeness exceeds a calibration of `Transposed`, the most alike first.

    A detector finds the nearest clip alone, which is the clip itself. So the set is halved again
    and again, by each bit of the clips' numbers, and one half is compared with the other: any two
    clips are in different halves once. It takes log2(n) comparisons a clip.

    Args:
        training: the clips, with their sound.
        calibration: of the detector on this set, from 'anechoic calibrate --detector transposed'.
        apart: whether two clips are worth naming, such as those that are not in one cluster.
        progress: called with the number of comparisons and the total.

    Returns:
        The pairs, and why other clips could not be compared.
    """
    read = {number: training.sound(number) for number in range(len(training.clips))}
    sounds = {number: sound for number, sound in read.items() if isinstance(sound, Sound)}
    lost = [f"{training.clips[n].id}: {why}" for n, why in read.items() if isinstance(why, str)]
    bits = max(sounds, default=0).bit_length()
    best: dict[frozenset[int], MelodyPair] = {}
    done = 0
    for bit in range(bits):
        ones = [number for number in sounds if number >> bit & 1]
        zeros = [number for number in sounds if not number >> bit & 1]
        detector = Transposed.fit([sounds[number] for number in zeros]) if zeros and ones else None
        for number in ones:
            done += 1
            progress(done, bits * len(sounds) // 2)
            if detector is not None:
                _add(best, number, zeros, detector, sounds[number], calibration)
    found = [one for one in best.values() if apart(one.clip, one.other)]
    return sorted(found, key=lambda one: -one.match.score), lost


def _add(
    best: dict[frozenset[int], MelodyPair],
    number: int,
    others: Sequence[int],
    detector: Transposed,
    sound: Sound,
    calibration: Calibration,
) -> None:
    (match,) = detector(sound.wav[None], sound.sample_rate)
    if match.row is None or not calibration.exceeds(match.score):
        return
    pair = MelodyPair(number, others[match.row], match)
    known = best.get(frozenset((pair.clip, pair.other)))
    if known is None or known.match.score < match.score:
        best[frozenset((pair.clip, pair.other))] = pair
