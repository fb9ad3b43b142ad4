"""What an operator looks at, for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from threading import Lock

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.metrics_core import Metric

from anechoic.protection.result import ProtectedSound

SIMILARITY = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 1.0)
OWN = "anechoic_"  # how the names of the service's own metrics begin
SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0)


class Metrics:
    """Counters of one service, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.sounds = Counter(
            "anechoic_sounds", "Sounds by what became of them.", ["verdict"], registry=registry
        )
        self.attempts = Counter(
            "anechoic_attempts",
            "Generations by what they were and what the detectors said.",
            ["attempt", "verdict"],
            registry=registry,
        )
        self.similarity = Histogram(
            "anechoic_similarity",
            "Of each generation to the nearest training clip; first: the first attempts, others: "
            "the attempts after them.",
            ["attempt"],
            buckets=SIMILARITY,
            registry=registry,
        )
        self.generation = Histogram(
            "anechoic_generation_seconds",
            "Of one generation in its batch.",
            buckets=SECONDS,
            registry=registry,
        )
        self.batch = Histogram(
            "anechoic_batch_sounds",
            "Sounds that were generated at once.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=registry,
        )
        self.checks = Counter(
            "anechoic_checks", "Files that were checked, by verdict.", ["verdict"],
            registry=registry,
        )  # fmt: skip
        self.requests = Histogram(
            "anechoic_request_seconds",
            "Of a request until its answer, by its route and status.",
            ["route", "status"],
            buckets=SECONDS,
            registry=registry,
        )
        self.waiting = Gauge("anechoic_queue_sounds", "Sounds that wait.", registry=registry)
        self.abandoned = Counter(
            "anechoic_abandoned",
            "Requests that nobody waited for any longer.",
            ["reason"],
            registry=registry,
        )
        self.ready = Gauge(
            "anechoic_ready", "1 if sound can be generated and verified.", registry=registry
        )
        for verdict in ("released", "regenerated", "refused", "not judged"):
            self.sounds.labels(verdict)  # a rate needs its zero

    def sound(self, sound: ProtectedSound) -> None:
        """Count a sound and its attempts."""
        self.sounds.labels(sound.verdict).inc()
        for attempt in sound.attempts:
            self.attempts.labels(attempt.kind, attempt.status).inc()
            self.generation.observe(attempt.seconds)
            nearest = next(iter(attempt.judgement.verdicts.values()), None)
            if nearest is not None and nearest.clip is not None:
                which = "first" if attempt.kind == "first" else "others"
                self.similarity.labels(which).observe(nearest.score)

    def text(self) -> bytes:
        """The format that Prometheus reads."""
        return generate_latest(self.registry)

    def families(self) -> list[Metric]:
        """The service's own, without those of its process."""
        return [one for one in self.registry.collect() if one.name.startswith(OWN)]


@dataclass
class Board:
    """What several services counted, each by a name of its own.

    Args:
        seconds: after which one that tells nothing has ended. What it counted stays.
    """

    seconds: float = 30.0
    _told: dict[str, tuple[float, Sequence[Metric]]] = field(default_factory=dict)
    _one_at_a_time: Lock = field(default_factory=Lock)

    def put(self, name: str, families: Sequence[Metric]) -> None:
        """Note what a service has counted until now."""
        with self._one_at_a_time:
            self._told[name] = (time.monotonic(), families)

    def text(self) -> bytes:
        """All of it as one, in the format that Prometheus reads."""
        with self._one_at_a_time:
            told = list(self._told.values())
        since = time.monotonic() - self.seconds
        return generate_latest(_Sum([(at > since, families) for at, families in told]))


@dataclass(frozen=True)
class _Sum:
    """What services counted, as one collector: whether each still runs, and what it told."""

    told: Sequence[tuple[bool, Sequence[Metric]]]

    def collect(self) -> Iterable[Metric]:
        merged: dict[str, Metric] = {}
        values: dict[str, dict[tuple[str, frozenset[tuple[str, str]]], list[float]]] = {}
        for runs, families in self.told:
            for family in families:
                if family.type == "gauge" and not runs:
                    continue
                about = Metric(family.name, family.documentation, family.type)
                merged.setdefault(family.name, about)
                found = values.setdefault(family.name, {})
                for one in family.samples:
                    key = (one.name, frozenset(one.labels.items()))
                    found.setdefault(key, []).append(one.value)
        for name, family in merged.items():
            for (sample, labels), counted in values[name].items():
                # ready if all are, and counted since the first began
                least = sample == f"{OWN}ready" or sample.endswith("_created")
                family.add_sample(sample, dict(labels), min(counted) if least else sum(counted))
            yield family
