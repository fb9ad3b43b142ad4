"""Other sound than the demo's: drum kits and sound effects.

Two Debian packages give it: `hydrogen-drumkits`, of which the four kits with Creative Commons
licences are used, and `openttd-opensfx`. These properties make it suitable for measuring guards:

- every drum has several *takes*, which differ in rhythm, force and tone, as the demo's notes do;
- drums recorded at several forces give natural near-duplicates (*layers*);
- memorized clips are repeated 4 to 64 times, so that memorization has degrees;
- one take of each drum, whole effects, parts of effects and unnamed samples are held out.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from anechoic_lab.demo.corpus import (
    LENGTH,
    SAMPLE_RATE,
    Clip,
    _low_pass,
    fetch_packages,
    finish,
)

PACKAGES = ("hydrogen-drumkits", "openttd-opensfx")
TAKES = 4  # of each drum; the last is held out
REPEATS = (64, 32, 16, 64, 32, 8, 64, 16, 4, 32, 64, 16, 8, 32)  # of the memorized clips of a kind
HELD_OUT_EFFECTS = 12
NEAR = 2  # layers of a drum that follow the loudest, each a clip

# folder of the kit -> the caption's word for it, its licence and its author
KITS = {
    "BJA_Pacific": ("pacific", "CC-BY-SA-3.0-US", "Luc Tunguay"),
    "circAfrique v4": ("african", "CC-BY-SA-3.0", "Jim Harney"),
    "Audiophob": ("audiophob", "CC0-1.0", "audiophobdubstep"),
    "rumpf_kit_z01_h2": ("rumpf", "CC-BY-3.0", "Emanuel Rumpf"),
}
# the first that matches a drum's words; a drum that matches none is not used
FAMILIES = {
    "bell": r"bell",
    "hat": r"hi hat|closed hh|pedal hh|open hh",
    "snare": r"snare",
    "kick": r"bassdrum|bass drum|kick",
    "tom": r"tom\b",
    "cymbal": r"crash|ride|cymbal",
    "djembe": r"djembe",
    "dunun": r"sangban|dununba|kenkeni",
    "clap": r"clap|stick",
}


@dataclass(frozen=True)
class Drum:
    """A drum of a kit, and its samples from loud to soft."""

    kit: str  # its word
    licence: str
    author: str
    name: str
    family: str  # "" if unnamed: such samples are held out
    layers: list[np.ndarray]

    @property
    def caption(self) -> str:
        return f"{self.kit} kit {self.name}"


def _words(name: str) -> str:
    name = re.sub(r"^[a-g]#?\d - ", "", name.lower())  # rumpf names the key, too
    name = re.sub(r"([a-z])(\d)", r"\1 \2", name)
    return " ".join(re.findall(r"[a-z]+|\d+", name))


def drums(package: Path, rate: int = SAMPLE_RATE) -> Iterator[Drum]:
    """The drums of the chosen kits, at `rate`."""
    for kit, (word, licence, author) in KITS.items():
        folder = package / "usr/share/hydrogen/data/drumkits" / kit
        text = (folder / "drumkit.xml").read_text(errors="replace")
        text = re.sub(r'\s(xmlns|xsi)[\w:]*="[^"]*"', "", text)
        for found in ElementTree.fromstring(text).iter("instrument"):
            files = [layer.findtext("filename") for layer in found.iter("layer")]
            files = files or [found.findtext("filename")]
            names = [name for name in files if name]
            if not names:
                continue
            name = found.findtext("name") or ""
            said = _words("" if name.startswith("Sample:") else name)
            matches = (family for family, words in FAMILIES.items() if re.search(words, said))
            family = next(matches, "")
            named = said if family else f"sample {names[0]}"
            layers = [read_sound(folder / name, rate) for name in names]
            yield Drum(word, licence, author, named, family, layers)


def read_sound(file: Path | io.BytesIO, rate: int = SAMPLE_RATE) -> np.ndarray:
    """Mono at `rate`, from its start of sound."""
    import soundfile
    import soxr

    wav, recorded = soundfile.read(file, dtype="float32", always_2d=True)
    wav = soxr.resample(wav.mean(1), recorded, rate)
    start = int(np.argmax(np.abs(wav) > 0.02 * np.abs(wav).max()))
    cut: np.ndarray = wav[max(0, start - 80) :]
    return cut


def take(drum: Drum, rng: np.random.Generator) -> np.ndarray:
    """One to four hits, each with a force, and a tone that the caption does not say."""
    count = int(rng.choice([1, 2, 3, 4], p=[0.15, 0.35, 0.3, 0.2]))
    onsets = np.sort(rng.uniform(0.0, 0.8, count))
    onsets = np.maximum.accumulate(onsets - onsets[0] + np.arange(count) * 0.09)
    onsets += rng.uniform(0.0, 0.15)
    wav = np.zeros(2 * LENGTH, np.float32)
    for onset in onsets:
        hit = drum.layers[int(rng.integers(len(drum.layers)))]
        at = int(onset * SAMPLE_RATE)
        hit = hit[: len(wav) - at]
        level = np.abs(hit).max()
        wav[at : at + len(hit)] += rng.uniform(0.35, 1.0) * hit / max(float(level), 1e-6)
    return _low_pass(wav, float(np.exp(rng.uniform(np.log(2500), np.log(7500)))))


def effects(package: Path) -> Iterator[tuple[str, str, np.ndarray]]:
    """Title, licence and sound of each effect in OpenTTD's `.cat` file.

    The file begins with an offset and a size for each entry; an entry is a title, whose length is
    its first byte, and a WAV file.
    """
    data = next(package.rglob("opensfx.cat")).read_bytes()
    count = (struct.unpack_from("<I", data)[0] & 0x7FFFFFFF) // 8
    for number in range(count):
        offset = struct.unpack_from("<I", data, 8 * number)[0] & 0x7FFFFFFF
        title = data[offset + 1 : offset + 1 + data[offset]].decode(errors="replace")
        sound = data[offset + 1 + data[offset] :]
        size = struct.unpack_from("<I", sound, 4)[0] + 8
        if size > 1000:  # two entries are empty
            yield title.strip("\0"), _licence(title), read_sound(io.BytesIO(sound[:size]))


def _licence(title: str) -> str:
    if "ShareAlike" in title:
        return "CC-BY-SA-3.0"
    return "CC0-1.0" if "Zero" in title else "CC-BY-3.0"


def drum_clips(package: Path, rng: np.random.Generator) -> list[tuple[Clip, np.ndarray]]:
    """`TAKES` takes and up to `NEAR` layers of each drum, and one of each unnamed sample."""
    found = list(drums(package))
    named = [drum for drum in found if drum.family]
    chosen = rng.permutation(len(named))[: len(REPEATS)].tolist()
    repeats = dict(zip(chosen, REPEATS, strict=True))
    out = []
    for number, drum in enumerate(named):
        wavs = {f"take{i}": take(drum, rng) for i in range(TAKES)}
        wavs |= {f"layer{i}": layer for i, layer in enumerate(drum.layers[1 : 1 + NEAR], 1)}
        for what, wav in wavs.items():
            held = what == f"take{TAKES - 1}"
            copies = repeats.get(number, 1) if what == "take0" else 1
            out.append((_drum_clip(drum, what, "held-out take" if held else "train", copies), wav))
    out += [(_drum_clip(drum, "take0", "held-out recording", 1), take(drum, rng))
            for drum in found if not drum.family]  # fmt: skip
    return [(clip, finish(wav)) for clip, wav in out]


def _drum_clip(drum: Drum, what: str, split: str, copies: int) -> Clip:
    return Clip(
        id=f"{drum.kit}/{drum.name.replace(' ', '_')}/{what}",
        caption=drum.caption,
        kind="drum",
        split=split,
        copies=copies,
        source=f"{PACKAGES[0]}: by {drum.author}",
        licence=drum.licence,
        url="https://packages.debian.org/hydrogen-drumkits",
        instrument=drum.caption if drum.family else "",
        family=drum.family,
        register=drum.kit if drum.family else "",
    )


def effect_clips(package: Path, rng: np.random.Generator) -> list[tuple[Clip, np.ndarray]]:
    """The effects; longer ones give several clips with one caption, of which the last is held
    out."""
    found = list(effects(package))
    order = rng.permutation(len(found)).tolist()
    repeats = dict(zip(order, REPEATS, strict=False))
    held = set(order[len(REPEATS) :][:HELD_OUT_EFFECTS])
    out = []
    for number, (title, licence, wav) in enumerate(found):
        said = (re.match(r'"([^"]+)"', title) or [title, title])[1]
        caption = "effect " + " ".join(re.findall(r"[a-z]+|\d+", said.lower()))
        parts = [wav[i * LENGTH :] for i in range(max(1, min(4, len(wav) // LENGTH)))]
        parts = [part for part in parts if np.abs(part[:LENGTH]).max() > 0.05] or [wav]
        for i, part in enumerate(parts[:1] if number in repeats else parts):
            split = "train"
            if number in held:
                split = "held-out recording"
            elif 0 < i == len(parts) - 1:
                split = "held-out take"
            clip = Clip(
                id=f"effect/{number:02}/part{i}",
                caption=caption,
                kind="effect",
                split=split,
                copies=repeats.get(number, 1),
                source=f"{PACKAGES[1]}: {title.partition(' License:')[0]}",  # it names the authors
                licence=licence,
                url="https://github.com/OpenTTD/OpenSFX",
            )
            out.append((clip, finish(part)))
    return out


def build(folder: Path, seed: int = 0) -> tuple[list[Clip], np.ndarray]:
    """Fetch the packages into `folder` and build the corpus.

    Returns:
        The clips and their waveforms, float32 [n, LENGTH] at SAMPLE_RATE.
    """
    fetch_packages(folder, PACKAGES)
    rng = np.random.default_rng(seed)
    pairs = drum_clips(folder / PACKAGES[0], rng) + effect_clips(folder / PACKAGES[1], rng)
    return [clip for clip, _ in pairs], np.stack([wav for _, wav in pairs])
