"""What an operator looks at, for Prometheus."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from anechoic.protection.result import ProtectedSound

SIMILARITY = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 1.0)
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
