"""What an audit examines: sounds that a function generates, or those of a folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anechoic import audio
from anechoic.errors import AnechoicError, BadAudio, BadSetting
from anechoic.index import captions

SHORTEST_S = 0.1  # under it everything sounds alike
MOST_CHANNELS = 8  # as many as FLAC, the format of the cache, holds
Generate = Callable[[str, int], tuple[Any, int]]  # prompt, seed -> sound [c, t], sample rate in Hz
PLAIN = "none"  # the guard of a generator that was given without one


@dataclass(frozen=True)
class Sample:
    """A sound to examine."""

    name: str  # what the report calls it
    prompt: str = ""  # empty: not known
    seed: int | None = None
    guard: str = ""  # empty: made elsewhere
    file: Path | None = None  # None: to be generated
    info: Mapping[str, str] = field(default_factory=dict)  # what else is known of it


@dataclass(frozen=True)
class Unexamined:
    """A sound that could not be examined, and why not."""

    sample: Sample
    reason: str


@dataclass(frozen=True)
class AuditPlan:
    """All sounds of an audit, and those that cannot be examined."""

    samples: Sequence[Sample]
    refused: Sequence[Unexamined] = ()
    notes: Sequence[str] = ()


def generated(guards: Iterable[str], prompts: Sequence[str], seeds: Sequence[int]) -> AuditPlan:
    """Every prompt under every seed and guard.

    The guards alternate, so that the first sounds already compare them all and show how long the
    rest will take. A prompt that is given twice is used once, and a note says so.

    Raises:
        BadSetting: no guards, prompts or seeds, an empty prompt, or a seed twice.
    """
    names = list(guards)
    if not names or not prompts or not seeds:
        raise BadSetting(
            f"an audit needs a generator, prompts and seeds; got {len(names)} generators, "
            f"{len(prompts)} prompts and {len(seeds)} seeds"
        )
    if empty := [i for i, prompt in enumerate(prompts, 1) if not prompt.strip()]:
        raise BadSetting(f"prompt number {empty[0]} is empty; leave it out")
    if len(set(seeds)) < len(seeds):
        raise BadSetting(f"the seeds {list(seeds)} are not distinct; give each once")
    distinct = list(dict.fromkeys(prompts))
    notes = []
    if again := len(prompts) - len(distinct):
        notes.append(f"{again} of {len(prompts)} prompts repeat an earlier one and are asked once")
    samples = [
        Sample(
            " · ".join([prompt, f"seed {seed}", *([guard] if len(names) > 1 else [])]),
            prompt,
            seed,
            guard,
        )
        for seed in seeds
        for prompt in distinct
        for guard in names
    ]
    return AuditPlan(samples, notes=notes)


def recorded(folder: str | Path, prompts: str | Path | None = None) -> AuditPlan:
    """The files of a folder and of the folders in it, in the order of their names.

    Files are tried whatever their names are: each is either examined, or listed with the reason why
    not. A note counts the hidden files.

    Args:
        folder: of sounds.
        prompts: a caption file (`anechoic.index.captions`): `file_name`, `caption`, and other
            columns, of which `seed` and `guard` are known. A line without a file is listed.

    Raises:
        BadAudio: no such folder, or an empty one.
        BadCaptions: a caption file that cannot be used.
    """
    root = Path(folder)
    if not root.is_dir():
        raise BadAudio(
            f"expected a folder of sounds, but '{folder}' is not a folder; check the path"
        )
    named = {} if prompts is None else {line.file: line for line in captions.read(prompts)}
    own = None if prompts is None else Path(prompts).resolve()
    samples, refused, hidden = [], [], 0
    for file, reason in _files(root):
        if file.resolve() == own:
            continue
        if file.name.startswith("."):
            hidden += 1
            continue
        place = file.relative_to(root).as_posix()
        line = named.pop(place, None)
        info = dict(line.info) if line else {}
        seed, guard = info.pop("seed", ""), info.pop("guard", "")
        sample = Sample(
            readable(place),
            line.caption if line else "",
            int(seed) if seed.isdecimal() else None,
            guard,
            file,
            info,
        )
        if reason:
            refused.append(Unexamined(sample, reason))
        else:
            samples.append(sample)
    missing = "the file of prompts names it, but there is no such file in the folder"
    refused += [
        Unexamined(Sample(readable(line.file), line.caption, file=root / line.file), missing)
        for line in named.values()
    ]
    if not samples and not refused:
        raise BadAudio(f"there are no files in '{folder}'; check the path")
    notes = [f"{hidden} hidden files of the folder were passed over"] if hidden else []
    return AuditPlan(samples, refused, notes)


def _files(root: Path) -> Iterator[tuple[Path, str]]:
    """Files below a folder in the order of their names, with the reason why one cannot be read."""
    failed: list[OSError] = []
    for place, folders, names in os.walk(root, onerror=failed.append):
        folders.sort()
        for name in sorted(folders):
            if Path(place, name).is_symlink():
                yield Path(place, name), "it is a link to a folder, and links are not followed"
        for name in sorted(names):
            file = Path(place, name)
            if file.is_file():
                yield file, ""
            else:
                yield file, "it is not a file: a broken link, or a device"
    for error in failed:
        yield Path(os.fsdecode(error.filename)), f"the folder cannot be read: {error.strerror}"


def readable(name: str) -> str:
    """A file name as text; bytes that are not UTF-8 are spelt out.

    >>> readable("caf\\udce9.wav")
    'caf\\\\xe9.wav'
    """
    return os.fsencode(name).decode("utf-8", "backslashreplace")


# ------------------------------------------------------------------------------ the sounds


def make(generate: Generate, prompt: str, seed: int) -> tuple[Tensor, int]:
    """Sound [c, t] and its rate, from whatever kind of function.

    Raises:
        AnechoicError: the function failed, or returned something else.
    """
    try:
        made: Any = generate(prompt, seed)
    except AnechoicError:
        raise
    except Exception as error:  # of any library beneath a generator
        message = " ".join(str(error).split())
        raise AnechoicError(f"the generator failed: {type(error).__name__}: {message}") from error
    try:
        wav, sample_rate = _tensor(made[0]), int(made[1])
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
    if isinstance(error, OSError):
        return f"it cannot be read: {error.strerror or error}"
    message = str(error)
    if not isinstance(error, AnechoicError):
        message = f"it cannot be examined ({type(error).__name__}: {error})"
    return " ".join(message.replace(f"'{file}'", "it").split())


def sha256_of(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def read_sound(file: Path, longest_s: float) -> tuple[Tensor, int]:
    """A sound [c, t] that is to be examined, and its sample rate in Hz.

    Raises:
        BadAudio: it is unusable, too long or too short.
    """
    wav, sample_rate = audio.read(file, longest_s=longest_s)
    seconds = wav.shape[-1] / sample_rate
    if seconds < SHORTEST_S:
        raise BadAudio(
            f"it lasts {seconds:.5f} s, and under {SHORTEST_S:g} s everything sounds alike"
        )
    return wav, sample_rate


def _tensor(wav: object) -> Tensor:
    """What a generator returned as a tensor [c, t]; one channel may come as [t].

    >>> _tensor([0.0, 0.5]).shape
    torch.Size([1, 2])
    """
    sound = torch.as_tensor(wav).detach().float().cpu()
    return sound[None] if sound.dim() == 1 else sound
