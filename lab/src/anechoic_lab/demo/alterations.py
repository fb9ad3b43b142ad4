"""Alters clips in the ways in which a generation can differ from the training clip it copies.

Detectors are measured on clips altered on purpose (`ALTERATIONS`), against clips unrelated to the
training set. Every alteration is a pure function of the sound and a seeded generator.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from anechoic.errors import BadSetting

Wave = np.ndarray  # mono sound, float32 [t]; an alteration may answer with two channels, [2, t]


def level(wav: Wave, gain_db: float) -> Wave:
    """Change the level.

    >>> level(np.ones(1, np.float32), -20.0)
    array([0.1], dtype=float32)
    """
    return (wav * np.float32(10 ** (gain_db / 20))).astype(np.float32)


def shift(wav: Wave, sample_rate: int, seconds: float) -> Wave:
    """Rotate the clip by `seconds`, as in a loop: its start moves to its end."""
    return np.roll(wav, -round(seconds * sample_rate))


def equalise(wav: Wave, sample_rate: int, tilt_db: float = 12.0, pivot_hz: float = 1000.0) -> Wave:
    """Tilt the spectrum by `tilt_db` in total, from the lowest octaves to the highest.

    Uses one low and one high shelf filter of half the tilt each, an octave below and above the
    pivot.

    Source: Bristow-Johnson, Cookbook formulae for audio EQ biquad filter coefficients.
    """
    from scipy.signal import sosfilt

    shelves = [
        _shelf(sample_rate, pivot_hz / 2, -tilt_db / 2, high=False),
        _shelf(sample_rate, pivot_hz * 2, tilt_db / 2, high=True),
    ]
    tilted: Wave = sosfilt(np.stack(shelves), wav).astype(np.float32)
    return tilted


def _shelf(sample_rate: int, corner_hz: float, gain_db: float, high: bool) -> np.ndarray:
    """A shelving filter of slope 1 as one second-order section."""
    a = 10 ** (gain_db / 40)
    w = 2 * np.pi * corner_hz / sample_rate
    sign = 1 if high else -1
    cos, root = sign * np.cos(w), 2 * np.sqrt(a) * np.sin(w) / np.sqrt(2)
    b = np.array(
        [
            a * ((a + 1) + (a - 1) * cos + root),
            -2 * sign * a * ((a - 1) + (a + 1) * cos),
            a * ((a + 1) + (a - 1) * cos - root),
            (a + 1) - (a - 1) * cos + root,
            2 * sign * ((a - 1) - (a + 1) * cos),
            (a + 1) - (a - 1) * cos - root,
        ]
    )
    section: np.ndarray = b / b[3]
    return section


def mp3(wav: Wave, sample_rate: int, kbit_s: int = 64) -> Wave:
    """Encode as MP3 with constant bit rate and decode (libsndfile's LAME), without a time shift.

    Raises:
        BadSetting: MP3 does not support the bit rate or sample rate.
    """
    import soundfile

    low, high = (32, 320) if sample_rate in (32_000, 44_100, 48_000) else (8, 160)
    if not low <= kbit_s <= high:
        raise BadSetting(
            f"MP3 at {sample_rate} Hz has {low} to {high} kbit/s, got {kbit_s}; choose one within"
        )
    coded = io.BytesIO()
    peak = max(float(np.abs(wav).max()), 1.0)  # MP3 clips above full scale
    try:
        soundfile.write(
            coded,
            wav / peak,
            sample_rate,
            format="MP3",
            subtype="MPEG_LAYER_III",
            bitrate_mode="CONSTANT",
            compression_level=(high - kbit_s) / (high - low),
        )
    except soundfile.LibsndfileError as error:
        raise BadSetting(f"MP3 has no sample rate {sample_rate} Hz ({error}); resample") from error
    coded.seek(0)
    decoded, _ = soundfile.read(coded, dtype="float32")
    return np.pad(decoded, (0, max(len(wav) - len(decoded), 0)))[: len(wav)] * np.float32(peak)


def noise(wav: Wave, snr_db: float, rng: np.random.Generator) -> Wave:
    """Add white noise, `snr_db` below the power of the whole clip."""
    drawn = rng.standard_normal(len(wav)).astype(np.float32)
    return mix(wav, drawn, snr_db)


def mix(wav: Wave, other: Wave, ratio_db: float = 0.0) -> Wave:
    """Mix in another sound, its power `ratio_db` below that of the clip.

    Raises:
        BadSetting: the other sound is silent or has another length.
    """
    power = float(np.mean(np.square(other, dtype=np.float64)))
    if other.shape != wav.shape or power == 0:
        raise BadSetting(
            f"expected another sound of {len(wav)} samples to mix in, got {len(other)} samples of "
            f"power {power:g}; cut or pad it"
        )
    own = float(np.mean(np.square(wav, dtype=np.float64)))
    return wav + other * np.float32(np.sqrt(own / power) * 10 ** (-ratio_db / 20))


def pitch(wav: Wave, sample_rate: int, semitones: float) -> Wave:
    """Transpose without changing the timing."""
    return _stretch(wav, sample_rate, semitones=semitones)


def stretch(wav: Wave, sample_rate: int, factor: float) -> Wave:
    """Stretch to `factor` times the length without changing the pitch."""
    return _stretch(wav, sample_rate, factor=factor)


def _stretch(wav: Wave, sample_rate: int, semitones: float = 0.0, factor: float = 1.0) -> Wave:
    """Signalsmith Stretch, a phase vocoder that preserves attacks; its latency is removed."""
    try:
        from python_stretch.Signalsmith import Stretch
    except ImportError as error:
        raise BadSetting(
            "altering pitch and tempo needs python-stretch; pip install 'anechoic-lab[calibrate]'"
        ) from error
    machine = Stretch(0)
    machine.preset(1, sample_rate)
    machine.setTransposeSemitones(semitones)
    machine.setTimeFactor(1.0 / factor)
    stretched: Wave = np.array(machine.process(np.ascontiguousarray(wav[None], np.float32)))[0]
    return stretched


def pass_band(wav: Wave, sample_rate: int, kind: Literal["high", "low"], hz: float) -> Wave:
    """Keep what is above or below a frequency: a Butterworth filter, 36 dB an octave."""
    from scipy.signal import butter, sosfilt

    sections = butter(6, hz, kind, fs=sample_rate, output="sos")
    kept: Wave = sosfilt(sections, wav).astype(np.float32)
    return kept


def part(wav: Wave, share: float, rng: np.random.Generator) -> Wave:
    """One of the equal parts of the clip; `share` is its length, such as 1/2.

    If it is 40 dB below the clip, it is the next part that is not: in silence nothing is found.
    """
    length, count = round(len(wav) * share), round(1 / share)
    parts = wav[: count * length].reshape(count, length)
    level = np.square(parts, dtype=np.float64).mean(1)
    order = (int(rng.integers(count)) + np.arange(count)) % count
    chosen: Wave = parts[next(i for i in order if level[i] >= 1e-4 * level.mean())]
    return chosen


def backwards(wav: Wave, from_share: float = 0.0) -> Wave:
    """Turn the sound around from a share of its length on."""
    start = round(len(wav) * from_share)
    return np.concatenate([wav[:start], wav[start:][::-1]])


def modulate(wav: Wave, sample_rate: int, hz: float, depth: float) -> Wave:
    """Multiply by 1 - depth + depth sin: tremolo at a few Hz; with depth 1 a ring modulator.

    >>> modulate(np.ones(4, np.float32), 4, 1.0, 0.5).round(2).tolist()
    [0.5, 1.0, 0.5, 0.0]
    """
    wave = np.sin(2 * np.pi * hz * np.arange(len(wav)) / sample_rate)
    moved: Wave = (wav * (1 - depth + depth * wave)).astype(np.float32)
    return moved


def clip_peaks(wav: Wave, share: float) -> Wave:
    """Clip the loudest `share` of the samples."""
    limit = np.quantile(np.abs(wav), 1 - share)
    clipped: Wave = np.clip(wav, -limit, limit)
    return clipped


@dataclass(frozen=True)
class Alteration:
    """One way to alter a clip, and whether it preserves time."""

    description: str
    apply: Callable[[Wave, int, np.random.Generator, Wave], Wave]
    keeps_time: bool = True  # each instant of the altered clip is the same instant of the original

    def __call__(self, wav: Wave, sample_rate: int, rng: np.random.Generator, other: Wave) -> Wave:
        """Alter a clip [t]; `other` is the sound to mix in, [t]."""
        return self.apply(wav, sample_rate, rng, other)


ALTERATIONS: Mapping[str, Alteration] = {
    "verbatim": Alteration("the clip itself", lambda wav, rate, rng, other: wav),
    "shifted": Alteration(
        "its start moved to its end, a tenth to a half of it",
        lambda wav, rate, rng, other: shift(wav, rate, rng.uniform(0.1, 0.5) * len(wav) / rate),
        keeps_time=False,
    ),
    "level": Alteration("20 dB softer", lambda wav, rate, rng, other: level(wav, -20.0)),
    "EQ": Alteration(
        "spectrum tilted by 12 dB, up or down",
        lambda wav, rate, rng, other: equalise(wav, rate, 12.0 * rng.choice([-1.0, 1.0])),
    ),
    "MP3": Alteration("MP3 at 64 kbit/s", lambda wav, rate, rng, other: mp3(wav, rate, 64)),
    "noise": Alteration(
        "white noise 10 dB under it", lambda wav, rate, rng, other: noise(wav, 10.0, rng)
    ),
    "pitch up": Alteration("a semitone up", lambda wav, rate, rng, other: pitch(wav, rate, 1.0)),
    "pitch down": Alteration(
        "a semitone down", lambda wav, rate, rng, other: pitch(wav, rate, -1.0)
    ),
    "slower": Alteration(
        "5 % longer, at its pitch",
        lambda wav, rate, rng, other: stretch(wav, rate, 1.05),
        keeps_time=False,
    ),
    "faster": Alteration(
        "5 % shorter, at its pitch",
        lambda wav, rate, rng, other: stretch(wav, rate, 0.95),
        keeps_time=False,
    ),
    "mixed": Alteration(
        "another sound on top, as loud", lambda wav, rate, rng, other: mix(wav, other, 0.0)
    ),
}

# what `ALTERATIONS` lacks of the ways in which rights holders say that their sound comes back
EDITS: Mapping[str, Alteration] = {
    "2 semitones up": Alteration(
        "two semitones up", lambda wav, rate, rng, other: pitch(wav, rate, 2.0)
    ),
    "2 semitones down": Alteration(
        "two semitones down", lambda wav, rate, rng, other: pitch(wav, rate, -2.0)
    ),
    "5 semitones up": Alteration(
        "five semitones up", lambda wav, rate, rng, other: pitch(wav, rate, 5.0)
    ),
    "10 % slower": Alteration(
        "10 % longer, at its pitch",
        lambda wav, rate, rng, other: stretch(wav, rate, 1.1),
        keeps_time=False,
    ),
    "10 % faster": Alteration(
        "10 % shorter, at its pitch",
        lambda wav, rate, rng, other: stretch(wav, rate, 0.9),
        keeps_time=False,
    ),
    "tape 10 % slower": Alteration(
        "10 % longer and 1.7 semitones down, as by a wrong sample rate",
        lambda wav, rate, rng, other: pitch(stretch(wav, rate, 1.1), rate, -1.65),
        keeps_time=False,
    ),
    "half": Alteration(
        "one half of it alone, no silent one",
        lambda wav, rate, rng, other: part(wav, 1 / 2, rng),
        False,
    ),
    "quarter": Alteration(
        "a quarter of it alone, no silent one",
        lambda wav, rate, rng, other: part(wav, 1 / 4, rng),
        False,
    ),
    "loop": Alteration(
        "its first half, twice",
        lambda wav, rate, rng, other: np.tile(wav[: len(wav) // 2], 2),
        keeps_time=False,
    ),
    "half reversed": Alteration(
        "its second half backwards",
        lambda wav, rate, rng, other: backwards(wav, 0.5),
        keeps_time=False,
    ),
    "reversed": Alteration(
        "all of it backwards", lambda wav, rate, rng, other: backwards(wav), keeps_time=False
    ),
    "one channel": Alteration(
        "in one channel; another sound, as loud, in the other",
        lambda wav, rate, rng, other: np.stack([wav, mix(wav, other) - wav]),
    ),
    "high-pass 500 Hz": Alteration(
        "nothing below 500 Hz", lambda wav, rate, rng, other: pass_band(wav, rate, "high", 500.0)
    ),
    "low-pass 2 kHz": Alteration(
        "nothing above 2 kHz", lambda wav, rate, rng, other: pass_band(wav, rate, "low", 2000.0)
    ),
    "under another": Alteration(
        "another sound on top, 6 dB louder", lambda wav, rate, rng, other: mix(wav, other, -6.0)
    ),
    "tremolo": Alteration(
        "its level moves up and down six times a second",
        lambda wav, rate, rng, other: modulate(wav, rate, 6.0, 0.45),
    ),
    "clipped": Alteration(
        "its loudest fifth clipped", lambda wav, rate, rng, other: clip_peaks(wav, 0.2)
    ),
    "ring modulated": Alteration(
        "multiplied by a sine of 90 Hz", lambda wav, rate, rng, other: modulate(wav, rate, 90.0, 1)
    ),
}
