"""Decodes what libsndfile does not, with FFmpeg: `pip install 'anechoic[av]'`."""

from __future__ import annotations

import io
from collections.abc import Iterator

from anechoic.containers import SoundBlock, SoundStream, unreadable
from anechoic.errors import BadAudio

# the decoders that a file may start: a smaller target for a hostile file than all of FFmpeg's
CODECS = (
    "aac", "aac_latm", "ac3", "alac", "eac3", "flac", "libopus", "libvorbis", "mp2", "mp2float",
    "mp3", "mp3float", "opus", "pcm_alaw", "pcm_f32be", "pcm_f32le", "pcm_f64be", "pcm_f64le",
    "pcm_mulaw", "pcm_s16be", "pcm_s16le", "pcm_s24be", "pcm_s24le", "pcm_s32be", "pcm_s32le",
    "pcm_s8", "pcm_u8", "vorbis", "wavpack", "wmalossless", "wmapro", "wmav1", "wmav2", "wmavoice",
)  # fmt: skip
STRICT = {"err_detect": "crccheck+bitstream+buffer+explode"}
PADDING = 0.15  # s: what a length may count of the silence that a coder adds; Windows Media: 0.11


def blocks(stream: SoundStream, name: str) -> Iterator[SoundBlock]:
    """Decode the one sound of a file, block by block.

    Raises:
        BadAudio: PyAV is not installed; the file is damaged, or has no sound or several.
    """
    try:
        import av
    except ImportError:
        raise BadAudio(
            f"{name} needs PyAV, which is not installed: pip install 'anechoic[av]', or convert "
            "it to WAV, FLAC, OGG or MP3"
        ) from None
    options = STRICT | {"codec_whitelist": ",".join(CODECS)}
    try:
        content = io.BytesIO(stream.content)
        with av.open(content, "r", format=stream.demuxer, options=options) as file:
            if len(file.streams.audio) != 1:
                count = len(file.streams.audio) or "no"
                raise BadAudio(f"{name} has {count} tracks of sound; export it with one")
            sound = file.streams.audio[0]
            sound.codec_context.options = STRICT
            stated = 0.0
            if sound.duration and sound.time_base:
                stated = float(sound.duration * sound.time_base)
            elif file.duration and len(file.streams) == 1:
                stated = file.duration / av.time_base
            resampler = None
            for packet in file.demux(sound):
                if packet.is_corrupt:
                    raise unreadable(name, "a packet is damaged")
                for frame in packet.decode():
                    made = (frame.sample_rate, frame.layout.nb_channels)
                    resampler = resampler or (av.AudioResampler("fltp"), made)
                    if made != resampler[1]:
                        raise BadAudio(f"{name} changes from {resampler[1]} to {made}")
                    least = round((stated - PADDING) * frame.sample_rate)
                    for part in resampler[0].resample(frame):
                        yield SoundBlock(part.to_ndarray().T, frame.sample_rate, least)
    except (av.FFmpegError, ValueError, IndexError) as error:
        raise unreadable(name, str(error)) from error
