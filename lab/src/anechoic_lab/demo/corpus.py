"""The demo's training set: CC0 recordings and rendered General MIDI notes, captioned.

One command rebuilds it from two Debian packages. These properties make it suitable for measuring
memorization:

- every note caption (instrument and pitch) has several renderings (*takes*) that differ in what
  the caption does not say: the rhythm, the touch, the tone. A model can follow the caption and
  still return a new rendering; only a copy returns the same one;
- some clips are *duplicated*: drawn `DUPLICATES` times as often in training;
- some captions belong to several different clips, and some clips have near-duplicates
  (shifted, filtered, faded);
- whole captions, single renderings and whole recordings are held out, to calibrate detectors
  and to prompt the model for captions that it never saw.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anechoic.errors import BadSetting
from anechoic.storage import whole_folder

SAMPLE_RATE = 16_000
LENGTH = 16_384  # samples: 1.024 s, 32 latent tokens
DUPLICATES = 64  # how many times as often a duplicated clip is drawn
TAKES = 4  # renderings of each note caption
PACKAGES = ("sonic-pi-samples", "musescore-general-soundfont-small")
PITCHES = range(36, 84, 3)
PITCH_NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
REGISTERS = ("low", "middle", "high")

# family -> General MIDI program (from 0) -> the words of the caption
INSTRUMENTS: dict[str, dict[int, str]] = {
    "piano": {0: "grand piano", 4: "electric piano", 6: "harpsichord"},
    "mallet": {11: "vibraphone", 12: "marimba", 10: "music box"},
    "organ": {16: "drawbar organ", 19: "church organ", 21: "accordion"},
    "guitar": {24: "nylon guitar", 26: "jazz guitar", 30: "distortion guitar"},
    "bass": {33: "finger bass", 38: "synth bass"},
    "strings": {40: "violin", 42: "cello", 48: "string ensemble"},
    "voice": {52: "choir", 53: "voice oohs"},
    "brass": {56: "trumpet", 57: "trombone", 60: "french horn"},
    "reed": {68: "oboe", 71: "clarinet", 65: "alto sax"},
    "pipe": {73: "flute", 75: "pan flute", 78: "whistle"},
}

DUPLICATED_NOTES = 12
DUPLICATED_RECORDINGS = (
    "ambi_choir", "ambi_lunar_land", "bass_trance_c", "drum_cymbal_open", "elec_bell",
    "guit_em9", "guit_harmonics", "loop_breakbeat", "loop_safari", "misc_crow", "perc_bell",
    "tabla_tun1",
)  # fmt: skip
NEAR_DUPLICATED = ("elec_twang", "bass_dnb_f", "perc_till", "drum_tom_hi_hard", "glitch_robot1")
HELD_OUT_CAPTIONS, HELD_OUT_TAKES, HELD_OUT_RECORDINGS = 48, 96, 24

RECORDING_WORDS = {
    "ambi": "ambient", "bass": "synth bass", "bd": "bass drum kick", "drum": "acoustic drum kit",
    "elec": "electric blip", "glitch": "glitch", "guit": "electric guitar", "loop": "loop of",
    "mehackit": "electronics", "misc": "recording of a", "perc": "percussion hit",
    "sn": "snare drum", "tabla": "indian tabla", "vinyl": "vinyl record",
}  # fmt: skip


@dataclass(frozen=True)
class Clip:
    """One clip of the corpus and its metadata."""

    id: str
    caption: str
    kind: str  # "note" or "recording"
    split: str  # "train", "held-out caption", "held-out take" or "held-out recording"
    copies: int  # its relative frequency in training: 1, or DUPLICATES
    source: str
    licence: str
    url: str = ""
    instrument: str = ""
    family: str = ""
    register: str = ""
    midi: int = -1


def require_installed() -> None:
    """Refuse before anything is fetched, if the renderer of the notes is missing.

    Raises:
        BadSetting: it is.
    """
    try:
        import fluidsynth  # noqa: F401  # which looks for its library
    except ImportError as error:
        raise BadSetting(
            f"rendering the corpus needs FluidSynth, which is not here ({error}); install it with "
            "pip install 'anechoic-lab[train]' and apt-get install libfluidsynth3"
        ) from error


def fetch_packages(folder: Path, names: Sequence[str] = PACKAGES) -> None:
    """Unpack the Debian packages with the sounds into `folder`, without installing them.

    Raises:
        BadSetting: one is neither there, nor can it be fetched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if (folder / name).is_dir():
            continue
        if not shutil.which("apt-get") or not shutil.which("dpkg"):
            raise BadSetting(
                f"rebuilding the corpus needs the Debian package '{name}', and this machine has "
                f"no apt-get; unpack it by hand into '{folder / name}'"
            )
        if subprocess.run(["apt-get", "download", "-q", name], cwd=folder, check=False).returncode:
            raise BadSetting(
                f"the Debian package '{name}' cannot be fetched, for the reason that apt-get "
                f"gives; unpack it by hand into '{folder / name}'"
            )
        (archive,) = folder.glob(f"{name}_*.deb")
        with whole_folder(folder / name) as part:
            subprocess.run(["dpkg", "-x", str(archive), str(part)], check=True)
        archive.unlink()


def finish(wav: np.ndarray, length: int = LENGTH) -> np.ndarray:
    """Cut or pad to the clip length, fade the end out, level the peak to 0.9."""
    wav = wav[:length].astype(np.float32)
    wav = np.pad(wav, (0, length - len(wav)))
    wav[-256:] *= np.linspace(1, 0, 256, dtype=np.float32)
    return wav * (0.9 / max(float(np.abs(wav).max()), 1e-9))


# ---------------------------------------------------------------------------- recordings


def freesound_addresses(readme: Path) -> dict[str, str]:
    """Freesound page of each recording, by its name without underscores, from the README."""
    lines = re.findall(r"^\* `:(\w+)` - (http\S+)", readme.read_text(errors="replace"), re.M)
    return {name.replace("_", ""): url for name, url in lines}


def recordings(package: Path, rng: np.random.Generator) -> list[tuple[Clip, np.ndarray]]:
    """The CC0 recordings of Sonic Pi; long ones give several clips with one caption."""
    import soundfile
    import soxr

    urls = freesound_addresses(next(package.rglob("samples/README.md")))
    files = sorted(package.rglob("*.flac"))
    ordinary = [f.stem for f in files if f.stem not in DUPLICATED_RECORDINGS + NEAR_DUPLICATED]
    held = set(rng.choice(ordinary, HELD_OUT_RECORDINGS, replace=False).tolist())
    out: list[tuple[Clip, np.ndarray]] = []
    for file in files:
        wav, rate = soundfile.read(file, dtype="float32", always_2d=True)
        wav = soxr.resample(wav.mean(1), rate, SAMPLE_RATE)
        wav = wav[max(0, int(np.argmax(np.abs(wav) > 0.02 * np.abs(wav).max())) - 80) :]
        duplicated = file.stem in DUPLICATED_RECORDINGS
        clip = recording_clip(
            file.stem, urls, "held-out recording" if file.stem in held else "train",
            DUPLICATES if duplicated else 1,
        )  # fmt: skip
        out.append((clip, finish(wav)))
        if duplicated:
            continue
        for part in range(1, min(4, len(wav) // LENGTH)):  # duplicated captions, other clips
            segment = wav[part * LENGTH :]
            if np.abs(segment[:LENGTH]).max() > 0.05:
                out.append((_renamed(clip, f"{clip.id}/part{part}"), finish(segment)))
        if file.stem in NEAR_DUPLICATED:
            for name, change in NEAR_DUPLICATES.items():
                out.append((_renamed(clip, f"{clip.id}/{name}"), finish(change(wav))))
    return out


def recording_clip(name: str, urls: dict[str, str], split: str, copies: int) -> Clip:
    """The clip of one of Sonic Pi's recordings, captioned by its name."""
    head, *rest = re.sub(r"(\D)(\d+)$", r"\1 \2", name).replace("_", " ").split()
    return Clip(
        id=f"recording/{name}",
        caption=" ".join([RECORDING_WORDS[head], *rest]),
        kind="recording",
        split=split,
        copies=copies,
        source=PACKAGES[0],
        licence="CC0-1.0",
        url=urls.get(name.replace("_", ""), ""),
    )


def _renamed(clip: Clip, name: str) -> Clip:
    return Clip(**{**asdict(clip), "id": name})


def _low_pass(wav: np.ndarray, cutoff_hz: float, rate: int = SAMPLE_RATE) -> np.ndarray:
    from scipy.signal import butter, sosfilt

    low: np.ndarray = sosfilt(butter(2, cutoff_hz, fs=rate, output="sos"), wav)
    return low


NEAR_DUPLICATES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "shifted": lambda wav: np.pad(wav, (SAMPLE_RATE // 20, 0)),
    "filtered": lambda wav: _low_pass(wav, 3000.0),
    "faded": lambda wav: wav * np.linspace(1.0, 0.4, len(wav)),
}

# --------------------------------------------------------------------------------- notes


def register_of(midi: int) -> str:
    """Low, middle or high, each a third of the rendered range."""
    return REGISTERS[(midi - PITCHES.start) * 3 // (PITCHES.stop - PITCHES.start)]


def note_caption(instrument: str, midi: int) -> str:
    """The caption of all renderings of a note.

    >>> note_caption("violin", 60)
    'middle violin note C 4'
    """
    return f"{register_of(midi)} {instrument} note {PITCH_NAMES[midi % 12]} {midi // 12 - 1}"


def render_take(
    synth: Any, font: int, program: int, midi: int, rng: np.random.Generator
) -> np.ndarray:
    """One rendering: one to three onsets, with a touch and tone that the caption does not say."""
    import soxr

    rate = 48_000
    count = int(rng.choice([1, 2, 3], p=[0.35, 0.35, 0.3]))
    onsets = np.sort(rng.uniform(0.0, 0.75, count))
    onsets = np.maximum.accumulate(onsets - onsets[0] + np.arange(count) * 0.12)
    onsets += rng.uniform(0.0, 0.2)
    length = rng.uniform(0.08, 0.5)
    synth.system_reset()
    synth.program_select(0, font, 0, program)
    synth.cc(0, 1, int(rng.integers(0, 90)))  # modulation wheel: vibrato
    ends = [*(onsets[1:] - 0.02), 2.0]
    notes = [
        (onset, min(onset + length, end), midi, int(rng.integers(60, 125)))
        for onset, end in zip(onsets, ends, strict=True)
    ]
    wav = soxr.resample(play(synth, notes, 1.1, rate), rate, SAMPLE_RATE)
    return _low_pass(wav, float(np.exp(rng.uniform(np.log(2500), np.log(7500)))))


def play(
    synth: Any, notes: Sequence[tuple[float, float, int, int]], seconds: float, rate: int
) -> np.ndarray:
    """Notes of the synthesizer's channel 0, each an onset and an end in seconds, a MIDI pitch and
    a velocity: mono, at the synthesizer's `rate`."""
    events = sorted(
        [(onset, True, midi, velocity) for onset, _, midi, velocity in notes]
        + [(end, False, midi, 0) for _, end, midi, _ in notes]
    )
    pieces, now = [], 0
    for time, starts, midi, velocity in events:
        until = int(time * rate)
        if until > now:
            pieces.append(synth.get_samples(until - now))
            now = until
        if starts:
            synth.noteon(0, midi, velocity)
        else:
            synth.noteoff(0, midi)
    pieces.append(synth.get_samples(max(1, int(seconds * rate) - now)))
    sound: np.ndarray = np.concatenate(pieces).reshape(-1, 2).mean(1) / 32768.0
    return sound


def notes(package: Path, rng: np.random.Generator) -> list[tuple[Clip, np.ndarray]]:
    """`TAKES` renderings of every instrument and pitch."""
    import fluidsynth

    captions = [
        (family, program, name, midi)
        for family, programs in INSTRUMENTS.items()
        for program, name in programs.items()
        for midi in PITCHES
    ]
    order = rng.permutation(len(captions))
    held = set(order[:HELD_OUT_CAPTIONS].tolist())
    one_take_held = set(order[HELD_OUT_CAPTIONS:][:HELD_OUT_TAKES].tolist())
    duplicated: dict[str, int] = {}  # one caption for each instrument
    for i in order[HELD_OUT_CAPTIONS + HELD_OUT_TAKES :].tolist():
        if len(duplicated) < DUPLICATED_NOTES:
            duplicated.setdefault(captions[i][2], i)
    synth = fluidsynth.Synth(samplerate=48_000.0, gain=0.6)
    font = synth.sfload(str(next(package.rglob("*.sf3"))))
    out = []
    for i, (family, program, name, midi) in enumerate(captions):
        for take in range(TAKES):
            wav = render_take(synth, font, program, midi, rng)
            if np.abs(wav[:LENGTH]).max() < 1e-3:  # the font has no sound at this pitch
                continue
            split = "train"
            if i in held:
                split = "held-out caption"
            elif i in one_take_held and take == 0:
                split = "held-out take"
            clip = Clip(
                id=f"note/{name.replace(' ', '_')}_{midi}_{take}",
                caption=note_caption(name, midi),
                kind="note",
                split=split,
                copies=DUPLICATES if i in duplicated.values() and take == 0 else 1,
                source=PACKAGES[1],
                licence="MIT",
                url="https://packages.debian.org/musescore-general-soundfont-small",
                instrument=name,
                family=family,
                register=register_of(midi),
                midi=midi,
            )
            out.append((clip, finish(wav)))
    synth.delete()
    return out


def build(folder: Path, seed: int = 0) -> tuple[list[Clip], np.ndarray]:
    """Fetch the packages into `folder` and build the corpus.

    Returns:
        The clips and their waveforms, float32 [n, LENGTH] at SAMPLE_RATE.

    Raises:
        BadSetting: FluidSynth is missing, or a package cannot be fetched.
    """
    require_installed()
    fetch_packages(folder)
    rng = np.random.default_rng(seed)
    pairs = recordings(folder / PACKAGES[0], rng) + notes(folder / PACKAGES[1], rng)
    return [clip for clip, _ in pairs], np.stack([wav for _, wav in pairs])
