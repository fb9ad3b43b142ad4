"""How the files that FFmpeg decodes are divided into units, each of which states its size.

A file is whole if its last unit is, and if it holds what a file of its kind has once. Where no
length is stated (AAC and AC-3 without a container, a stream that was recorded live), sound that
ends after a whole unit cannot be distinguished from sound that was cut there.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple


class Framing(NamedTuple):
    """A kind of file."""

    demuxer: str  # as FFmpeg names it
    begins: re.Pattern[bytes]
    head: int  # bytes of a unit that `end` reads
    end: Callable[[bytes, int], int | None]  # of the unit that begins here; None: there is none
    once: re.Pattern[bytes] | None = None  # how the one unit begins that a file has exactly once


def _box(content: bytes, at: int) -> int | None:
    """ISO/IEC 14496-12: a size of 4 bytes, or 1 and a size of 8 behind the name, or 0: the rest."""
    size = int.from_bytes(content[at : at + 4], "big")
    if size == 0:
        return len(content)
    size = int.from_bytes(content[at + 8 : at + 16], "big") if size == 1 else size
    return at + size if size >= 8 else None


def _number(content: bytes, at: int) -> tuple[int, int]:
    """The end of a number of EBML, and the number without the bit that marks its length."""
    length = 9 - content[at].bit_length() if at < len(content) else 1
    number = int.from_bytes(content[at : at + length], "big") & (1 << 7 * length) - 1
    return at + length, number


def _element(content: bytes, at: int) -> int | None:
    """RFC 8794: an id and a size; an element of unknown size is divided into its children."""
    size_at, _ = _number(content, at)
    start, size = _number(content, size_at)
    if size_at - at > 4 or start - size_at > 8:
        return None
    unknown = size == (1 << 7 * (start - size_at)) - 1
    return start if unknown else start + size


def _object(content: bytes, at: int) -> int | None:
    """ASF: a name of 16 bytes and a size of 8, which includes both."""
    size = int.from_bytes(content[at + 16 : at + 24], "little")
    return at + size if size >= 24 else None


def _adts(content: bytes, at: int) -> int | None:
    """ISO/IEC 13818-7: a frame of AAC, whose size has 13 bits."""
    head = int.from_bytes(content[at : at + 7], "big")
    size = head >> 13 & 0x1FFF
    return at + size if head >> 44 == 0xFFF and head >> 41 & 3 == 0 and size >= 7 else None


KBPS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)


def _ac3(content: bytes, at: int) -> int | None:
    """ETSI TS 102 366: a frame of AC-3, with a code for its size, or of E-AC-3, with its size."""
    head = content[at : at + 6].ljust(6, b"\0")
    if head[:2] != b"\x0bw":
        return None
    if head[5] >> 3 > 10:  # E-AC-3
        return at + 2 * ((head[2] & 7) << 8 | head[3]) + 2
    rate, code = head[4] >> 6, head[4] & 63
    if rate == 3 or code >= 2 * len(KBPS):
        return None
    kbps = KBPS[code // 2]
    return at + 2 * (2 * kbps, 320 * kbps // 147 + code % 2, 3 * kbps)[rate]


def _block(content: bytes, at: int) -> int | None:
    """A block of WavPack."""
    stated = int.from_bytes(content[at + 4 : at + 8], "little")
    return at + 8 + stated if content[at : at + 4] == b"wvpk" else None


EBML = rb"\x1a\x45\xdf\xa3"
ASF = re.escape(bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"))
KINDS = (
    Framing(
        "mov", re.compile(rb"(?s)....(ftyp|moov|mdat|wide|free|skip|pnot)"), 8, _box,
        re.compile(rb"(?s)....moov"),
    ),
    Framing("matroska", re.compile(EBML), 2, _element, re.compile(EBML)),
    Framing("asf", re.compile(ASF), 24, _object, re.compile(ASF)),
    Framing("wv", re.compile(rb"wvpk"), 8, _block),
    Framing("ac3", re.compile(rb"(?s)\x0bw...[\0-\x57]"), 6, _ac3),
    Framing("eac3", re.compile(rb"(?s)\x0bw...[\x58-\x87]"), 6, _ac3),
    Framing("aac", re.compile(rb"\xff[\xf0\xf1\xf8\xf9]"), 7, _adts),
)  # fmt: skip
