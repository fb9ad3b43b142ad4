"""The papers' published settings by name, each on one of the methods.

They were chosen for the models that the papers ran, so they are where a comparison starts, and no
setting for another model: strengths and thresholds belong to a model, its scale, its schedule
and its embedder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from anechoic.guidance.triggers import Timestep


@dataclass(frozen=True)
class Preset:
    """Settings that a paper or its code publishes.

    Args:
        guard: the method, by the name of its entry point.
        settings: its fields; those left out have the method's own defaults.
        steps: of the sampler; None: not published.
        about: the model they were published for, and what was not.
        source: the paper.
    """

    guard: str
    settings: Mapping[str, Any]
    about: str
    source: str
    steps: int | None = None


AUDIO = "Messina et al., 2025 (arXiv:2509.14934)"
BASIN = "Jain et al., 2025 (arXiv:2411.16738)"
# the constants of the authors' code hold for what that code computes, which differs from the paper
CODE: Mapping[str, Any] = {"scale": 7.0, "parity": "reference", "estimate": "cond"}

PRESETS: dict[str, Preset] = {
    "amg-audio": Preset(
        "amg",
        {**CODE, "c1": 4.0, "c2": 3.0, "c3": 100.0, "lambda_min": 0.7, "lambda_max": 0.8},
        "Stable Audio Open with CLAP; the demo of the authors' code",
        AUDIO,
        steps=100,
    ),
    "amg-audio-experiments": Preset(
        "amg",
        {**CODE, "c1": 6.0, "c2": 6.0, "c3": 1000.0, "lambda_min": 0.7, "lambda_max": 0.8},
        "Stable Audio Open with CLAP; the experiments of the authors' code, the thresholds from "
        "its demo",
        AUDIO,
        steps=100,
    ),
    "amg-audio-low-threshold": Preset(
        "amg",
        {**CODE, "c1": 4.0, "c2": 3.0, "c3": 100.0, "lambda_min": 0.4, "lambda_max": 0.5},
        "Stable Audio Open with CLAP; the thresholds of a follow-up study, the strengths from "
        "the demo",
        AUDIO,
        steps=100,
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
    """A method, and the settings that its name brings."""

    guard: str
    settings: Mapping[str, Any] = field(default_factory=dict)


def resolve(name: str) -> Resolved:
    """The method behind a name: that of a preset with its settings, or the name itself with none.

    >>> resolve("basin-laion-opposite").settings["before"]
    -2.0
    >>> resolve("static")
    Resolved(guard='static', settings={})
    """
    if name not in PRESETS:
        return Resolved(name)
    return Resolved(PRESETS[name].guard, PRESETS[name].settings)
