"""The logs of protection: JSON lines, one for each attempt, written before anything leaves."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from anechoic.certificate.content import Kept, KeptPrompt
from anechoic.errors import BadSetting
from anechoic.protection.result import Attempt


@dataclass(frozen=True)
class AttemptLog:
    """Appends each attempt to a file, and those that are copies to another.

    Args:
        run, hits: the files; None: no such log.
        prompts: "clear"; "hashed": their SHA-256 without a salt, which shows that two prompts are
            the same, and which anyone can compute of a prompt that they suspect; "left out". With
            the last two, captions of clips are left out as well: a memorized prompt is one.
        about: what each line says of the run.

    Raises:
        BadSetting: another way to log prompts.
    """

    run: Path | None
    hits: Path | None
    prompts: Kept
    about: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.prompts not in get_args(Kept):
            raise BadSetting(f"expected one of {get_args(Kept)} for prompts, got {self.prompts!r}")

    def add(self, number: int, prompt: str, attempt: Attempt, outcome: str) -> None:
        """Log an attempt at the sound with a number, counted from 1.

        Raises:
            OSError: a log cannot be written.
        """
        content = attempt.to_dict()
        if self.prompts != "clear":
            content = _without(content, prompt)
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            **self.about,
            "sound": number,
            "prompt": asdict(KeptPrompt.of(prompt, self.prompts)),
            **content,
            "outcome": outcome,
        }
        for file in (self.run, self.hits if attempt.status == "copy" else None):
            if file is not None:
                append_line(file, json.dumps(line, allow_nan=False, default=str))


def _without(content: Any, prompt: str) -> Any:
    """JSON without captions and paths of clips, and without the prompt in any text."""
    if isinstance(content, dict):
        hidden = ("caption", "info", "path", "substitute")
        return {k: _without(v, prompt) for k, v in content.items() if k not in hidden}
    if isinstance(content, list):
        return [_without(one, prompt) for one in content]
    return content.replace(prompt, "(prompt)") if isinstance(content, str) else content


def append_line(file: Path, text: str) -> None:
    """Append a line whole, and wait until it is on the disk.

    What a killed process left of a line stays a line of its own.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+b", buffering=0) as log:
        torn = log.tell() > 0 and (log.seek(-1, os.SEEK_END), log.read(1))[1] != b"\n"
        content = memoryview(b"\n" * torn + text.encode() + b"\n")
        while content:  # appended at the end, wherever it was read
            content = content[log.write(content) :]
        os.fsync(log.fileno())
