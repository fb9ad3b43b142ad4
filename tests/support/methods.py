"""Every method that does not belong to one model, with settings that act on tiny models."""

from __future__ import annotations

from dataclasses import fields
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from anechoic_lab.guidance import EmbeddingNoise

from anechoic.guidance import ClassifierFree, Progress, TransitionPoint
from support.pool import Pool

OF_ONE_MODEL = {  # needs its latents, statistics or network, or limits: lab/tests/guidance
    "attenuation", "initial-noise", "kernel-gradient", "safe-denoiser", "step-clamp",
}  # fmt: skip
METHODS = {
    point.name: point
    for point in sorted(entry_points(group="anechoic.guidance"), key=lambda point: point.name)
    if point.name not in OF_ONE_MODEL
}
SETTINGS: dict[str, dict[str, Any]] = {  # with which a method acts on two steps of tiny models
    "auto": {"opens": -0.99},
    "substitution": {"opens": -0.99},
    "repellency": {"radius": 1e4},
    "projection": {"opens": -0.99, "limit": -0.995, "start": None},
    "amg": {"c1": 1.0, "c2": 1.0, "c3": 5.0, "lambda_min": -1.0, "lambda_max": -1.0},
    "cads": {"noise_scale": 1.0},
    "during": {"guidance": ClassifierFree(), "start": 0.5, "stop": 1.0},
    "dynamic": {"before": -2.0},
    "interval": {"start": Progress(0.5), "stop": Progress(1.0)},
    "noise": {"std": 1.0},
    "optimize": {"share": 0.01, "iterations": 2},
    "prompted": {"prompt": EmbeddingNoise(std=1.0), "guidance": TransitionPoint()},
    "sequence": {"first": TransitionPoint(at=1.0), "then": ClassifierFree(), "at": 0.5},
    "static": {"before": -2.0, "at": 0.5},
    "volume": {"threshold": -1.0},
}
DISSIMILARITY = "amg, dissimilarity alone"


def method(name: str, images: bool) -> Any:
    point: EntryPoint = METHODS["amg" if name == DISSIMILARITY else name]
    cls = point.load()
    settings = dict(SETTINGS.get(point.name, {}))
    if name == DISSIMILARITY:
        settings |= {"c1": 0.0, "c2": 0.0}
    if "index" in {field.name for field in fields(cls)}:
        settings |= {"index": Pool(images)}
    if "embedder" in {field.name for field in fields(cls)}:
        settings |= {"embedder": Pool(images)}
    return cls(**settings)
