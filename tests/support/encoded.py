"""Sound files that PyAV encodes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

RATE = 48_000
NOISE = (0.1 * np.random.default_rng(0).standard_normal(RATE)).astype(np.float32)
LIVE = {"live": "1"}  # Matroska whose length is not known when it begins
FIRST = {"movflags": "faststart"}  # MP4 with its list of contents before its sound
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
FILES: dict[str, tuple[str, str, dict[str, str]]] = {  # container, encoder, options of the former
    "a.m4a": ("ipod", "aac", {}),
    "first.m4a": ("ipod", "aac", FIRST),
    "fragments.mp4": ("mp4", "aac", FRAGMENTS),
    "lossless.m4a": ("ipod", "alac", {}),
    "a.mov": ("mov", "pcm_s16le", {}),
    "a.aac": ("adts", "aac", {}),
    "a.webm": ("webm", "libopus", {}),
    "live.webm": ("webm", "libopus", LIVE),
    "a.mka": ("matroska", "flac", {}),
    "a.wma": ("asf", "wmav2", {}),
    "a.wv": ("wv", "wavpack", {}),
    "a.ac3": ("ac3", "ac3", {}),
    "a.eac3": ("eac3", "eac3", {}),
    "flac.ogg": ("ogg", "flac", {}),
    "a.mp2": ("mp2", "mp2", {}),
}
LOSSLESS = ("lossless.m4a", "a.mov", "a.mka", "a.wv", "flac.ogg")


def encode(file: str, wav: np.ndarray = NOISE, *, pictures: int = 0, tracks: int = 1) -> bytes:
    """A sound [t] as a file of `FILES`, in stereo, with so many pictures and tracks of sound."""
    import av

    container, codec, options = FILES[file]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        with av.open(str(path), "w", format=container, options=options) as out:
            video: Any = out.add_stream("mpeg4", rate=10) if pictures else None
            if video is not None:
                video.width = video.height = 32
                video.pix_fmt = "yuv420p"
            made: list[Any] = [
                out.add_stream(codec, rate=RATE, layout="stereo") for _ in range(tracks)
            ]
            for _ in range(pictures):
                picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))
                out.mux(video.encode(picture))
            for stream in made:
                stream.bit_rate = 192_000
                if codec == "wavpack":
                    stream.format = "s16p"
                frame = av.AudioFrame.from_ndarray(np.stack([wav, wav]), "fltp", "stereo")
                frame.sample_rate, frame.pts = RATE, 0
                size = stream.codec_context.frame_size or None
                resampler = av.AudioResampler(stream.format, "stereo", RATE, size)
                for part in [*resampler.resample(frame), *resampler.resample(None)]:
                    out.mux(stream.encode(part))
            for stream in [*made, video] if pictures else made:
                out.mux(stream.encode(None))
        return path.read_bytes()
