"""What there is to examine: sounds that are to be generated, or those of a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anechoic.errors import BadAudio, BadSetting
from anechoic.index import captions

Generate = Callable[[str, int], tuple[Any, int]]  # prompt, seed -> sound [c, t], sample rate in Hz
PLAIN = "none"  # the guard of a generator that was given without one


@dataclass(frozen=True)
class Sample:
    """One sound to examine."""

    name: str  # what the report calls it
    prompt: str = ""  # empty: not known
    seed: int | None = None
    guard: str = ""  # empty: made elsewhere
    file: Path | None = None  # None: to be generated
    info: Mapping[str, str] = field(default_factory=dict)  # what else is known of it


@dataclass(frozen=True)
class Unexamined:
    """A sound that could not be examined, and why not."""

    take: Sample
    reason: str


@dataclass(frozen=True)
class Plan:
    """All that was asked for; what could be refused at once is refused."""

    takes: Sequence[Sample]
    refused: Sequence[Unexamined] = ()
    notes: Sequence[str] = ()


def generated(guards: Iterable[str], prompts: Sequence[str], seeds: Sequence[int]) -> Plan:
    """Every prompt under every seed and guard.

    So ordered that the guards take turns: what is there first compares them all, and tells how long
    the rest will take. A prompt that is given twice is asked once, and a note says so.

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
    takes = [
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
    return Plan(takes, notes=notes)


def recorded(folder: str | Path, prompts: str | Path | None = None) -> Plan:
    """The files of a folder and of the folders in it, in the order of their names.

    Whatever has no name of a sound file is tried all the same: a file is either examined or listed
    with the reason. Hidden files are counted in a note.

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
        raise BadAudio(f"expected a folder of sounds, but '{folder}' is none; check the path")
    told = {} if prompts is None else {line.file: line for line in captions.read(prompts)}
    own = None if prompts is None else Path(prompts).resolve()
    takes, refused, hidden = [], [], 0
    for file, reason in _files(root):
        if file.resolve() == own:
            continue
        if file.name.startswith("."):
            hidden += 1
            continue
        place = file.relative_to(root).as_posix()
        line = told.pop(place, None)
        info = dict(line.info) if line else {}
        seed, guard = info.pop("seed", ""), info.pop("guard", "")
        take = Sample(
            readable(place),
            line.caption if line else "",
            int(seed) if seed.isdecimal() else None,
            guard,
            file,
            info,
        )
        if reason:
            refused.append(Unexamined(take, reason))
        else:
            takes.append(take)
    missing = "the file of prompts names it, but there is no such file in the folder"
    refused += [
        Unexamined(Sample(readable(line.file), line.caption, file=root / line.file), missing)
        for line in told.values()
    ]
    if not takes and not refused:
        raise BadAudio(f"there are no files in '{folder}'; check the path")
    notes = [f"{hidden} hidden files of the folder were passed over"] if hidden else []
    return Plan(takes, refused, notes)


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
                yield file, "it is no file: a broken link, or a device"
    for error in failed:
        yield Path(os.fsdecode(error.filename)), f"the folder cannot be read: {error.strerror}"


def readable(name: str) -> str:
    """A file name as text; bytes of it that are no UTF-8 are spelt out.

    >>> readable("caf\\udce9.wav")
    'caf\\\\xe9.wav'
    """
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def read_prompts(path: str | Path) -> list[str]:
    """The prompts of a file: a line each, or the captions of a CSV, JSON lines or Parquet file.

    Raises:
        BadSetting: no such file, no UTF-8 text, or no prompts in it.
        BadCaptions: a table without captions.
    """
    path = Path(path)
    if path.suffix.lower() in (".csv", ".jsonl", ".ndjson", ".parquet"):
        from anechoic.audit.prompts import PromptFile

        return [line["caption"] for line in PromptFile(path).lines]
    try:
        lines = [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise BadSetting(f"'{path}' is no UTF-8 text ({error.reason}); save it as such") from error
    except OSError as error:
        raise BadSetting(f"prompts '{path}' cannot be read: {error.strerror}") from error
    prompts = [line for line in lines if line]
    if not prompts:
        raise BadSetting(f"'{path}' holds no prompts; write one a line")
    return prompts
