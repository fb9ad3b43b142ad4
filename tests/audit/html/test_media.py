"""Sound and pictures of a page are what was examined."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import soundfile
from support.sounds import RATE, tune

from anechoic.audit.html.media import _palette, data_uri, flac, palette_png, spectrogram_db


def test_the_embedded_sound_is_the_examined_sound() -> None:
    wav = tune(3)[0].numpy()
    back, rate = soundfile.read(io.BytesIO(flac(wav, RATE)), dtype="float32")
    assert rate == RATE
    assert np.abs(back - wav).max() <= 1.01 / 2**15  # one step of 16 bits


def test_bytes_are_embedded_with_their_kind() -> None:
    assert data_uri("audio/flac", b"abc") == "data:audio/flac;base64,YWJj"


@pytest.mark.parametrize("wav", [np.zeros(16_000), np.ones(1), 5 * np.sin(np.arange(16_000.0))])
def test_silence_one_sample_and_too_loud_are_drawn_without_a_warning(wav: np.ndarray) -> None:
    with np.errstate(all="raise"):
        assert flac(wav, 16_000).startswith(b"fLaC")
        assert np.isfinite(spectrogram_db(wav, 16_000)).all()


@pytest.mark.parametrize("hz", [100.0, 440.0, 5000.0])
def test_a_tone_is_brightest_at_its_own_row(hz: float) -> None:
    rate = 16_000
    db = spectrogram_db(np.sin(2 * np.pi * hz * np.arange(rate) / rate).astype(np.float32), rate)
    edges = np.geomspace(60, rate / 2, db.shape[0] + 1)[::-1]
    row = int(db.mean(axis=1).argmax())
    # weighting by frequency leans a 40 Hz wide lobe up by some Hz
    assert edges[row + 1] - 8 <= hz <= edges[row] + 8
    assert db.max() == 0


def test_a_louder_colour_is_a_lighter_one() -> None:
    luma = _palette() @ [0.2126, 0.7152, 0.0722]  # so the picture reads in grey, too
    assert (np.diff(luma) > 0).all()


def test_a_png_holds_its_pixels() -> None:
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    png = palette_png(pixels, np.zeros((6, 3)))
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", png[16:24]) == (3, 2)
    at = png.index(b"IDAT")
    assert zlib.decompressobj().decompress(png[at + 4 :]) == b"\0\0\1\2\0\3\4\5"
