"""Finds all streams in the container of a sound file, and whether each is complete.

libsndfile decodes one stream, trusts the length in its header, and drops the rest without an error.
So the whole container is parsed here, and every stream goes to libsndfile by itself, with a header
that states its real length. FFmpeg decodes what is left of a file that was cut off; so the units of
its containers are counted here, too.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from anechoic import framing
from anechoic.errors import BadAudio, BadSetting

if TYPE_CHECKING:
    import numpy as np

AGAIN = "fetch or export it again"
STREAMED = (2**31, 2**32)  # sizes that writers into a pipe state, less a header or a rounding
NEAR = 2**16  # bytes by which such a size may be off
SOX_AIFF = 0x7F000000  # the size that SoX states in an AIFF that it pipes
FORKS = ("._", ".AppleDouble")  # in the working folder: libsndfile takes them for half of an MP3

OGG_FLAC = b"\x7fFLAC"  # begins the first packet

WRITABLE = {  # by the end of a file's name: libsndfile's names of the container and the encoding
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}


def writable(path: Path) -> tuple[str, str]:
    """Container and encoding of a sound file to write, as libsndfile names them.

    Raises:
        BadSetting: it is a folder, or its name ends in no format that is written.
    """
    if path.is_dir():
        raise BadSetting(f"'{path}' is a folder; name a sound file to write")
    if (found := WRITABLE.get(path.suffix.lower())) is None:
        raise BadSetting(
            f"'{path}' has no known sound format; end the name in one of {', '.join(WRITABLE)}"
        )
    return found


class SoundStream(NamedTuple):
    """One stream of a sound file."""

    content: bytes  # a whole file
    least: int = 0  # frames that it has to decode to; 0: the container does not state it
    share: float = 1.0  # share of the promised sound that is there
    md5: bytes = b""  # of its samples as whole numbers; empty: the container does not state it
    bits: int = 0  # of these numbers
    demuxer: str = ""  # FFmpeg's name of the container; empty: libsndfile decodes it


class SoundBlock(NamedTuple):
    """Some decoded sound of a stream."""

    samples: np.ndarray  # [t, c], float32
    rate: int  # Hz
    least: int  # frames that the stream has to decode to; 0 or less: it does not state them


def streams(content: bytes, name: str) -> list[SoundStream]:
    """The streams of a sound file, in order: more than one if files were joined.

    Args:
        content: the file: WAV, RF64, W64, AIFF, AU, CAF, FLAC, Ogg, MP3, MP2, or one of `framing`.
        name: its name in errors.

    Raises:
        BadAudio: another container, or one that is damaged, cut off or goes on behind its end.
    """
    content = content[_id3_end(content, 0) :]
    magic = content[:4]
    if layout := LAYOUTS.get(magic):
        return [_chunked(content, layout, name)]
    if magic in (b".snd", b"dns."):
        return [_au(content, name)]
    if magic == b"fLaC":
        return [_flac(content, name)]
    if magic == b"OggS":
        links = _ogg(content, name)
        by = "ogg" if content[28:].startswith(OGG_FLAC) else ""  # libsndfile takes it for damaged
        return [link._replace(demuxer=by) for link in links]
    for kind in framing.KINDS:
        if kind.begins.match(content):
            return [_framed(content, kind, name)]
    return _mp3(content, name)


def unreadable(name: str, reason: str) -> BadAudio:
    """The error for a file that cannot be decoded."""
    return BadAudio(
        f"{name} cannot be read as sound ({reason}); it is cut off, damaged, or of a format that "
        f"is not read: {AGAIN}, as WAV, FLAC, OGG or MP3"
    )


def _goes_on(name: str, what: str) -> BadAudio:
    return BadAudio(
        f"{name} goes on behind its end ({what}), so not all of it would be read; cut it into "
        "single files, or export it again"
    )


# ---------------------------------------------------------------------- chunks: WAV, AIFF, W64, CAF


class _Layout(NamedTuple):
    """How a file is divided into chunks: an id, a size, the content."""

    first: int  # where the first chunk begins
    id: int  # bytes of an id
    size: int  # bytes of a size
    order: Literal["little", "big"]
    counted: int  # bytes of the chunk's head that its size includes
    align: int
    sound: bytes  # how the id of the chunk with the sound begins


WAV = _Layout(12, 4, 4, "little", 0, 2, b"data")
LAYOUTS = {
    b"RIFF": WAV,
    b"RF64": WAV,
    b"RIFX": WAV._replace(order="big"),
    b"FORM": _Layout(12, 4, 4, "big", 0, 2, b"SSND"),
    b"riff": _Layout(40, 16, 8, "little", 24, 8, b"data"),
    b"caff": _Layout(8, 4, 8, "big", 0, 1, b"data"),
}
PCM = {1, 3, 6, 7, 0xFFFE}  # formats of a WAV whose blocks are frames


class _Chunk(NamedTuple):
    id: bytes
    start: int  # start of its content
    size: int


def _chunk(content: bytes, layout: _Layout, at: int) -> _Chunk | None:
    """The chunk that begins here; None if there is no id."""
    start = at + layout.id + layout.size
    ident = content[at : at + layout.id]
    if start > len(content) or not all(32 <= byte < 127 for byte in ident[:4]):
        return None
    size = int.from_bytes(content[at + layout.id : start], layout.order)
    return _Chunk(ident, start, max(size - layout.counted, 0))


def _after(content: bytes, layout: _Layout, chunk: _Chunk) -> int:
    """Where the next chunk begins; not every writer pads."""
    end = chunk.start + chunk.size
    padded = end + -end % layout.align
    return end if _chunk(content, layout, padded) is None and padded != len(content) else padded


def _chunked(content: bytes, layout: _Layout, name: str) -> SoundStream:
    found: _Chunk | None = None
    long_at, block, share, at = None, 0, 1.0, layout.first
    while chunk := _chunk(content, layout, at):
        there = len(content) - chunk.start
        if chunk.id[:4] in LAYOUTS:
            raise _goes_on(name, "another file was joined to it")
        if chunk.id.startswith(layout.sound):
            if found is not None:
                raise _goes_on(name, "it has two chunks of sound")
            size_at, width = chunk.start - layout.size, layout.size
            if long_at is not None and chunk.size == 2**32 - 1:
                size_at, width = long_at, 8
                size = int.from_bytes(content[long_at : long_at + 8], "little")
                chunk = chunk._replace(size=size)
            streamed = _is_streamed(content, layout, chunk, there)
            if streamed or chunk.size > there:  # libsndfile gets the real size
                share = 1.0 if streamed else there / chunk.size
                stated = (there + layout.counted).to_bytes(width, layout.order)
                content = content[:size_at] + stated + content[size_at + width :]
                chunk = chunk._replace(size=there)
            found = chunk
        elif chunk.id == b"ds64":
            long_at = chunk.start + 8
        elif chunk.id == b"fmt " and layout.id == 4:
            tag, block = (
                int.from_bytes(content[i : i + 2], layout.order)
                for i in (chunk.start, chunk.start + 12)
            )
            block = block if tag in PCM else 0
        if chunk.size > there:
            break
        at = _after(content, layout, chunk)
    if found is None:
        raise unreadable(name, "it has no sound chunk")
    if (chunk or len(content) - at >= 8) and not _is_tag(content, at):
        raise _goes_on(name, f"{len(content) - at} bytes follow that are not part of it")
    # libsndfile takes what follows a W64 for sound
    return SoundStream(content[:at], found.size // block if block else 0, share)


def _is_streamed(content: bytes, layout: _Layout, chunk: _Chunk, there: int) -> bool:
    """Whether the stated size means nothing: the writer could not go back to fill it in."""
    if chunk.size > there:
        marks = (*STREAMED, SOX_AIFF, 2**63, 2**64)
        return any(abs(chunk.size - mark) < NEAR for mark in marks)
    if chunk.size > 0 or there == 0:
        return False
    after: _Chunk | None = chunk  # of size 0: it may be empty, with chunks behind it
    while after is not None and after.start + after.size < len(content):
        after = _chunk(content, layout, _after(content, layout, after))
    return after is None or after.start + after.size > len(content)


def _au(content: bytes, name: str) -> SoundStream:
    order: Literal["little", "big"] = "big" if content[:4] == b".snd" else "little"
    start, size = (int.from_bytes(content[at : at + 4], order) for at in (4, 8))
    there = len(content) - start
    if size == 0 or abs(size - 2**32) < NEAR or abs(size - 2**31) < NEAR:
        return SoundStream(content[:8] + max(there, 0).to_bytes(4, order) + content[12:])
    if size < there:
        raise _goes_on(name, f"{there - size} bytes follow that are not part of it")
    return SoundStream(content, share=max(there, 0) / size)


# -------------------------------------------------------------------------------------- FLAC, Ogg


def _flac(content: bytes, name: str) -> SoundStream:
    """libFLAC stops at the stated total; without one it decodes or refuses every byte, but takes
    silence for frames that are missing."""
    if len(content) < 42 or content[4] & 127:
        raise unreadable(name, "it does not begin with a FLAC header")
    if content[-128:-125] == b"TAG":
        content = content[:-128]
    head = int.from_bytes(content[18:26], "big")
    total, md5 = head % 2**36, content[26:42]
    whole = content[:18] + (head - total).to_bytes(8, "big") + content[26:]
    return SoundStream(whole, total, md5=md5 if any(md5) else b"", bits=(head >> 36) % 32 + 1)


MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _page_sum(page: bytes) -> int:
    """The checksum of an Ogg page whose own field is zero: the CRC of zlib, with mirrored bits."""
    mirrored = zlib.crc32(page.translate(MIRRORED), 2**32 - 1) ^ (2**32 - 1)
    return int(f"{mirrored:032b}"[::-1], 2)


def _ogg(content: bytes, name: str) -> list[SoundStream]:
    """The links of a chain (RFC 3533); libsndfile stops at the end of the first."""
    links: list[SoundStream] = []
    at = start = 0
    serial = number = None  # of the open link, and its next page
    while at < len(content) and (serial or not links or not _is_tag(content, at)):
        body = at + 27 + (content[at + 26] if at + 26 < len(content) else 0)
        page = content[at : body + sum(content[at + 27 : body])]
        if content[at : at + 4] != b"OggS" and serial is None and links:
            raise _goes_on(name, f"{len(content) - at} bytes follow that are not part of it")
        if at + 26 >= len(content) or at + len(page) < body + sum(page[27 : body - at]):
            raise BadAudio(f"{name} is cut off: its last page is incomplete; {AGAIN}")
        stated = int.from_bytes(page[22:26], "little")
        if page[:4] != b"OggS" or _page_sum(page[:22] + bytes(4) + page[26:]) != stated:
            raise BadAudio(f"{name} is damaged {at} bytes after its start; {AGAIN}")
        own, index = page[14:18], int.from_bytes(page[18:22], "little")
        if serial is None:
            start, serial, number = at, own, index
        if own != serial:
            raise BadAudio(
                f"{name} holds several streams side by side, or one was cut off before another; "
                "export its sound alone"
            )
        if index != number:
            raise BadAudio(f"{name} is damaged: pages are missing; {AGAIN}")
        number = (index + 1) % 2**32
        at += len(page)
        if page[5] & 4:
            links.append(SoundStream(content[start:at]))
            serial = None
    if serial is not None:
        raise BadAudio(f"{name} is cut off: its last page does not end the stream; {AGAIN}")
    return links


# ----------------------------------------------------------------------------- decoded by FFmpeg


def _framed(content: bytes, kind: framing.Framing, name: str) -> SoundStream:
    at, found = 0, 0
    while at < len(content) and not (at and _is_tag(content, at)):
        end = kind.end(content, at)
        if len(content) - at < kind.head or (end or 0) > len(content):
            raise BadAudio(f"{name} is cut off: its last part is incomplete; {AGAIN}")
        if end is None:
            raise BadAudio(f"{name} is damaged {at} bytes after its start; {AGAIN}")
        found += kind.once is not None and kind.once.match(content, at) is not None
        at = end
    if kind.once and found == 0:
        raise BadAudio(f"{name} is cut off: its list of contents is missing; {AGAIN}")
    if found > 1:
        raise _goes_on(name, "another file was joined to it")
    return SoundStream(content[:at], demuxer=kind.demuxer)


# -------------------------------------------------------------------------------------- MP3, MP2

MPEG1, MPEG2, MPEG2_5 = 3, 2, 0
III, II = 1, 2  # layers
DELAY = 529  # samples of decoder delay, which mpg123 removes
KBPS = {
    (True, III): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),  # MPEG 1
    (True, II): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (False, III): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, II): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


class _Frame(NamedTuple):
    """A frame of layer II or III, from its header of four bytes."""

    start: int
    end: int
    samples: int
    side: int  # bytes of side information behind the header
    layer: int


def _frame(content: bytes, at: int) -> _Frame | None:
    head = int.from_bytes(content[at : at + 4], "big")
    version, step, rate, padding = head >> 19 & 3, head >> 12 & 15, head >> 10 & 3, head >> 9 & 1
    layer = head >> 17 & 3
    if head >> 21 != 0x7FF or version == 1 or layer not in (II, III):
        return None
    if step in (0, 15) or rate == 3:
        return None
    first, stereo = version == MPEG1, head >> 6 & 3 != 3
    rate_hz = (44_100, 48_000, 32_000)[rate] >> {MPEG1: 0, MPEG2: 1, MPEG2_5: 2}[version]
    samples = 1152 if first or layer == II else 576
    size = samples // 8 * 1000 * KBPS[first, layer][step - 1] // rate_hz + padding
    return _Frame(at, at + size, samples, (9, 17, 32)[first + stereo], layer)


class _Length(NamedTuple):
    """What a frame without sound, Xing's or Fraunhofer's, states about the frames behind it."""

    frames: int | None
    size: int | None  # bytes, this frame included
    trimmed: int  # samples that a decoder takes off at the start and the end


def _length(content: bytes, frame: _Frame) -> _Length | None:
    if frame.layer == II:
        return None
    at = frame.start + 4 + frame.side
    if content[frame.start + 36 : frame.start + 40] == b"VBRI":
        at = frame.start + 46
        size, frames = (int.from_bytes(content[i : i + 4], "big") for i in (at, at + 4))
        return _Length(frames, size, DELAY)
    if content[at : at + 4] not in (b"Xing", b"Info"):
        return None
    flags = int.from_bytes(content[at + 4 : at + 8], "big")
    at += 8
    stated: list[int | None] = []
    for flag, length in ((1, 4), (2, 4), (4, 100), (8, 4)):
        stated.append(int.from_bytes(content[at : at + 4], "big") if flags & flag else None)
        at += length if flags & flag else 0
    gaps = int.from_bytes(content[at + 21 : at + 24], "big") if at + 24 <= frame.end else 0
    return _Length(stated[0], stated[1], (gaps >> 12) + max(gaps % 4096, DELAY))


def _frames(content: bytes, name: str) -> Iterator[_Frame]:
    """Every frame; only tags and zeros may be between them."""
    at: int = 0
    known: _Frame | None = None
    while at < len(content):
        frame = _frame(content, at)
        if frame is None:
            skipped: int | None = _tag_end(content, at)
            if skipped == at and known is None:
                skipped = _first_frame(content, at)
            if skipped == at:
                raise BadAudio(
                    f"{name} is damaged {at} bytes after its start: expected an MP3 frame or a "
                    f"tag; {AGAIN}"
                )
            if skipped is None:
                return
            at = skipped
            continue
        if frame.end > len(content):
            raise BadAudio(f"{name} is cut off: its last MP3 frame is incomplete; {AGAIN}")
        known = frame
        yield frame
        at = frame.end


def _first_frame(content: bytes, at: int) -> int | None:
    """Where two frames follow each other, in a file that does not begin with one."""
    for match in re.finditer(rb"\xff", content[at : at + NEAR]):
        frame = _frame(content, at + match.start())
        if frame and (frame.end == len(content) or _frame(content, frame.end)):
            return frame.start
    return None


def _mp3(content: bytes, name: str) -> list[SoundStream]:
    """One stream from each length header on, and one for frames behind a stated length."""
    parts: list[tuple[_Length | None, list[_Frame]]] = []
    left = 0.0
    for frame in _frames(content, name):
        length = _length(content, frame)
        if length is not None or left <= 0:
            parts.append((length, []))
            left = float("inf") if length is None or not length.frames else length.frames + 1
        parts[-1][1].append(frame)
        left -= 1
    if not parts:
        raise unreadable(name, "it begins like none of the known formats")
    if fork := next((fork for fork in FORKS if os.path.exists(fork)), None):
        raise BadAudio(
            f"{name} cannot be decoded while '{fork}' is in the current folder, since libsndfile "
            "takes it for a part of every MP3; remove it, or work in another folder"
        )
    return [_mp3_stream(content, length, frames) for length, frames in parts]


def _mp3_stream(content: bytes, length: _Length | None, frames: list[_Frame]) -> SoundStream:
    own = b"".join(content[frame.start : frame.end] for frame in frames)
    samples = frames[0].samples * (len(frames) - (length is not None))
    if frames[0].layer == II:
        return SoundStream(own, samples)
    if length is None or not length.frames:
        if length is not None:
            own = own[frames[0].end - frames[0].start :]
        return SoundStream(_with_length(own, frames[0], samples), max(samples - DELAY, 0))
    missing = length.frames + 1 - len(frames)
    # some encoders also count the frame with the header; then all bytes are there
    if missing > 1 or (missing == 1 and (length.size or len(own) + 1) > len(own)):
        return SoundStream(own, share=(len(frames) - 1) / length.frames)
    return SoundStream(own, max(samples - length.trimmed, 0))


def _with_length(content: bytes, like: _Frame, samples: int) -> bytes:
    """The stream after a frame that states its length, which libsndfile would guess otherwise."""
    head = int.from_bytes(content[:4], "big") & ~(15 << 12 | 1 << 9) | 8 << 12 | 1 << 16
    size = getattr(_frame(head.to_bytes(4, "big"), 0), "end", 0)  # long enough at this bitrate
    stated = struct.pack(">4sIII", b"Info", 3, samples // like.samples, size + len(content))
    return (head.to_bytes(4, "big") + bytes(like.side) + stated).ljust(size, b"\0") + content


# ------------------------------------------------------------------------------------------- tags

ZEROS = re.compile(rb"\0+")


def _id3_end(content: bytes, at: int) -> int:
    """The end of an ID3v2 tag that begins here; here, if there is none."""
    head = content[at : at + 10]
    if head[:3] != b"ID3" or len(head) < 10 or max(head[6:]) > 127:
        return at
    size = sum(byte << 7 * place for place, byte in enumerate(reversed(head[6:])))
    return at + 10 + size + (10 if head[5] & 16 else 0)


def _tag_end(content: bytes, at: int) -> int:
    """The end of a tag or a run of zeros that begins here; here, if there is neither."""
    if content[at] == 0:
        return ZEROS.match(content, at).end()  # type: ignore[union-attr]
    if content.startswith(b"TAG", at):
        return at + (227 if content.startswith(b"TAG+", at) else 128)
    if content.startswith(b"APETAGEX", at) and at + 32 <= len(content):
        size = int.from_bytes(content[at + 12 : at + 16], "little")  # a footer has none
        return at + 32 + (size if content[at + 23] & 32 else 0)
    return _id3_end(content, at)


def _is_tag(content: bytes, at: int) -> bool:
    """Whether only tags and zeros follow from here on."""
    while at < len(content):
        start, at = at, _tag_end(content, at)
        if at == start:
            return False
    return True
