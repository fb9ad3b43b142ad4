"""What protection returns: the sounds that may leave, all attempts, and the promise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from anechoic.certificate.content import NOT_PROMISED
from anechoic.protection.judge import JointJudge, Judge, Judgement
from anechoic.protection.policy import End, Kind
from anechoic.types import parts_of
from anechoic.verdict import EXIT_CODES, Status, Verdict

Outcome = Literal["released", "regenerated", "refused", "reported", "not judged"]


@dataclass(frozen=True)
class Attempt:
    """One generation of a sound, and what the detectors say of it."""

    kind: Kind
    seed: int | None  # None: the generator takes none
    guard: str  # the method that guarded it; empty: none
    settings: Mapping[str, str]  # of the guard
    judgement: Judgement
    seconds: float  # of the generation
    judged_s: float  # seconds of the verification
    substitute: str = ""  # the caption that guided it in place of the prompt

    @property
    def status(self) -> Status:
        """Whether it is a copy."""
        return self.judgement.status

    def to_dict(self) -> dict[str, Any]:
        """The attempt for JSON."""
        why = self.judgement.why()
        return {
            "attempt": self.kind,
            "seed": self.seed,
            "guard": self.guard or None,
            "settings": dict(self.settings),
            **({"substitute": self.substitute} if self.substitute else {}),
            "verdict": self.status,
            **({"reason": why} if why else {}),
            "seconds": round(self.seconds, 4),
            "judged_s": round(self.judged_s, 4),
            "detectors": [
                {"detector": name, **_verdict_to_dict(verdict)}
                for name, verdict in self.judgement.verdicts.items()
            ],
        }


def _verdict_to_dict(verdict: Verdict) -> dict[str, Any]:
    return {"limit": None if verdict.rule is None else verdict.rule.threshold, **verdict.to_dict()}


@dataclass(frozen=True, eq=False)
class ProtectedSound:
    """The result for one prompt: sound that may leave, or none, and why."""

    prompt: str
    verdict: Outcome
    attempts: Sequence[Attempt]
    wav: Tensor | None = None  # [c, t]; None: nothing leaves
    sample_rate: int = 0  # in Hz
    file: Path | None = None  # where it was written
    reason: str = ""  # why nothing leaves, or why it was not judged
    number: int = 1  # its place among the prompts

    @property
    def released(self) -> bool:
        """Whether there is sound that leaves."""
        return self.wav is not None

    def to_dict(self) -> dict[str, Any]:
        """The result for JSON, without the sound."""
        return {
            "prompt": self.prompt,
            "verdict": self.verdict,
            "released": self.released,
            "file": None if self.file is None else str(self.file),
            **({"reason": self.reason} if self.reason else {}),
            "attempts": [attempt.to_dict() for attempt in self.attempts],
        }


@dataclass(frozen=True, eq=False)
class Protection(Sequence[ProtectedSound]):
    """The results of all prompts, in order, and what is promised about what leaves."""

    sounds: Sequence[ProtectedSound]
    promise: str  # one sentence, and what it does not say
    policy: Sequence[str]
    limits: Mapping[str, float | None]  # of each detector; None: it has none
    notes: Sequence[str] = field(default_factory=tuple)  # what could not be done, and why

    def __len__(self) -> int:
        return len(self.sounds)

    def __getitem__(self, number: Any) -> Any:
        return self.sounds[number]

    def __iter__(self) -> Iterator[ProtectedSound]:
        return iter(self.sounds)

    @property
    def exit_code(self) -> int:
        """0 everything was verified and leaves; 1 a copy was found at the end of the attempts;
        3 something could not be judged."""
        verdicts = {sound.verdict for sound in self.sounds}
        if verdicts & {"refused", "reported"}:
            return EXIT_CODES["copy"]
        return EXIT_CODES["not judged"] if "not judged" in verdicts else EXIT_CODES["no copy"]

    def to_dict(self) -> dict[str, Any]:
        """The results for JSON."""
        return {
            "promise": self.promise,
            "policy": list(self.policy),
            "limits": dict(self.limits),
            "notes": list(self.notes),
            "sounds": [sound.to_dict() for sound in self.sounds],
        }


def limits(judge: Judge | JointJudge) -> dict[str, float | None]:
    """The limit of each detector, by its name."""
    return {n: None if rule is None else rule.threshold for n, rule in judge.rules.items()}


def promise(judge: Judge | JointJudge, end: End, allow_unjudged: bool) -> str:
    """What is promised about the sound that leaves, and what is not."""
    index = judge.index
    found = ", ".join(
        f"{name} (limit {'none' if limit is None else f'{limit:.4g}'})"
        for name, limit in limits(judge).items()
    )
    over = f"under these detectors against this index: {found}; "
    over += ", ".join(
        f"index '{part.name}', {len(part)} rows, {part.content[:12]}" for part in parts_of(index)
    )
    over += "."
    if end == "report":
        return f"Nothing is promised: copies are reported and leave all the same, {over}"
    if allow_unjudged:
        return (
            "No output that was judged to be above the limit leaves, but what could not be judged "
            f"does, {over} {NOT_PROMISED}"
        )
    return f"No output above the limit leaves, {over} {NOT_PROMISED}"
