"""Files that FFmpeg decodes: all of their sound is heard, or they are refused."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.encoded import FILES, LOSSLESS, NOISE, RATE, encode

from anechoic import audio
from anechoic.errors import BadAudio

pytest.importorskip("av", reason="pip install 'anechoic[av]'")


@pytest.mark.parametrize("file", FILES)
def test_what_was_encoded_is_read(file: str) -> None:
    wav, rate = audio.read_bytes(encode(file), file)
    assert rate == RATE
    assert len(wav) == 2
    if file in LOSSLESS:
        assert np.allclose(wav.numpy(), NOISE, atol=4e-5)
        return
    lag = np.argmax(np.correlate(wav[0].numpy(), NOISE[4_000:24_000])) - 4_000  # coders add silence
    middle = wav[0].numpy()[lag + 4_000 : lag + 24_000]
    assert np.corrcoef(middle, NOISE[4_000:24_000])[0, 1] > 0.6
    assert abs(wav.shape[1] - len(NOISE)) < 0.06 * RATE


@pytest.mark.parametrize("missing", [2, 100, 0.005, 0.1, 0.4, 0.8, 0.99])
@pytest.mark.parametrize("file", FILES)
def test_a_file_that_misses_anything_is_refused(file: str, missing: float) -> None:
    content = encode(file).partition(b"APETAGEX")[0]  # which ends a WavPack, and is no sound
    cut = int(missing if missing > 1 else missing * len(content))
    with pytest.raises(BadAudio, match=r"cut off|damaged"):
        audio.read_bytes(content[:-cut], file)


@pytest.mark.parametrize("file", FILES)
def test_joined_files_are_heard_whole_or_refused(file: str) -> None:
    content = encode(file)
    try:
        wav, _ = audio.read_bytes(content + content, file)
    except BadAudio:
        return
    assert file in ("a.aac", "a.ac3", "a.eac3", "a.mp2", "flac.ogg")
    once, _ = audio.read_bytes(content, file)
    assert wav.shape[1] == 2 * once.shape[1]


@pytest.mark.parametrize("file", ["a.m4a", "a.mka", "a.wma", "a.wv", "a.aac"])
def test_a_tag_behind_the_end_is_none_of_the_sound(file: str) -> None:
    content = encode(file)
    wav, _ = audio.read_bytes(content + b"TAG" + bytes(125), file)
    assert torch.equal(wav, audio.read_bytes(content, file)[0])


@pytest.mark.parametrize("file", FILES)
def test_damage_is_refused_or_changes_no_length(file: str) -> None:
    content = bytearray(encode(file))
    whole = audio.read_bytes(bytes(content), file)[0]
    generator = np.random.default_rng(1)
    for at in generator.integers(0, len(content), 12).tolist():
        damaged = content.copy()
        damaged[at] ^= 1 << int(generator.integers(8))
        try:
            wav, _ = audio.read_bytes(bytes(damaged), file)
        except BadAudio:
            continue
        assert wav.shape[1] > whole.shape[1] - 0.16 * RATE, at


@pytest.mark.parametrize("file", ["lossless.m4a", "a.mov", "a.mka"])
def test_the_sound_of_a_film_is_read(file: str) -> None:
    wav, _ = audio.read_bytes(encode(file, pictures=15), file)  # which last longer than the sound
    assert torch.equal(wav, audio.read_bytes(encode(file), file)[0])


@pytest.mark.parametrize("tracks", [0, 2])
def test_a_film_has_one_track_of_sound(tracks: int) -> None:
    content = encode("a.mka", pictures=3, tracks=tracks)
    with pytest.raises(BadAudio, match=r"(no|2) tracks of sound; export it with one"):
        audio.read_bytes(content, "a.mka")


def test_limits_hold_while_it_is_decoded() -> None:
    with pytest.raises(BadAudio, match=r"lasts over 0.5 s"):
        audio.read_bytes(encode("a.m4a"), "a.m4a", longest_s=0.5)


def test_without_pyav_the_error_says_how_to_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.m4a"
    file.write_bytes(encode("a.m4a"))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(BadAudio, match=r"a\.m4a' needs PyAV.*pip install 'anechoic\[av\]'"):
        audio.read(file)
