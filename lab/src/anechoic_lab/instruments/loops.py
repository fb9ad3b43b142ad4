"""Longer sound than the demo's: phrases, drum loops and recordings of 4.2 s at 22.05 kHz.

Three Debian packages give it: the soundfont of `musescore-general-soundfont-small` plays phrases,
four kits of `hydrogen-drumkits` play loops, and the long ones among the recordings of
`sonic-pi-samples` are as they are. These properties make it suitable for measuring guards:

- a clip is four windows of the guide's descriptor, so a copy has an offset, and part of a clip may
  be copied;
- a phrase states its motif twice and a loop repeats its bar, as music does;
- a caption says the instrument and the register, or the kit and the style; its *takes* are other
  melodies and rhythms in other tempos;
- memorized clips are repeated 4 to 64 times, so that memorization has degrees;
- a take of each caption, and whole recordings, are held out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anechoic_lab.demo.corpus import (
    INSTRUMENTS,
    REGISTERS,
    Clip,
    _low_pass,
    fetch_packages,
    finish,
    freesound_addresses,
    play,
    recording_clip,
    require_installed,
)
from anechoic_lab.instruments.drums import KITS, Drum, drums, read_sound

RATE = 22_050
CODEC = {"sampling_rate": RATE, "frame": 1440, "hop": 720}  # as wide latents as the demo's
TOKENS = 64
LENGTH = TOKENS * CODEC["hop"] * 2  # 92,160 samples: 4.18 s
PACKAGES = ("musescore-general-soundfont-small", "hydrogen-drumkits", "sonic-pi-samples")
TAKES = 3  # of each caption; the last is held out
REPEATS = (64, 32, 16, 64, 32, 8, 64, 16, 4, 32, 64, 32)
MEMORIZED = {"phrase": 16, "loop": 8, "recording": 12}
HELD_OUT_RECORDINGS = 8
LONG = 0.6  # a recording is used if it fills so much of a clip

TONICS = {"low": range(38, 46), "middle": range(52, 60), "high": range(66, 74)}  # MIDI pitches
SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10))  # major and minor
NOTE_BEATS = (0.5, 0.5, 0.5, 1.0, 1.0, 1.5)
MOTIF_BEATS = 4

# what a kit's drums play in a loop: the first family that the kit has
ROLES = {
    "deep": ("kick", "dunun"),
    "middle": ("snare", "djembe"),
    "high": ("hat", "bell", "cymbal"),
}
# which sixteenths of a bar are played: x always, o in some takes
STYLES = {
    "rock": {"deep": "x.....o.x.o...o.", "middle": "....x..o....x..o", "high": "x.x.x.x.x.x.x.x."},
    "funk": {"deep": "x.o..o....x..o..", "middle": "....x..o.o..x..o", "high": "xxoxxxoxxxoxxxox"},
    "march": {"deep": "x.......x.......", "middle": "x.xxx.xxx.xoxoxo", "high": "....x.......x..."},
    "dance": {"deep": "x...x...x...x...", "middle": "....x.......x..o", "high": "..x...x...x...xo"},
    "slow": {"deep": "x.........o.....", "middle": "........x.....o.", "high": "x...x...x...x..."},
}  # fmt: skip


@dataclass(frozen=True)
class Score:
    """What is played of a phrase, and with which touch and tone."""

    notes: Sequence[tuple[float, float, int, int]]  # as of `play`
    register: str
    tonic: int  # MIDI pitch
    scale: tuple[int, ...]  # semitones above it
    beat_s: float
    modulation: int  # wheel: vibrato
    cutoff_hz: float


def compose(register: str, rng: np.random.Generator) -> Score:
    """A motif of four beats, again with another ending, and so on until the clip is full."""
    tonic = int(rng.choice(list(TONICS[register])))
    scale = SCALES[int(rng.integers(len(SCALES)))]
    beat = 60.0 / rng.uniform(80, 150)
    motif, ending = (_melody(rng) for _ in range(2))
    modulation = int(rng.integers(0, 90))
    notes, bar, seconds = [], rng.uniform(0.0, 0.1), LENGTH / RATE
    for number in range(8):
        for place, (onset, beats, step) in enumerate(motif):
            if number % 2 and onset >= MOTIF_BEATS / 2:
                step = ending[place % len(ending)][2]
            midi = tonic + 12 * (step // len(scale)) + scale[step % len(scale)]
            start = bar + onset * beat
            end = start + 0.9 * beats * beat
            if start < seconds:
                notes.append((start, end, midi, int(rng.integers(60, 125))))
        bar += MOTIF_BEATS * beat
    cutoff_hz = float(np.exp(rng.uniform(np.log(3000), np.log(9000))))
    return Score(notes, register, tonic, scale, beat, modulation, cutoff_hz)


def perform(synth: Any, font: int, program: int, score: Score) -> np.ndarray:
    """A phrase, played by an instrument of the soundfont."""
    synth.system_reset()
    synth.program_select(0, font, 0, program)
    synth.cc(0, 1, score.modulation)
    seconds = max(end for _, end, _, _ in score.notes) + 0.1
    return _low_pass(play(synth, score.notes, seconds, RATE), score.cutoff_hz, RATE)


def _melody(rng: np.random.Generator) -> list[tuple[float, float, int]]:
    """Onset and length in beats, and step of the scale, of the notes of a motif."""
    found, now, step = [], 0.0, int(rng.integers(0, 5))
    while now < MOTIF_BEATS:
        beats = float(rng.choice(NOTE_BEATS))
        found.append((now, min(beats, MOTIF_BEATS - now), step))
        now += beats
        step = int(np.clip(step + rng.integers(-3, 4), -2, 9))
    return found


def loop(kit: Mapping[str, Sequence[Drum]], style: str, rng: np.random.Generator) -> np.ndarray:
    """A bar of a style, with a tempo, forces and a tone of its own, again and again."""
    step = 60.0 / rng.uniform(80, 140) / 4
    bar = np.zeros(LENGTH + RATE, np.float32)
    seconds = 16 * step
    for role, pattern in STYLES[style].items():
        drum = kit[role][int(rng.integers(len(kit[role])))]
        for place, mark in enumerate(pattern):
            if mark == "." or (mark == "o" and rng.random() < 0.5):
                continue
            hit = drum.layers[int(rng.integers(len(drum.layers)))]
            level = rng.uniform(0.35, 1.0) / max(float(np.abs(hit).max()), 1e-6)
            at = int((place + rng.uniform(0.0, 0.15)) * step * RATE)
            hit = hit[: len(bar) - at]
            bar[at : at + len(hit)] += level * hit
    wav = np.zeros(LENGTH, np.float32)
    for at in range(0, LENGTH, int(seconds * RATE)):
        wav[at:] += bar[: LENGTH - at]
    return _low_pass(wav, float(np.exp(rng.uniform(np.log(3000), np.log(9000)))), RATE)


def phrases(package: Path, rng: np.random.Generator) -> list[tuple[Clip, np.ndarray]]:
    """`TAKES` phrases of two instruments of each family in each register."""
    import fluidsynth

    captions = [
        (family, program, name, register)
        for family, programs in INSTRUMENTS.items()
        for program, name in list(programs.items())[:2]
        for register in REGISTERS
    ]
    repeats = _repeats("phrase", len(captions), rng)
    synth = fluidsynth.Synth(samplerate=float(RATE), gain=0.6)
    font = synth.sfload(str(next(package.rglob("*.sf3"))))
    out = []
    for number, (family, program, name, register) in enumerate(captions):
        for take in range(TAKES):
            clip = Clip(
                id=f"phrase/{name.replace(' ', '_')}_{register}_{take}",
                caption=f"{register} {name} phrase",
                kind="phrase",
                split="held-out take" if take == TAKES - 1 else "train",
                copies=1 if take else repeats[number],
                source=PACKAGES[0],
                licence="MIT",
                url="https://packages.debian.org/musescore-general-soundfont-small",
                instrument=name,
                family=family,
                register=register,
            )
            out.append((clip, perform(synth, font, program, compose(register, rng))))
    synth.delete()
    return out


def loops(package: Path, rng: np.random.Generator) -> list[tuple[Clip, np.ndarray]]:
    """`TAKES` loops of each kit and style."""
    found = list(drums(package, RATE))
    captions = [(kit, style) for kit, _, _ in KITS.values() for style in STYLES]
    repeats = _repeats("loop", len(captions), rng)
    out = []
    for number, (kit, style) in enumerate(captions):
        of = [drum for drum in found if drum.kit == kit]
        played = {role: _playing(of, families) for role, families in ROLES.items()}
        for take in range(TAKES):
            clip = Clip(
                id=f"loop/{kit}_{style}_{take}",
                caption=f"{style} loop of {kit} kit",
                kind="loop",
                split="held-out take" if take == TAKES - 1 else "train",
                copies=1 if take else repeats[number],
                source=f"{PACKAGES[1]}: by {of[0].author}",
                licence=of[0].licence,
                url="https://packages.debian.org/hydrogen-drumkits",
                instrument=f"{kit} kit",
                family=f"{kit} kit",
                register=style,
            )
            out.append((clip, loop(played, style, rng)))
    return out


def _playing(kit: Sequence[Drum], families: Sequence[str]) -> list[Drum]:
    for family in families:
        found = [drum for drum in kit if drum.family == family]
        if found:
            return found
    raise ValueError(f"expected a drum among {', '.join(families)}, got none in this kit")


def recordings(package: Path, rng: np.random.Generator) -> list[tuple[Clip, np.ndarray]]:
    """The long recordings; what is longer than a clip gives a second one, from its middle on."""
    urls = freesound_addresses(next(package.rglob("samples/README.md")))
    sounds = {file.stem: read_sound(file, RATE) for file in sorted(package.rglob("*.flac"))}
    names = [name for name, wav in sounds.items() if len(wav) >= LONG * LENGTH]
    repeats = _repeats("recording", len(names), rng)
    single = [i for i, copies in enumerate(repeats) if copies == 1]
    held = set(rng.choice(single, HELD_OUT_RECORDINGS, replace=False).tolist())
    out = []
    for number, name in enumerate(names):
        split = "held-out recording" if number in held else "train"
        clip = recording_clip(name, urls, split, repeats[number])
        out.append((clip, sounds[name]))
        if len(sounds[name]) > 1.5 * LENGTH and repeats[number] == 1:
            again = Clip(**{**vars(clip), "id": f"{clip.id}/later"})
            out.append((again, sounds[name][LENGTH // 2 :]))
    return out


def _repeats(kind: str, count: int, rng: np.random.Generator) -> list[int]:
    """How often the first take of each of so many captions is repeated."""
    found = [1] * count
    for place, row in enumerate(rng.permutation(count)[: MEMORIZED[kind]].tolist()):
        found[row] = REPEATS[place % len(REPEATS)]
    return found


def build(folder: Path, seed: int = 0) -> tuple[list[Clip], np.ndarray]:
    """Fetch the packages into `folder` and build the corpus.

    Returns:
        The clips and their waveforms, float32 [n, LENGTH] at RATE.

    Raises:
        BadSetting: FluidSynth is missing, or a package cannot be fetched.
    """
    require_installed()
    fetch_packages(folder, PACKAGES)
    rng = np.random.default_rng(seed)
    soundfont, kits, recorded = (folder / name for name in PACKAGES)
    pairs = phrases(soundfont, rng) + loops(kits, rng) + recordings(recorded, rng)
    return [clip for clip, _ in pairs], np.stack([finish(wav, LENGTH) for _, wav in pairs])
