"""A melody is found on another instrument, in another key and tempo, and how it was changed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from support.detector_sounds import Sounding, noise
from support.melodies import CLARINET, ORGAN, RATE, Note, play, tune

from anechoic.detectors import NOTHING, Match, Notes
from anechoic.detectors.chains import OFF, OFF_S, SKIP, TEMPOS, Tunes, best_chain, worth_with
from anechoic.errors import BadAudio
from anechoic.transcription import Melody


def melody(notes: Sequence[Note]) -> Melody:
    """The notes as if heard."""
    start, length, pitch = zip(*notes, strict=True)
    return Melody(np.float32(start), np.float32(length), np.int16(pitch))


def tunes(*given: Sequence[tuple[float, int]]) -> Tunes:
    """Starts and pitches of melodies."""
    notes = [note for one in given for note in one]
    numbers = np.repeat(np.arange(len(given)), [len(one) for one in given])
    start, pitch = np.float32(notes).T
    return Tunes(start, pitch, numbers)


@pytest.fixture(scope="module")
def judge() -> Notes:
    return Notes.fit([Sounding(play(tune(seed), ORGAN), RATE) for seed in range(12)])


@pytest.fixture(scope="module")
def chance(judge: Notes) -> float:
    """The highest score of melodies that copy nothing."""
    return max(judge.find(melody(tune(seed))).score for seed in range(100, 150))


def one(judge: Notes, wav: torch.Tensor) -> Match:
    (match,) = judge(wav[None], RATE)
    return match


@pytest.mark.parametrize(("up", "tempo"), [(0, 1.0), (5, 1.0), (-4, 1.0), (0, 1.1), (3, 0.9)])
def test_a_melody_on_another_instrument_is_found_and_how_it_was_changed(
    judge: Notes, chance: float, up: int, tempo: float
) -> None:
    found = one(judge, play(tune(3), CLARINET, up, tempo))
    assert found.row == 3
    assert found.score > chance
    assert found.semitones == up
    assert found.tempo == pytest.approx(tempo, rel=0.03)


def test_the_two_starts_are_the_same_note(judge: Notes) -> None:
    later = [(start + 0.5, length, pitch) for start, length, pitch in tune(3)]
    found = one(judge, play(later, CLARINET))
    assert found.start_s == pytest.approx(found.match_start_s + 0.5, abs=0.03)


def test_a_part_of_a_long_melody_is_found() -> None:
    long = [
        (4.0 * number + start, length, pitch)
        for number in range(6) for start, length, pitch in tune(number)
    ]  # fmt: skip
    judge = Notes.of([melody(tune(50)), melody(long), melody(tune(51))])
    found = judge.find(melody(tune(4)))
    assert found.row == 1
    assert found.match_start_s == pytest.approx(16.0)
    assert found.score > judge.find(melody(tune(52))).score


def test_what_has_no_melody_is_not_compared(judge: Notes) -> None:
    hum = play([(0.0, 2.0, 57)], ORGAN)
    clicks = torch.zeros(1, 2 * RATE)
    clicks[:, :: RATE // 4] = 0.9
    for wav in (hum, clicks, play(tune(3)[:3], ORGAN), play(tune(3), ORGAN)[:, :9_000]):
        assert one(judge, wav) == NOTHING
    (match,) = judge(noise(0, 2.0)[None, None], 16_000)
    assert match == NOTHING


def test_a_training_clip_of_few_notes_is_refused_with_their_number() -> None:
    few = Sounding(play(tune(3)[:3], ORGAN), RATE)
    with pytest.raises(BadAudio, match=r"^training clip 0 has \d notes, .* leave it out$"):
        Notes.fit([few])


# ------------------------------------------------------------------------------------- chains

STEPS = [(0.0, 60), (0.5, 62), (1.0, 65), (1.25, 64), (2.0, 60)]


def test_a_chain_of_a_melody_with_itself_counts_each_step() -> None:
    chain = best_chain(tunes(STEPS), tunes(STEPS))
    assert chain.worth == pytest.approx(4.0)
    assert chain.ours.tolist() == chain.theirs.tolist() == [0, 1, 2, 3, 4]
    assert chain.tempo == 1.0


def test_the_key_does_not_matter_and_the_tempo_only_by_how_fine_it_is_searched() -> None:
    moved = [(start / 1.1, pitch + 7) for start, pitch in STEPS]
    chain = best_chain(tunes(moved), tunes(STEPS))
    nearest = TEMPOS[np.abs(TEMPOS - 1.1).argmin()]
    took = np.diff([start for start, _ in STEPS])
    off = took * (nearest / 1.1 - 1) / (OFF_S + OFF * took)
    assert chain.tempo == pytest.approx(nearest)
    assert chain.worth == pytest.approx(np.exp(-0.5 * off**2).sum(), rel=1e-5)


def test_a_note_more_or_another_costs_its_step_and_what_it_takes_to_lead_over_it() -> None:
    more = [*STEPS[:2], (0.75, 71), *STEPS[2:]]
    assert worth_with(tunes(more), tunes(STEPS)) == pytest.approx([4 - SKIP])
    other = [*STEPS[:2], (1.0, 71), *STEPS[3:]]
    assert worth_with(tunes(other), tunes(STEPS)) == pytest.approx([3 - 2 * SKIP])


def test_a_step_that_is_an_octave_off_counts_half() -> None:
    off = [*STEPS[:3], *((start, pitch + 12) for start, pitch in STEPS[3:])]
    assert worth_with(tunes(off), tunes(STEPS)) == pytest.approx([3.5])


def test_no_chain_leads_from_one_melody_into_the_next() -> None:
    first, second = STEPS[:2], STEPS[2:]
    assert worth_with(tunes(STEPS), tunes(first, second)) == pytest.approx([1.0, 2.0])


def test_chords_are_no_steps() -> None:
    chord = [(0.0, 60), (0.0, 64), (0.0, 67), (0.0, 72), (0.0, 76)]
    assert worth_with(tunes(chord), tunes(chord)) == pytest.approx([0.0])


def test_the_chain_is_the_best_of_all() -> None:
    """Against a search of all chains, by brute force."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        ours, theirs = (
            [(float(at), int(pitch)) for at, pitch in zip(
                np.cumsum(rng.choice([0.25, 0.5], 6)), rng.integers(60, 64, 6), strict=True)]
            for _ in range(2)
        )  # fmt: skip

        def gain(a: tuple[int, int], b: tuple[int, int], tempo: float) -> float:
            (i, j), (k, m) = a, b
            if not (0 < k - i <= 3 and 0 < m - j <= 3):
                return -np.inf
            if ours[k][1] - ours[i][1] != theirs[m][1] - theirs[j][1]:  # noqa: B023
                return -np.inf
            took, t = (ours[k][0] - ours[i][0]) * tempo, theirs[m][0] - theirs[j][0]  # noqa: B023
            off = (took - t) / (OFF_S + OFF * t)
            return float(np.exp(-0.5 * off * off)) - SKIP * (k - i + m - j - 2)

        def longest(tempo: float, last: tuple[int, int]) -> float:
            pairs = [(i, j) for i in range(last[0]) for j in range(last[1])]
            steps = [longest(tempo, pair) + gain(pair, last, tempo) for pair in pairs
                     if gain(pair, last, tempo) > -np.inf]  # fmt: skip
            return max([0.0, *steps])

        best = max(longest(float(tempo), (i, j)) for tempo in TEMPOS
                   for i in range(6) for j in range(6))  # fmt: skip
        found = best_chain(tunes(ours), tunes(theirs))
        assert found.worth == pytest.approx(best, abs=1e-5)
        pairs = list(zip(found.ours.tolist(), found.theirs.tolist(), strict=True))
        total = sum(gain(a, b, found.tempo) for a, b in pairwise(pairs))
        assert total == pytest.approx(best, abs=1e-5)
