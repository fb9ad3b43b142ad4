"""Reads, checks and writes sound, and cuts it into windows.

`containers` finds each stream of a file, and libsndfile or FFmpeg decodes it. Nothing is resampled
here: whatever needs a rate, such as an embedder, resamples.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from anechoic import containers, ffmpeg
from anechoic.containers import SoundBlock, SoundStream
from anechoic.errors import BadAudio, BadSetting, OutputExists
from anechoic.parsing import require_limit
from anechoic.storage import write_whole

SILENCE = 1e-6  # a peak below this is silence: 30 dB under the last bit of 16-bit sound
OFFSET = 0.1  # share of the rms: a larger constant offset is removed; real sound has less
CANCELLED = 0.01  # a mean with less than this share of the loudest channel's energy is lost
DIFFERENT = 0.01  # a channel with more of its energy outside of another one is searched as well
LOWEST = 48_000  # Hz: lower rates count as this one, since embedders resample up to it
BLOCK = 2**20  # samples that are decoded at once
SUFFIXES = frozenset({  # those of the last line need 'anechoic[av]'
    ".wav", ".wave", ".rf64", ".w64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff",
    ".aifc", ".au", ".snd", ".caf", ".mp2", ".mpa",
    ".m4a", ".m4b", ".mp4", ".mov", ".aac", ".webm", ".mka", ".mkv", ".wma", ".wv", ".ac3", ".eac3",
})  # fmt: skip


def read(
    path: str | Path, *, allow_silence: bool = False, longest_s: float = math.inf
) -> tuple[Tensor, int]:
    """Read a whole sound file.

    Args:
        path: WAV, RF64, W64, AIFF, AU, CAF, FLAC, OGG, MP3 or MP2; with 'anechoic[av]' also the
            one sound of MP4, QuickTime, Matroska, WebM, Windows Media, WavPack, AAC or AC-3.
        allow_silence: accept sound whose peak is below `SILENCE`.
        longest_s: seconds; longer sound is refused once this much is decoded.

    Returns:
        The sound, float32 [c, t] with full scale at 1, and its sample rate in Hz.

    Raises:
        BadAudio: the file does not exist, or is a folder, not sound, cut off, too long, empty,
            silent, NaN or infinite.
    """
    path = Path(path)
    if path.is_dir():
        raise BadAudio(f"expected a sound file, but '{path}' is a folder; name the files in it")
    if not path.exists():
        raise BadAudio(f"file '{path}' does not exist; check the path")
    if not path.is_file():
        raise BadAudio(f"expected a sound file, but '{path}' is a pipe or a device; name a file")
    _require_within(path.stat().st_size / 2, f"'{path}'")
    return _decode(path.read_bytes(), f"'{path}'", allow_silence, longest_s)


def read_bytes(
    content: bytes, name: str, *, allow_silence: bool = False, longest_s: float = math.inf
) -> tuple[Tensor, int]:
    """Read a whole sound file in memory, such as one from an archive or a table.

    Args:
        content: the file, of a kind that `read` takes.
        name: its name in errors.
        allow_silence: accept sound whose peak is below `SILENCE`.
        longest_s: seconds; longer sound is refused once this much is decoded.

    Returns:
        The sound, float32 [c, t] with full scale at 1, and its sample rate in Hz.

    Raises:
        BadAudio: not sound, cut off, too long, empty, silent, NaN or infinite.
    """
    _require_within(len(content) / 2, f"'{name}'")
    return _decode(content, f"'{name}'", allow_silence, longest_s)


def _require_within(samples: float, name: str) -> None:
    what = f"{name} has {samples:,.0f} samples or more (a second counts for at least {LOWEST:,})"
    require_limit("SAMPLES", math.ceil(samples), what, BadAudio)


def _decode(
    content: bytes, name: str, allow_silence: bool, longest_s: float = math.inf
) -> tuple[Tensor, int]:
    if not content:
        raise BadAudio(f"{name} is empty (0 bytes); fetch or export it again")
    parts: list[np.ndarray] = []
    formats: list[tuple[int, int]] = []
    for stream in containers.streams(content, name):
        samples, sample_rate = _decode_stream(stream, name, parts, longest_s)
        parts.append(samples)
        formats.append((sample_rate, len(samples)))
    if len(set(formats)) > 1:
        kinds = ", then ".join(f"{rate} Hz and {channels} channels" for rate, channels in formats)
        raise BadAudio(f"{name} was joined from {kinds}; cut it into single files")
    wav = torch.from_numpy(parts[0] if len(parts) == 1 else np.concatenate(parts, 1))
    require_sound(wav, name, allow_silence=allow_silence)
    return wav, formats[0][0]


def _decode_stream(
    stream: SoundStream, name: str, before: list[np.ndarray], longest_s: float
) -> tuple[np.ndarray, int]:
    """Decode a whole stream to [c, t], and its rate; the limits include the streams before it."""
    blocks: list[np.ndarray] = []
    already = sum(part.shape[1] for part in before)
    channels = rate = frames = least = 0
    for block in (ffmpeg.blocks if stream.demuxer else _blocks)(stream, name):
        samples, rate, least = block
        blocks.append(samples)
        frames, channels = frames + len(samples), samples.shape[1]
        _require_within((already + frames) * max(channels, LOWEST / rate), name)
        if already + frames > longest_s * rate:
            raise BadAudio(f"{name} lasts over {longest_s:g} s; cut it, or raise the limit")
    if stream.share < 1:
        least = max(round(frames / max(stream.share, 1e-9)), frames + 1)
    if not blocks:
        raise containers.unreadable(name, "nothing of it decodes to sound")
    if frames < least:
        raise BadAudio(
            f"{name} is cut off: its header promises {least / rate:.2f} s and "
            f"{frames / rate:.2f} s are there; fetch or export it again"
        )
    whole = np.empty((channels, frames), np.float32)
    return np.concatenate([samples.T for samples in blocks], 1, out=whole), rate


def _blocks(stream: SoundStream, name: str) -> Iterator[SoundBlock]:
    """Decode a stream with libsndfile, block by block."""
    import soundfile

    class Forward(soundfile.SoundFile):  # type: ignore[misc]  # it has no types
        """Read without seeking, which a FLAC of unknown length, or a GSM 6.10, does not allow."""

        def seekable(self) -> bool:
            return False

    found = hashlib.md5(usedforsecurity=False)
    frames = 0
    try:
        with Forward(io.BytesIO(stream.content)) as sound:
            if sound.samplerate < 1:
                raise containers.unreadable(name, f"its rate is {sound.samplerate} Hz")
            least = stream.least or (0 if sound.format == "FLAC" else int(sound.frames))
            size = max(1, BLOCK // sound.channels)
            block = None
            while block is None or len(block):
                block = sound.read(size, dtype="int32" if stream.md5 else "float32", always_2d=True)
                if stream.md5:  # libsndfile shifts them to the upper end
                    numbers = (block >> (32 - stream.bits)).astype("<i4")[..., None].view(np.uint8)
                    found.update(numbers[..., : -(-stream.bits // 8)].tobytes())
                    block = np.float32(2**-31) * block.astype(np.float32)
                frames += len(block)
                yield SoundBlock(block, sound.samplerate, least)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise containers.unreadable(name, str(error).split(": ")[-1].strip().rstrip(".")) from error
    if stream.md5 and frames >= least and found.digest() != stream.md5:
        raise BadAudio(
            f"{name} is damaged: its sound is not the one whose checksum its header holds; fetch "
            "or export it again"
        )


def require_sound(wav: Tensor, name: str, *, allow_silence: bool = False) -> None:
    """Refuse unusable sound [c, t]; `name` is its name in the error.

    Raises:
        BadAudio: the wrong shape, no samples, NaN or infinite samples, or silence.
    """
    if wav.dim() != 2:
        raise BadAudio(f"{name} has shape {list(wav.shape)}; expected [channels, samples]")
    if wav.numel() == 0:
        raise BadAudio(f"{name} has no samples (0 s); expected sound")
    samples = wav.detach().float().cpu().numpy()  # torch would start all its threads for this
    peak = max(-samples.min(), samples.max())  # NaN if any sample is
    if not np.isfinite(peak):
        bad = int((~np.isfinite(samples)).sum())
        raise BadAudio(
            f"{name} has {bad} samples that are NaN or infinite; export or generate it again"
        )
    if not allow_silence and peak < SILENCE:
        raise BadAudio(f"{name} is silent (peak below {SILENCE:g}); leave it out")


def is_silent(wav: Tensor) -> bool:
    """Whether the peak is below `SILENCE`."""
    return wav.numel() == 0 or bool(wav.abs().max() < SILENCE)


def mono(wav: Tensor, sample_rate: int, name: str = "the sound") -> Tensor:
    """Mix sound [b, c, t] to one channel, [b, t], differentiably; half precision becomes float32.

    This is the mean of the channels, or the loudest channel if they cancel each other, since a copy
    with one channel inverted is still a copy. A large constant offset is removed: it is not sound.
    Embedders, indexes and detectors all use this mix, so a clip equals itself everywhere.

    Raises:
        BadAudio: another shape, no samples, a rate of 0 or below, NaN or infinite samples.
    """
    if wav.dim() != 3 or wav.numel() == 0 or sample_rate <= 0:
        raise BadAudio(
            f"expected {name} as [batch, channels, samples] of at least one sample at a rate above "
            f"0, got {list(wav.shape)} at {sample_rate} Hz; add the missing dimensions"
        )
    if not torch.isfinite(wav).all():
        bad = int((~torch.isfinite(wav)).sum())
        raise BadAudio(
            f"expected {name} to be finite, got {bad} samples that are NaN or infinite; generate "
            "it again, in float32"
        )
    if wav.dtype not in (torch.float32, torch.float64):
        wav = wav.float()
    with torch.no_grad():
        offset = wav.mean(2, keepdim=True)
        moved = offset.abs() > OFFSET * wav.std(2, correction=0, keepdim=True)
    if moved.any():
        wav = torch.where(moved, wav - wav.mean(2, keepdim=True), wav)
    middle = wav.mean(1)
    if wav.shape[1] == 1:
        return middle
    with torch.no_grad():  # scaled, since squares of very large samples overflow
        level = wav.abs().amax((1, 2)).clamp_min(torch.finfo(wav.dtype).tiny)[:, None]
        energy = (wav / level[:, None]).square().sum(2)
        cancelled = (middle / level).square().sum(1) < CANCELLED * energy.amax(1)
    loudest = wav[torch.arange(len(wav), device=wav.device), energy.argmax(1)]
    return torch.where(cancelled[:, None], loudest, middle)


def voices(wav: Tensor, sample_rate: int, name: str = "the sound") -> list[list[Tensor]]:
    """What to search for copies: each clip's mix [t], and each channel that differs from it.

    A copy in one channel is buried in the mix if another channel plays something else. A channel
    that is another one at another level is left out, so equal channels are searched once.

    Args:
        wav: sound [b, c, t].
        sample_rate: in Hz.
        name: its name in errors.

    Raises:
        BadAudio: as `mono`.

    >>> one, other = torch.tensor([[1.0, -1, 1, -1], [1, 1, -1, -1]])
    >>> [len(clip) for clip in voices(torch.stack([torch.stack([one, -2 * one])]), 4)]
    [1]
    >>> [len(clip) for clip in voices(torch.stack([torch.stack([one, other])]), 4)]
    [3]
    """
    found = [[mixed] for mixed in mono(wav, sample_rate, name)]
    if wav.shape[1] > 1:
        for clip, one in zip(wav, found, strict=True):
            for channel in mono(clip[:, None], sample_rate, name):
                if not is_silent(channel) and all(_differs(channel, voice) for voice in one):
                    one.append(channel)
    return found


def _differs(channel: Tensor, voice: Tensor) -> bool:
    """Whether a channel [t] holds more than another one does at any level."""
    a, b = (x.double() / x.abs().max().clamp_min(1e-30).double() for x in (channel, voice))
    alike, power = (a @ b).square(), (a @ a) * (b @ b)
    return bool(alike < (1 - DIFFERENT) * power) or not power


def write(path: str | Path, wav: Tensor, sample_rate: int, *, overwrite: bool = False) -> Path:
    """Write sound, whole or not at all.

    WAV and FLAC have 16 bits. Sound whose peak is above full scale is scaled down to it, not
    clipped: embeddings change with clipping, not with the level.

    Args:
        path: ends in .wav, .flac, .ogg or .mp3; missing folders are made.
        wav: [c, t], full scale at 1.
        sample_rate: in Hz.
        overwrite: replace an existing file.

    Returns:
        The path.

    Raises:
        OutputExists: the file exists and `overwrite` is off.
        BadAudio: no samples, NaN or infinite samples. Silence may be written.
        BadSetting: an unknown suffix, or a rate that the format cannot hold.
        OSError: the disk is full, or the folder is read-only.
    """
    path = Path(path)
    containers.writable(path)
    if path.exists() and not overwrite:
        raise OutputExists.at(path)
    content = encode(path, wav, sample_rate)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content, sync=False)
    return path


def encode(path: str | Path, wav: Tensor, sample_rate: int) -> bytes:
    """What `write` would write to a path: the whole file, in memory.

    Raises:
        BadAudio, BadSetting: as `write`.
    """
    import soundfile

    path = Path(path)
    file_format, subtype = containers.writable(path)
    wav = wav.detach().float().cpu()
    require_sound(wav, f"the sound for '{path}'", allow_silence=True)
    samples = (wav / wav.abs().max().clamp_min(1.0)).T.numpy()
    sound = io.BytesIO()
    try:
        soundfile.write(sound, samples, sample_rate, subtype, format=file_format)
    except (soundfile.LibsndfileError, ValueError) as error:
        raise BadSetting(
            f"'{path}' cannot hold {len(wav)} channels at {sample_rate} Hz ({error}); "
            "choose another format or rate"
        ) from error
    return sound.getvalue()


class Window(NamedTuple):
    """A stretch of a longer sound."""

    start_s: float
    wav: Tensor  # [c, t]


def windows(wav: Tensor, sample_rate: int, window_s: float, hop_s: float) -> list[Window]:
    """Cut sound [c, t] into windows of `window_s` seconds, one every `hop_s`.

    The last window is flush with the end, so that every sample is in one, and the same sound
    is always cut the same way. Sound shorter than a window is one window of its own length.

    Raises:
        BadSetting: a window or hop under one sample, or a hop longer than the window.

    >>> [w.start_s for w in windows(torch.zeros(1, 10), 1, window_s=4, hop_s=4)]
    [0.0, 4.0, 6.0]
    """
    length, hop = round(window_s * sample_rate), round(hop_s * sample_rate)
    if not 1 <= hop <= length:
        raise BadSetting(
            f"window {window_s:g} s and hop {hop_s:g} s do not fit at {sample_rate} Hz; the hop "
            "has to be at least a sample and at most the window"
        )
    starts = window_starts(wav.shape[-1], length, hop)
    return [Window(start / sample_rate, wav[..., start : start + length]) for start in starts]


def onsets(wav: Tensor, sample_rate: int) -> tuple[list[int], int]:
    """Where a sound [t] begins after silence, and where its last sound ends, in samples.

    Silence is 50 ms or more, 60 dB under the loudest sample.

    >>> onsets(torch.tensor([0.0, 0, 0, 1, 1, 0, 0, 0, 1, 0]), 40)
    ([3, 8], 9)
    """
    loud = (wav.abs() > 1e-3 * wav.abs().max()).nonzero()[:, 0]
    if len(loud) == 0:
        return [], 0
    gap = max(round(0.05 * sample_rate), 1)
    starts = loud[torch.cat([loud[:1] >= gap, loud.diff() > gap])]
    return starts.tolist(), int(loud[-1]) + 1


def window_starts(length: int, size: int, hop: int) -> list[int]:
    """The starts of windows of `size` over `length`: every `hop`, the last flush with the end.

    >>> window_starts(25, size=10, hop=5), window_starts(3, size=10, hop=5)
    ([0, 5, 10, 15], [0])
    """
    last = max(length - size, 0)
    return [*range(0, last, hop), last]
