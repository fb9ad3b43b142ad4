"""Published settings of the papers, by name.

They were chosen for the models in the papers. Start a comparison from them, but do not expect them
to suit another model: strengths and thresholds belong to a model, its scale, its schedule and its
embedder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from anechoic.guidance.triggers import Timestep


@dataclass(frozen=True)
class Preset:
    """Settings that a paper or its code publishes.

    Args:
        guard: the name of the method's entry point.
        settings: values of its fields; the others have the method's defaults.
        about: the model that they were published for, and what was not published.
        source: the paper.
        steps: sampler steps; None: not published.
    """

    guard: str
    settings: Mapping[str, Any]
    about: str
    source: str
    steps: int | None = None


AUDIO = "Messina et al., 2025 (arXiv:2509.14934)"
BASIN = "Jain et al., 2025 (arXiv:2411.16738)"


def _amg(strengths: Sequence[float], gate: tuple[float, float], origin: str) -> Preset:
    """Constants of the authors' code, for its formula, which differs from the paper's."""
    constants = dict(zip(("c1", "c2", "c3"), strengths, strict=True))
    lambdas = dict(zip(("lambda_min", "lambda_max"), gate, strict=True))
    settings = {"scale": 7.0, "parity": "reference", "estimate": "cond", **constants, **lambdas}
    return Preset("amg", settings, f"Stable Audio Open with CLAP; {origin}", AUDIO, steps=100)


PRESETS: dict[str, Preset] = {
    "amg-audio": _amg((4.0, 3.0, 100.0), (0.7, 0.8), "the demo of the authors' code"),
    "amg-audio-experiments": _amg(
        (6.0, 6.0, 1000.0),
        (0.7, 0.8),
        "the experiments of the authors' code, the thresholds from its demo",
    ),
    "amg-audio-low-threshold": _amg(
        (4.0, 3.0, 100.0),
        (0.4, 0.5),
        "the thresholds of a follow-up study, the strengths from the demo",
    ),
    "basin-laion-zero": Preset(
        "static",
        {"scale": 7.5, "before": 0.0, "at": Timestep(500)},
        "Stable Diffusion 2.1 fine-tuned on LAION-10k: no guidance to t = 500",
        BASIN,
    ),
    "basin-laion-opposite": Preset(
        "static",
        {"scale": 7.5, "before": -2.0, "at": Timestep(650)},
        "Stable Diffusion 2.1 fine-tuned on LAION-10k: opposite guidance to t = 650",
        BASIN,
    ),
    "basin-imagenette-600": Preset(
        "static",
        {"scale": 7.5, "before": 0.0, "at": Timestep(600)},
        "Stable Diffusion 2.1 fine-tuned on Imagenette: no guidance to t = 600; the scale from "
        "LAION-10k",
        BASIN,
    ),
    "basin-imagenette-700": Preset(
        "static",
        {"scale": 7.5, "before": 0.0, "at": Timestep(700)},
        "Stable Diffusion 2.1 fine-tuned on Imagenette: no guidance to t = 700; the scale from "
        "LAION-10k",
        BASIN,
    ),
    "basin-dynamic": Preset(
        "dynamic",
        {"scale": 7.5, "before": 1.0, "fall": None},
        "Stable Diffusion 1.4: scale 1 until each sample's first local minimum of d_t, as in the "
        "authors' code (the text says 0)",
        BASIN,
    ),
    "basin-dynamic-zero": Preset(
        "dynamic",
        {"scale": 7.5, "before": 0.0, "fall": None},
        "Stable Diffusion 1.4: no guidance until each sample's first local minimum of d_t, as in "
        "the text (the authors' code has scale 1)",
        BASIN,
    ),
}


@dataclass(frozen=True)
class Resolved:
    """A method, and the settings that come with its name."""

    guard: str
    settings: Mapping[str, Any] = field(default_factory=dict)


def resolve(name: str) -> Resolved:
    """The method and settings of a preset; any other name is a method without settings.

    >>> resolve("basin-laion-opposite").settings["before"]
    -2.0
    >>> resolve("static")
    Resolved(guard='static', settings={})
    """
    if name not in PRESETS:
        return Resolved(name)
    return Resolved(PRESETS[name].guard, PRESETS[name].settings)
