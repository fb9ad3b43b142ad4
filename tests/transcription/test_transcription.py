"""Notes out of sound, as Basic Pitch writes them down."""

from __future__ import annotations

import hashlib
import sys
from importlib.resources import files

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from anechoic.errors import BadSetting
from anechoic.transcription import (
    SAMPLE_RATE,
    NoteEvents,
    activations,
    hear_melody,
    leading,
    network,
    note_events,
)

# (start, stop, pitch, level) that basic_pitch.note_creation.output_to_notes_polyphonic of Basic
# Pitch 0.4.0 finds in `smooth_activations` with its defaults, by the shortest note
THEIRS = {
    11: [
        (3, 17, 61, 0.3528), (6, 18, 64, 0.269), (7, 23, 68, 0.5313), (16, 30, 66, 0.6068),
        (17, 31, 62, 0.2576), (31, 48, 61, 0.6275), (34, 51, 63, 0.3208), (40, 52, 65, 0.2761),
        (42, 55, 68, 0.6154), (48, 65, 61, 0.5563), (52, 69, 64, 0.4082), (54, 69, 66, 0.734),
    ],
    6: [
        (6, 18, 64, 0.269), (6, 22, 61, 0.4657), (7, 23, 68, 0.5313), (8, 16, 65, 0.2892),
        (16, 30, 66, 0.6068), (22, 31, 62, 0.2878), (31, 39, 61, 0.5456), (34, 41, 68, 0.504),
        (34, 44, 63, 0.2932), (39, 48, 61, 0.7003), (42, 55, 68, 0.6154), (43, 54, 66, 0.5054),
        (44, 51, 63, 0.3603), (44, 52, 65, 0.2878), (48, 57, 61, 0.6306), (52, 62, 64, 0.2827),
        (54, 69, 66, 0.734), (57, 65, 61, 0.4727), (62, 69, 63, 0.6712),
    ],
}  # fmt: skip


def smooth_activations() -> tuple[np.ndarray, np.ndarray]:
    """Random levels of eight pitches, [70, 88] each."""
    rng = np.random.default_rng(2)

    def smooth(frames: float) -> np.ndarray:
        level = gaussian_filter(rng.random((70, 8)), (frames, 0.6))
        return ((level - level.min()) / np.ptp(level)).astype(np.float32)

    sounding, starting = np.zeros((2, 70, 88), np.float32)
    sounding[:, 40:48], starting[:, 40:48] = smooth(6) ** 1.2, smooth(2)
    return sounding, starting


def tone(hertz: float, start_s: float, seconds: float, total_s: float) -> np.ndarray:
    """A tone with harmonics in silence."""
    time = np.arange(round(total_s * SAMPLE_RATE)) / SAMPLE_RATE - start_s
    wave = sum(np.sin(2 * np.pi * hertz * k * time) / k for k in (1, 2, 3, 4))
    heard = (time >= 0) & (time < seconds)
    return np.float32(0.3 * wave * heard * np.exp(-2 * time.clip(0)))


@pytest.mark.parametrize("shortest", THEIRS)
def test_the_notes_are_those_of_basic_pitch(shortest: int) -> None:
    found = note_events(*smooth_activations(), shortest)
    ours = sorted(zip(*(column.tolist() for column in found[:3]), strict=True))
    assert ours == [one[:3] for one in THEIRS[shortest]]
    order = np.lexsort((found.pitch, found.stop, found.start))
    assert found.level[order] == pytest.approx([one[3] for one in THEIRS[shortest]], abs=1e-4)


def test_the_network_is_that_of_basic_pitch_unchanged() -> None:
    content = files("anechoic.transcription").joinpath("nmp.onnx").read_bytes()
    assert hashlib.sha256(content).hexdigest() == (
        "2c3c1d144bfa61ad236e92e169c13535c880469a12a047d4e73451f2c059a0ec"  # of its 0.4.0
    )


def test_without_frames_or_levels_there_are_no_notes() -> None:
    for frames in (0, 1, 3, 50):
        empty = np.zeros((frames, 88), np.float32)
        assert len(note_events(empty, empty).pitch) == 0


@pytest.mark.parametrize("start_s", [0.2, 1.6, 3.25, 4.9])
def test_a_tone_is_one_note_of_its_pitch_where_it_sounds(start_s: float) -> None:
    """In any of the windows, of which each overlaps the next; to four frames, since the network
    hears a start a little early."""
    found = hear_melody(tone(440.0, start_s, 0.6, 6.0))
    assert found.pitch.tolist() == [69]
    assert found.start_s[0] == pytest.approx(start_s, abs=0.05)
    assert found.length_s[0] == pytest.approx(0.6, abs=0.12)


def test_each_frame_of_a_sound_is_heard_once_and_none_beyond_its_end() -> None:
    for samples in (1, 4_000, 43_844, 100_000):
        heard = activations(np.zeros(samples, np.float32))
        assert np.all(np.diff(heard.seconds) > 0)
        assert heard.seconds[-1] < samples / SAMPLE_RATE
        assert len(heard.sounding) == len(heard.starting) == len(heard.seconds)


def test_a_softer_note_under_a_louder_one_is_not_of_the_melody() -> None:
    loud, soft = (10, 60, 69, 0.8), (12, 58, 81, 0.5)
    alone = (70, 90, 57, 0.4)
    assert kept(soft, loud, alone) == [loud, alone]


def test_a_note_that_goes_on_at_once_is_one_note_and_after_a_rest_it_is_two() -> None:
    first, after = (0, 10, 60, 0.4), (12, 42, 60, 0.8)
    assert kept(first, after) == [(0, 42, 60, 0.7)]
    assert kept(first, (20, 50, 60, 0.8)) == [first, (20, 50, 60, 0.8)]


def kept(*events: tuple[int, int, int, float]) -> list[tuple[int, int, int, float]]:
    start, stop, pitch, level = zip(*events, strict=True)
    given = NoteEvents(np.array(start), np.array(stop), np.array(pitch), np.array(level))
    found = leading(given)
    return list(zip(*(column.tolist() for column in found), strict=True))


def test_without_onnx_runtime_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    network._session.cache_clear()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BadSetting, match=r"pip install 'anechoic\[notes\]'"):
        hear_melody(np.zeros(SAMPLE_RATE, np.float32))
