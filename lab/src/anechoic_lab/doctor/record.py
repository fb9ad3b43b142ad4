"""What a doctor is asked, and what is found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from anechoic.errors import AnechoicError
from anechoic.guidance.base import Guidance
from anechoic.index import TrainingIndex
from anechoic.types import Embedder
from anechoic_lab.doctor.footprint import Footprint
from anechoic_lab.doctor.latency import Latency

Make = Callable[[TrainingIndex | None, Embedder | None], Guidance]


@dataclass(frozen=True)
class Wanted:
    """What is to run.

    Args:
        model: folder or hub id of a pipeline.
        make: the guard, from the index and the embedder; None stands for one that was not given.
        index: folder of an index.
        embedder: name of an embedder; None: the one that the index names.
        steps: of the sampler; None: the pipeline's own.
        seconds: of sound; None: the pipeline's longest.
        device: by default a GPU if there is one, or the CPU.
        dtype: "float32", "bfloat16" or "float16".
    """

    model: str
    make: Make
    index: str | None = None
    embedder: str | None = None
    steps: int | None = None
    seconds: float | None = None
    device: str | None = None
    dtype: str = "float32"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what was found, or what is wrong and its mend."""

    name: str
    told: str
    ok: bool = True


@dataclass(frozen=True)
class Memory:
    """Bytes that one generation needs at once, and bytes that are free."""

    weights: int
    embedder: int
    index: int
    footprint: Footprint | None  # None: not known of this pipeline
    free: int

    @property
    def needed(self) -> int:
        peak = self.footprint.peak if self.footprint else 0
        return self.weights + self.embedder + self.index + peak


@dataclass
class Examination:
    """All that was found.

    Attributes:
        findings: in the order they were looked at.
        run: what would run: its settings by name.
        memory: None where the model could not be looked at.
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
        """Note what a question answers, or the sentence in which it is refused."""
        try:
            self.findings.append(Finding(name, ask()))
        except AnechoicError as error:
            self.findings.append(Finding(name, str(error), False))
        return self.findings[-1].ok
