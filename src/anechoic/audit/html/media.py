"""Encodes sound and pictures as data URIs, so that a page needs no other files."""

from __future__ import annotations

import base64
import io
import struct
import zlib

import numpy as np
import soundfile

FLOOR_DB = 70.0  # levels this far below a clip's loudest point are drawn black
LOWEST_HZ = 60.0
_ROWS, _COLUMNS_MIN, _COLUMNS_MAX, _COLUMNS_PER_S = 96, 8, 480, 160
_WINDOW_S = 0.05
_LEVELS = 40  # levels of the palette; fewer make the PNG smaller
# magma (van der Walt and Smith), every 32nd of 256: readable by its even lightness alone
_MAGMA = np.array(
    [
        (0, 0, 4), (28, 16, 68), (79, 18, 123), (129, 37, 129), (181, 54, 122),
        (229, 80, 100), (251, 135, 97), (254, 194, 135), (252, 253, 191),
    ]
)  # fmt: skip


def flac(wav: np.ndarray, sample_rate: int) -> bytes:
    """16-bit FLAC of sound [t] or [t, c]; sound above full scale is scaled down.

    Chromium, Firefox and Safari play it. FLAC is lossless, so readers hear exactly the examined
    sound, at about half the size of WAV.
    """
    peak = float(np.abs(wav).max())
    buffer = io.BytesIO()
    soundfile.write(buffer, wav / max(peak, 1.0), sample_rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def spectrogram_db(
    wav: np.ndarray, sample_rate: int, highest_hz: float | None = None
) -> np.ndarray:
    """Power over log-spaced frequency and time, in dB below the loudest point, [rows, columns].

    The top row is the highest frequency, `highest_hz`, by default half the sample rate. A row's
    power is the integral of the spectrum between its two edges, from the cumulative sum, so that
    rows narrower than a bin are interpolated and wider ones averaged.
    """
    from scipy.signal import get_window

    window = get_window("hann", int(_WINDOW_S * sample_rate))
    n_fft = 2 * len(window)
    columns = int(np.clip(_COLUMNS_PER_S * wav.size / sample_rate, _COLUMNS_MIN, _COLUMNS_MAX))
    padded = np.pad(wav, len(window) // 2 + 1)
    starts = np.linspace(0, padded.size - len(window), columns).astype(int)
    frames = padded[starts[:, None] + np.arange(len(window))] * window
    power = np.abs(np.fft.rfft(frames, n_fft)) ** 2  # [columns, bins]
    edges_hz = np.geomspace(LOWEST_HZ, highest_hz or sample_rate / 2, _ROWS + 1)
    bin_edges = (np.arange(power.shape[1] + 1) - 0.5) * sample_rate / n_fft
    cumulative = np.pad(np.cumsum(power, axis=1), ((0, 0), (1, 0)))
    at_edges = np.stack([np.interp(edges_hz, bin_edges, row) for row in cumulative])
    band = np.diff(at_edges, axis=1) / np.diff(edges_hz)
    # the total of a band, not its density, so that broadband sound looks even on a log axis
    db: np.ndarray = 10 * np.log10(np.maximum(band * edges_hz[1:], 1e-12))
    return np.asarray(db - max(db.max(), -80.0)).T[::-1]


def shaded_png(share: np.ndarray) -> bytes:
    """Shares [h, w] as a palette PNG, from black at 0 and below to the lightest at 1 and above."""
    level = np.clip(share * (_LEVELS - 1), 0, _LEVELS - 1).round().astype(np.uint8)
    return palette_png(level, _palette())


def palette_png(pixels: np.ndarray, palette: np.ndarray) -> bytes:
    """An 8-bit palette PNG of uint8 [h, w] indices into uint8 [colours, 3] (RFC 2083)."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    height, width = pixels.shape
    rows = np.pad(pixels, ((0, 0), (1, 0))).tobytes()  # each row starts with filter type 0
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            chunk(b"PLTE", palette.astype(np.uint8).tobytes()),
            chunk(b"IDAT", zlib.compress(rows, 9)),
            chunk(b"IEND", b""),
        ]
    )


def _palette() -> np.ndarray:
    at = np.linspace(0, len(_MAGMA) - 1, _LEVELS)
    return np.stack([np.interp(at, np.arange(len(_MAGMA)), c) for c in _MAGMA.T], axis=1).round()


def data_uri(kind: str, data: bytes) -> str:
    """Bytes as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
