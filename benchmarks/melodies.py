"""Which melodies the detector `notes` finds on another instrument, and what it takes for one.

    python benchmarks/melodies.py                              # 20 minutes on two cores
    python benchmarks/melodies.py --copies 6 --nulls 120 --work small.jsonl --page small.md

A catalogue of composed phrases, each of which other instruments play: as it is, transposed, at
another tempo, with another ending. FluidSynth renders all of it, so this needs
`pip install 'anechoic-lab[train]' 'anechoic[notes]'` and Debian's libfluidsynth3. Each sound is a
line of the work file; a run that was stopped goes on. Writes docs/evidence/melodies.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import fluidsynth
import numpy as np
import torch
from anechoic_lab.demo.corpus import INSTRUMENTS, REGISTERS, fetch_packages, finish
from anechoic_lab.instruments import loops
from anechoic_lab.instruments.loops import LENGTH, RATE, Score, compose, perform
from scipy.stats import binomtest

from anechoic.detectors import Calibration, Detector, Notes, Transposed
from anechoic.detectors.sound import FittedToSome, fit, underlying
from anechoic.environment import machine
from anechoic.index import Sound

ROOT = Path(__file__).parents[1]
PROGRAMS = [program for programs in INSTRUMENTS.values() for program in list(programs)[:2]]
STRINGS = 48  # what plays the chords
RATES = (0.01, 0.001)
TEMPO = 1.1
STAGGER_S = 0.01  # standard deviation of a player's onsets
SOFTER_DB = 6.0  # how far the chords are under the melody
NULLS = ("unrelated", "same genre")
TARGET = 0.9
MANY = 10_000  # melodies, for the time of a search
FRESH = "fresh "  # nulls that no threshold was read off
BESIDE = 400  # so many sounds of each set are searched by the detector beside it, too


# ------------------------------------------------------------------------------------ the music


@dataclass(frozen=True)
class Piece:
    """A phrase, and the instrument that plays it."""

    score: Score
    program: int
    chords: Score | None = None  # beneath it


def transposed(score: Score, semitones: int) -> Score:
    """The phrase, higher by some semitones."""
    notes = [(start, end, midi + semitones, touch) for start, end, midi, touch in score.notes]
    return replace(score, notes=notes, tonic=score.tonic + semitones)


def faster(score: Score, ratio: float) -> Score:
    """The phrase in another tempo."""
    notes = [(start / ratio, end / ratio, midi, touch) for start, end, midi, touch in score.notes]
    return replace(score, notes=notes, beat_s=score.beat_s / ratio)


def another_ending(score: Score, rng: np.random.Generator) -> Score:
    """The phrase with other pitches, of its scale, in its last third."""
    steps = [score.tonic + 12 * octave + step for octave in (-1, 0, 1) for step in score.scale]
    notes = list(score.notes)
    for number in range(len(notes) - len(notes) // 3, len(notes)):
        start, end, midi, touch = notes[number]
        place = int(np.argmin(np.abs(np.array(steps) - midi))) + int(rng.choice([-2, -1, 1, 2]))
        notes[number] = (start, end, steps[int(np.clip(place, 0, len(steps) - 1))], touch)
    return replace(score, notes=notes)


def played_anew(score: Score, rng: np.random.Generator) -> Score:
    """The phrase by another player: other forces, vibrato and tone, and onsets that stagger."""
    notes = []
    for start, end, midi, _ in score.notes:
        late = float(np.clip(rng.normal(0, STAGGER_S), -2 * STAGGER_S, 2 * STAGGER_S))
        notes.append((max(start + late, 0.0), end + late, midi, int(rng.integers(60, 125))))
    cutoff_hz = float(np.exp(rng.uniform(np.log(3000), np.log(9000))))
    return replace(score, notes=notes, modulation=int(rng.integers(0, 90)), cutoff_hz=cutoff_hz)


def another(program: int, rng: np.random.Generator) -> int:
    """Another instrument."""
    return int(rng.choice([one for one in PROGRAMS if one != program]))


def _up_or_down(rng: np.random.Generator) -> int:
    return int(rng.integers(1, 6)) * int(rng.choice([-1, 1]))


CHANGES: Mapping[str, Callable[[Score, np.random.Generator], Score]] = {
    "same pitch": lambda score, rng: score,
    "transposed": lambda score, rng: transposed(score, _up_or_down(rng)),
    "10 % faster": lambda score, rng: faster(score, TEMPO),
    "10 % slower": lambda score, rng: faster(score, 1 / TEMPO),
    "another ending": another_ending,
    "transposed and slower": lambda score, rng: faster(
        transposed(score, _up_or_down(rng)), 1 / TEMPO
    ),
}


def chords_under(score: Score) -> Score:
    """A triad of the scale for every four beats, low."""
    notes = []
    for bar in range(4):
        root = (0, 3, 4, 0)[bar]
        for step in (root, root + 2, root + 4):
            midi = score.tonic % 12 + 48 + 12 * (step // 7) + score.scale[step % 7]
            start = 4 * bar * score.beat_s
            notes.append((start, start + 3.9 * score.beat_s, midi, 90))
    return replace(score, notes=[note for note in notes if note[0] < LENGTH / RATE])


COPIES = (*CHANGES, "over chords")


def catalogue(count: int, rng: np.random.Generator) -> list[Piece]:
    """Phrases of all instruments and registers in turn."""
    kinds = [(program, register) for program in PROGRAMS for register in REGISTERS]
    chosen = [kinds[number % len(kinds)] for number in range(count)]
    return [Piece(compose(register, rng), program) for program, register in chosen]


def sibling(piece: Piece, rng: np.random.Generator) -> Piece:
    """Another phrase by the same rules, in the register, scale and tempo of a phrase of the
    catalogue, by its instrument."""
    mine = piece.score
    while (found := compose(mine.register, rng)).scale != mine.scale:
        pass
    found = transposed(faster(found, found.beat_s / mine.beat_s), mine.tonic - found.tonic)
    return Piece(found, piece.program)


def stranger(rng: np.random.Generator) -> Piece:
    """A phrase by other rules: broken chords in triplets, or runs through all twelve tones."""
    score = compose(str(rng.choice(REGISTERS)), rng)
    step = 60.0 / rng.uniform(80, 150) / 3
    if rng.random() < 0.5:
        chords = [rng.choice([(0, 4, 7), (0, 3, 7), (0, 4, 8), (0, 5, 7)]) for _ in range(8)]
        roots = rng.integers(-5, 6, 8)
        order = rng.permutation(3)
        pitches = [int(root + chord[place]) for root, chord in zip(roots, chords, strict=True)
                   for place in order]  # fmt: skip
    else:
        pitches = np.clip(np.cumsum(rng.choice([-2, -1, 1, 2, 6, -6], 24)), -10, 14).tolist()
    lengths = step * rng.choice([1, 1, 1, 2], len(pitches))
    starts = np.cumsum(lengths) - lengths
    notes = [
        (float(start), float(start + 0.9 * length), score.tonic + pitch, int(rng.integers(60, 125)))
        for start, length, pitch in zip(starts, lengths, pitches, strict=True)
        if start < score.notes[-1][0]
    ]
    return Piece(replace(score, notes=notes), int(rng.choice(PROGRAMS)))


# ----------------------------------------------------------------------------------- the sounds


class Band:
    """FluidSynth with the soundfont of the package."""

    def __init__(self, package: Path) -> None:
        self.synth = fluidsynth.Synth(samplerate=float(RATE), gain=0.6)
        self.font = self.synth.sfload(str(next(package.rglob("*.sf3"))))

    def play(self, piece: Piece) -> np.ndarray:
        """A piece of 4.2 s, float32 [t]."""
        wav = finish(perform(self.synth, self.font, piece.program, piece.score), LENGTH)
        if piece.chords is not None:
            under = finish(perform(self.synth, self.font, STRINGS, piece.chords), LENGTH)
            wav = wav + under * 10 ** (-SOFTER_DB / 20) * np.sqrt(
                (wav**2).mean() / (under**2).mean()
            )
        return finish(wav, LENGTH)


Key = tuple[str, int]
Made = Piece | np.ndarray


def pieces(size: int, copies: int, nulls: int, seed: int) -> tuple[list[Piece], dict[Key, Made]]:
    """The catalogue, and what is searched for: copies of its first phrases, and the nulls."""
    rng = np.random.default_rng(seed)
    known = catalogue(size, rng)
    found: dict[Key, Made] = {}
    for name, change in CHANGES.items():
        for number, piece in enumerate(known[:copies]):
            score = played_anew(change(piece.score, rng), rng)
            found[name, number] = Piece(score, another(piece.program, rng))
    for number, piece in enumerate(known[:copies]):
        score = played_anew(piece.score, rng)
        made = Piece(score, another(piece.program, rng), chords_under(score))
        found["over chords", number] = made
    for prefix, count in (("", nulls), (FRESH, nulls // 4)):
        for number in range(count):
            found[f"{prefix}unrelated", number] = stranger(rng)
            found[f"{prefix}same genre", number] = sibling(known[number % size], rng)
    return known, found


def without_melody(packages: Path, rng: np.random.Generator) -> dict[Key, Made]:
    """Drum loops, and recordings."""
    drums = loops.loops(packages / loops.PACKAGES[1], rng)
    recordings = loops.recordings(packages / loops.PACKAGES[2], rng)
    found: dict[Key, Made] = {("drum loops", i): wav for i, (_, wav) in enumerate(drums)}
    return found | {("recordings", i): wav for i, (_, wav) in enumerate(recordings)}


# ------------------------------------------------------------------------------------ measuring

Scores = dict[Key, dict[str, tuple[float | None, int | None]]]  # None: not judged
_worker: tuple[Band, dict[str, Detector]]


def _start(package: Path, judges: dict[str, Detector]) -> None:
    global _worker
    torch.set_num_threads(1)
    _worker = Band(package), judges


def _score(job: tuple[Key, Made]) -> tuple[Key, dict[str, tuple[float | None, int | None]]]:
    band, judges = _worker
    key, made = job
    wav = band.play(made) if isinstance(made, Piece) else finish(made, LENGTH)
    found = {}
    for name, judge in judges.items():
        if name != "notes" and (key[1] >= BESIDE or key[0] not in (*COPIES, *NULLS)):
            continue
        (match,) = judge(torch.from_numpy(wav)[None, None], RATE)
        found[name] = (match.score if match.compared else None, match.row)
    return key, found


def read(work: Path) -> Scores:
    """What was measured."""
    lines = work.read_text("utf-8").splitlines() if work.exists() else []
    return {(one["set"], one["number"]): one["scores"] for one in map(json.loads, lines)}


def detectors(package: Path, known: Sequence[Piece]) -> dict[str, Detector]:
    """The detectors, fitted to the catalogue."""
    band = Band(package)
    sounds = [
        Sound(f"{number}", "", torch.from_numpy(band.play(piece))[None], RATE)
        for number, piece in enumerate(known)
    ]
    return {"notes": fit(Notes, sounds), "transposed": fit(Transposed, sounds)}


def measure(
    made: Mapping[Key, Made], package: Path, judges: dict[str, Detector], jobs: int, work: Path
) -> Scores:
    """Score what is missing in the work file."""
    found = read(work)
    todo = [(key, one) for key, one in made.items() if key not in found]
    print(f"{len(todo)} of {len(made)} sounds are missing", flush=True)
    with (
        work.open("a", encoding="utf-8") as file,
        ProcessPoolExecutor(jobs, initializer=_start, initargs=(package, judges)) as pool,
    ):
        for number, (key, scores) in enumerate(pool.map(_score, todo, chunksize=8)):
            found[key] = scores
            file.write(f"{json.dumps({'set': key[0], 'number': key[1], 'scores': scores})}\n")
            file.flush()
            if number % 200 == 0:
                print(f"{number} of {len(todo)}: {key[0]}", flush=True)
    return {key: found[key] for key in made}


# ---------------------------------------------------------------------------------- the figures


def share(found: int, of: int) -> str:
    """A share with its Clopper-Pearson interval."""
    if not of:
        return "-"
    low, high = binomtest(found, of).proportion_ci()
    return f"{found / of:.3f} [{low:.2f}, {high:.2f}]"


def of_set(found: Scores, name: str, detector: str) -> list[tuple[float | None, int | None]]:
    """Scores and rows of a set, in order."""
    keys = sorted(key for key in found if key[0] == name and detector in found[key])
    return [tuple(found[key][detector]) for key in keys]


def calibration(found: Scores, null: str, detector: str, rate: float) -> Calibration:
    """What a null says of a detector; what is not judged is left out of it, as by `calibrate`."""
    scores = [score for score, _ in of_set(found, null, detector) if score is not None]
    return Calibration(detector, tuple(scores), rate)


def copies_found(found: Scores, null: str) -> str:
    """Markdown: the copies that exceed the thresholds of one null."""
    names = [("notes", RATES[0]), ("notes", RATES[1]), ("transposed", RATES[0])]
    lines = [
        f"| copies | {' | '.join(f'{name}, {100 * rate:g} %' for name, rate in names)} |",
        "|" + "---|" * (len(names) + 1),
    ]
    for change in COPIES:
        cells = []
        for detector, rate in names:
            rule = calibration(found, null, detector, rate)
            own = [score for score, _ in of_set(found, change, detector)]
            above = sum(score is not None and rule.exceeds(score) for score in own)
            cells.append(share(above, len(own)))
        lines.append(f"| {change} | {' | '.join(cells)} |")
    return "\n".join(lines)


def met(found: Scores) -> str:
    """Where the target is met, against unrelated phrases."""
    rule = calibration(found, "unrelated", "notes", RATES[0])
    good, bad = [], []
    for change in COPIES:
        own = [score for score, _ in of_set(found, change, "notes")]
        above = sum(score is not None and rule.exceeds(score) for score in own)
        (good if above >= TARGET * len(own) else bad).append(change)
    reached, missing = (", ".join(names) or "none" for names in (good, bad))
    return f"It is met for: {reached}. It is missed for: {missing}."


def false_alarms(found: Scores) -> str:
    """Markdown: of fresh sound that copies nothing, how much exceeds the thresholds."""
    lines = ["| threshold read off | fresh sound | 1 % | 0.1 % |", "|---|---|---|---|"]
    for null in NULLS:
        for name in [*(FRESH + other for other in NULLS), "drum loops", "recordings"]:
            judged = [score for score, _ in of_set(found, name, "notes") if score is not None]
            above = [
                sum(map(calibration(found, null, "notes", rate).exceeds, judged)) for rate in RATES
            ]
            cells = " | ".join(share(count, len(judged)) for count in above)
            lines.append(f"| {null} | {name.removeprefix(FRESH)}: {len(judged)} judged | {cells} |")
    return "\n".join(lines)


def named(found: Scores) -> str:
    """Markdown: the share of copies of which the right clip is named, and what is not judged."""
    lines = ["| sounds | right clip: notes | right clip: transposed | not judged by notes |",
             "|---|---|---|---|"]  # fmt: skip
    for change in COPIES:
        rows = {name: [row for _, row in of_set(found, change, name)] for name in
                ("notes", "transposed")}  # fmt: skip
        right = [np.mean([row == place for place, row in enumerate(of)]) for of in rows.values()]
        cells = " | ".join(f"{one:.2f}" for one in right)
        lines.append(f"| {change} | {cells} | {_refused(found, change)} |")
    for name in (*NULLS, "drum loops", "recordings"):
        lines.append(f"| {name} | | | {_refused(found, name)} |")
    return "\n".join(lines)


def _refused(found: Scores, name: str) -> str:
    scores = [score for score, _ in of_set(found, name, "notes")]
    return f"{sum(score is None for score in scores)} of {len(scores)}"


def missed(found: Scores, made: Mapping[Key, Made], known: Sequence[Piece]) -> str:
    """Markdown: the share of copies that is found, by the instruments that play them."""
    rule = calibration(found, "same genre", "notes", RATES[0])
    names = {
        program: name for programs in INSTRUMENTS.values() for program, name in programs.items()
    }
    hits: dict[str, list[list[bool]]] = {names[program]: [[], []] for program in PROGRAMS}
    for (name, number), piece in made.items():
        if name in CHANGES and name != "another ending" and isinstance(piece, Piece):
            score = found[name, number]["notes"][0]
            hit = score is not None and rule.exceeds(score)
            hits[names[piece.program]][0].append(hit)
            hits[names[known[number].program]][1].append(hit)
    lines = ["| instrument | it plays the copy | it plays the training clip |", "|---|---|---|"]
    order = sorted(hits, key=lambda name: float(np.mean(hits[name][0] + hits[name][1])))
    for name in order:
        cells = " | ".join(f"{np.mean(one):.2f} of {len(one)}" for one in hits[name])
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


def search_ms(fitted: Detector, clips: int, queries: int = 10) -> float:
    """Processor time of a search over as many melodies, those of the catalogue in turn."""
    judge = underlying(fitted)
    assert isinstance(judge, Notes)
    known = [judge.melody(row) for row in range(len(judge.ends))]
    many = Notes.of([known[number % len(known)] for number in range(clips)])
    many.find(known[0])
    start = time.process_time()
    for melody in known[:queries]:
        many.find(melody)
    return 1e3 * (time.process_time() - start) / queries


# -------------------------------------------------------------------------------------- the page


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--catalogue", type=int, default=240)
    parser.add_argument("--copies", type=int, default=120)
    parser.add_argument("--nulls", type=int, default=1100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--packages", type=Path, default=ROOT / "build/packages")
    parser.add_argument("--work", type=Path, default=ROOT / "build/melodies.jsonl")
    parser.add_argument("--page", type=Path, default=ROOT / "docs/evidence/melodies.md")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    fetch_packages(chosen.packages, loops.PACKAGES)
    package = chosen.packages / loops.PACKAGES[0]
    known, made = pieces(chosen.catalogue, chosen.copies, chosen.nulls, chosen.seed)
    made |= without_melody(chosen.packages, np.random.default_rng(chosen.seed))
    judges = detectors(package, known)
    found = measure(made, package, judges, chosen.jobs, chosen.work)
    left_out = judges["notes"].left_out if isinstance(judges["notes"], FittedToSome) else ()
    computer = machine(f"{chosen.jobs} of one thread")
    chosen.page.write_text(TEXT.format(
        command=f"--catalogue {chosen.catalogue} --copies {chosen.copies} --nulls {chosen.nulls} "
                f"--seed {chosen.seed}",
        machine=", ".join(f"{what} {value}" for what, value in computer.items()),
        catalogue=chosen.catalogue, copies=chosen.copies, nulls=chosen.nulls,
        left_out=len(left_out), unrelated=copies_found(found, "unrelated"),
        target=TARGET, met=met(found), genre=copies_found(found, "same genre"),
        alarms=false_alarms(found), named=named(found),
        missed=missed(found, made, known), clips=f"{MANY:,}",
        ms=f"{search_ms(judges['notes'], MANY):.0f}",
    ), "utf-8")  # fmt: skip


TEXT = """\
# Melodies: the same tune on another instrument

Written by `python benchmarks/melodies.py {command}`; {machine}.

The detector `notes` compares melodies: intervals and rhythm, in any key, at a tempo from 0.66 to
1.5, on any instrument. After `pip install 'anechoic[notes]'`:

```sh
anechoic calibrate others --index clips.index --detector notes --overwrite
anechoic check take1.wav --index clips.index --detector notes
```

The network of Basic Pitch (0.23 MB, by Spotify, Apache-2.0, part of this package) writes down the
notes; those that no louder ones cover are the melody. What has fewer than five notes is not judged.

## What was measured

{catalogue} composed phrases of 4.2 s, on 20 instruments of FluidSynth in three registers, are the
catalogue; {left_out} of them, in which fewer than five notes are heard, are left out and cannot be
found. The first {copies} are played again, always by another instrument and another player, with
other forces, vibrato and tone, and onsets that stagger by 10 ms. Two kinds of phrases that copy
nothing say what chance does, {nulls} each: *unrelated* ones, broken chords in triplets and runs
through all twelve tones; and the *same genre*, other phrases by the composer of the catalogue, each
in the scale, register and tempo of one of its phrases and on its instrument. Square brackets hold
95 % intervals. Settings were chosen on phrases of other seeds.

- *transposed*: by 1 to 5 semitones, up or down
- *another ending*: other pitches of the scale in the last third
- *over chords*: triads of strings beneath, 6 dB softer

## Found, at thresholds read off unrelated phrases

What is not judged counts as not found. Beside `notes` stands the detector
[transposed](detectors.md), which compares spectrograms, on the same sounds.

{unrelated}

The target is {target} of the melodies that another instrument plays, at 1 %. {met}

## Found, at thresholds read off the same genre

{genre}

A phrase has some eight notes, so some of the same genre are the same tune by chance, in intervals
and rhythm alike, and a copy with another ending is not more alike than those. Calibrate on your own
genre: a threshold read off other music is too low for it, as the next table shows.

## False alarms

Phrases that no threshold was read off, drum loops of Hydrogen, and recordings of Sonic Pi, of which
few have a melody. Shares are of those that are judged.

{alarms}

## Which clip is named, and what is not judged

{named}

## By instrument

The share that is found at 1 % of the same genre, of all copies but those with another ending and
those over chords, by the instrument that plays it and by that of the training clip. What has a slow
attack is heard badly.

{missed}

## How long it takes

A search over {clips} melodies takes {ms} ms of processor time, once the notes are written down, and
in proportion longer over more. Writing down the notes takes the same for any catalogue.

## What it does not find

Drums, and what else has few notes, are mostly not judged; a drone is one note. A melody under
other music is hard to hear, and a tone that is repeated without rests is one long note. Nothing was
measured on speech, on singing, on recordings of real bands, or on phrases longer than 4.2 s.
"""


if __name__ == "__main__":
    main()
