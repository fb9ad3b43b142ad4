"""The request and the findings of an examination."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from anechoic.errors import AnechoicError
from anechoic.guidance.base import Guidance
from anechoic.index import JoinedIndex, TrainingIndex
from anechoic.types import Embedder
from anechoic_lab.doctor.footprint import Footprint
from anechoic_lab.doctor.latency import Latency

Make = Callable[[TrainingIndex | JoinedIndex | None, Embedder | None], Guidance]


@dataclass(frozen=True)
class Wanted:
    """The model, guard and settings to examine.

    Args:
        model: folder or hub id of a pipeline.
        make: builds the guard from the index and the embedder, None if not given.
        indexes: folders of indexes.
        embedder: name of an embedder; None: the one that the index names.
        steps: denoising steps; None: the pipeline's own.
        seconds: length of the sound; None: the pipeline's longest.
        device: by default a GPU if there is one, else the CPU.
        dtype: "float32", "bfloat16" or "float16".
        loras: adapters, FILE or FILE:WEIGHT.
    """

    model: str
    make: Make
    indexes: tuple[str, ...] = ()
    embedder: str | None = None
    steps: int | None = None
    seconds: float | None = None
    device: str | None = None
    dtype: str = "float32"
    loras: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """The result of one question: what was found, or the problem and its fix."""

    name: str
    told: str
    ok: bool = True


@dataclass(frozen=True)
class Memory:
    """Bytes that one generation needs at its peak, and free bytes."""

    weights: int
    embedder: int
    index: int
    footprint: Footprint | None  # None: not known for this pipeline
    free: int

    @property
    def needed(self) -> int:
        peak = self.footprint.peak if self.footprint else 0
        return self.weights + self.embedder + self.index + peak


@dataclass
class Examination:
    """All findings.

    Attributes:
        findings: in the order of the questions.
        run: the settings that would run, by name.
        memory: None if the model could not be read.
        pace: by the state of the guard's gate, "" for a guard without one; empty: not measured.
    """

    findings: list[Finding] = field(default_factory=list)
    run: dict[str, Any] = field(default_factory=dict)
    memory: Memory | None = None
    pace: Mapping[str, Latency] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        return all(finding.ok for finding in self.findings)

    def look(self, name: str, ask: Callable[[], str]) -> bool:
        """Record the answer to a question, or the error message."""
        try:
            self.findings.append(Finding(name, ask()))
        except AnechoicError as error:
            self.findings.append(Finding(name, str(error), False))
        return self.findings[-1].ok
