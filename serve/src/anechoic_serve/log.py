"""The audit log: JSON lines, each on the disk before its answer leaves; rotated by size."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any

from anechoic.certificate.content import Kept, KeptPrompt
from anechoic.protection.log import AttemptLog, append_line
from anechoic.protection.result import ProtectedSound


@dataclass(frozen=True)
class AuditLog:
    """Appends what was asked, and what became of it.

    Args:
        file: of the log; None: no log.
        prompts: how prompts are shown.
        most_bytes: size from which on the file gets a number, and a new one begins.
        files: how many of those with a number stay.
    """

    file: Path | None
    prompts: Kept = "hashed"
    most_bytes: int = 64 * 2**20
    files: int = 5
    _one_at_a_time: Lock = field(default_factory=Lock)

    def sound(self, number: int, sound: ProtectedSound, about: Mapping[str, Any]) -> None:
        """Log all attempts at one sound of a request.

        Raises:
            OSError: the log cannot be written.
        """
        with self._one_at_a_time:
            self._rotate()
            if not sound.attempts:
                self._line({**about, "sound": number, "prompt": self._kept(sound.prompt),
                            "outcome": sound.verdict})  # fmt: skip
            lines = AttemptLog(self.file, None, self.prompts, about)
            for place, attempt in enumerate(sound.attempts, 1):
                last = place == len(sound.attempts)
                outcome = sound.verdict if last else "next attempt"
                lines.add(number, sound.prompt, attempt, outcome)

    def event(self, about: Mapping[str, Any]) -> None:
        """Log anything else, such as a check.

        Raises:
            OSError: the log cannot be written.
        """
        with self._one_at_a_time:
            self._rotate()
            self._line(about)

    def _line(self, about: Mapping[str, Any]) -> None:
        if self.file is not None:
            time = datetime.now(UTC).isoformat(timespec="milliseconds")
            append_line(self.file, json.dumps({"time": time, **about}, allow_nan=False))

    def _kept(self, prompt: str) -> dict[str, Any]:
        return asdict(KeptPrompt.of(prompt, self.prompts))

    def _rotate(self) -> None:
        """Number the file if it has grown too large: .1 is the newest of those with a number."""
        if self.file is None:
            return
        with suppress(FileNotFoundError):
            if self.file.stat().st_size < self.most_bytes:
                return
            for number in range(self.files, 0, -1):
                older = self.file.with_name(f"{self.file.name}.{number}")
                newer = older.with_name(f"{self.file.name}.{number - 1}")
                if number == 1:
                    newer = self.file
                if newer.exists():
                    newer.replace(older)
