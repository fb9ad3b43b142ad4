"""Sounds on their way to be examined: made by a function, or read from a file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from torch import Tensor

from anechoic import audio
from anechoic.audit.examine import torch_sound
from anechoic.audit.samples import Generate
from anechoic.errors import AnechoicError, BadAudio

SHORTEST_S = 0.1  # under it everything sounds alike
MOST_CHANNELS = 8  # that FLAC holds, in which it is kept


def generated(generate: Generate, prompt: str, seed: int) -> tuple[Tensor, int]:
    """Sound [c, t] and its rate, from whatever kind of function.

    Raises:
        AnechoicError: the function failed, or returned something else.
    """
    try:
        made: Any = generate(prompt, seed)
    except AnechoicError:
        raise
    except Exception as error:  # of any library beneath a generator
        told = " ".join(str(error).split())
        raise AnechoicError(f"the generator failed: {type(error).__name__}: {told}") from error
    try:
        wav, sample_rate = torch_sound(made[0]), int(made[1])
    except (TypeError, ValueError, RuntimeError, LookupError) as error:
        raise AnechoicError(
            "a generator returns sound [channels, samples] and its sample rate; got "
            f"{type(made).__name__}"
        ) from error
    if wav.dim() != 2 or len(wav) > MOST_CHANNELS or sample_rate < 1:
        raise AnechoicError(
            "a generator returns sound [channels, samples] and its sample rate; got "
            f"{list(wav.shape)} at {sample_rate} Hz"
        )
    return wav, sample_rate


def reason(error: Exception, file: Path | None) -> str:
    """Why a sound was not examined, in a clause or a sentence."""
    if isinstance(error, FileNotFoundError):
        return "it is gone: it was there when the folder was listed"
    if isinstance(error, UnicodeEncodeError):
        return "its name is no UTF-8, so the decoder cannot open it; rename it"
    if isinstance(error, OSError):
        return f"it cannot be read: {error.strerror or error}"
    told = str(error)
    if not isinstance(error, AnechoicError):
        told = f"it cannot be examined ({type(error).__name__}: {error})"
    return " ".join(told.replace(f"'{file}'", "it").split())


def sha256_of(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _length_s(file: Path) -> float | None:
    """How long a file says that it is; None where it does not say, as something is wrong."""
    import soundfile

    try:
        return float(soundfile.info(str(file)).duration)
    except Exception:  # `audio.read` tells what is wrong, in a sentence
        return None


def read_sound(file: Path, longest_s: float) -> tuple[Tensor, int]:
    """A sound [c, t] that is to be examined, and its sample rate in Hz.

    Raises:
        BadAudio: it is unusable, too long or too short.
    """
    seconds = _length_s(file)
    if seconds is not None and seconds > longest_s:
        raise BadAudio(
            f"it lasts {seconds:.0f} s, over the limit of {longest_s:g} s; raise '--longest', or "
            "cut it"
        )
    wav, sample_rate = audio.read(file)
    seconds = wav.shape[-1] / sample_rate
    if seconds < SHORTEST_S:
        raise BadAudio(
            f"it lasts {seconds:.5f} s, and under {SHORTEST_S:g} s everything sounds alike"
        )
    return wav, sample_rate
