"""The demo's guards at their shipped settings.

Tuned on the duplicated prompts of even rows and reported on those of odd rows.
docs/evidence/demo-model.md has the sweep, docs/evidence/speed.md the savings of `start` and
`every`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from anechoic.guidance import LogSNR, registry
from anechoic.guidance.base import Guidance
from anechoic.guidance.presets import Preset
from anechoic.models import KnownModel
from anechoic.types import Embedder, VectorIndex
from anechoic_lab.demo import assets
from anechoic_lab.demo.assets import CFG_SCALE


@dataclass(frozen=True)
class DemoGuard:
    """One way to generate."""

    label: str
    description: str
    guard: str  # its entry point, "" for the plain pipeline
    settings: Mapping[str, Any]


METHODS: dict[str, DemoGuard] = {
    "none": DemoGuard("unguarded", "The plain pipeline.", "", {}),
    "auto": DemoGuard(
        "auto",
        "No settings: a caption that leads to a training clip gives way to that of a similar clip. "
        "Its limit is read off the index.",
        "auto",
        {},
    ),
    "amg": DemoGuard(
        "full AMG",
        "Steps away from the nearest training clip while the estimate is close to it: weaker "
        "guidance, away from that clip's caption, away from its sound.",
        "amg",
        {"c1": 4.0, "c2": 3.0, "c3": 600.0, "lambda_min": 0.5, "lambda_max": 0.6,
         "gradient": "x0", "start": LogSNR(-2.0), "every": 5},
    ),
    "static": DemoGuard(
        "static transition",
        "No guidance until a fixed noise level.",
        "static",
        {"before": 0.0, "at": LogSNR(1.5)},
    ),
    "dynamic": DemoGuard(
        "dynamic transition",
        "No guidance until each sample has left the basin.",
        "dynamic",
        {"before": 0.0, "fall": 0.15},
    ),
    "opposite": DemoGuard(
        "opposite guidance",
        "Reversed guidance until a fixed noise level.",
        "static",
        {"before": -1.0, "at": LogSNR(-1.0)},
    ),
}  # fmt: skip


def known_model() -> KnownModel:
    """The demo as registered in `anechoic.models`, so that commands accept its name."""
    quantile = assets.calibration().get("copy is the quantile of the nearest of all")
    return KnownModel(
        name="demo",
        pipeline=str(assets.model_folder()),
        index=str(assets.index_folder()),
        steps=assets.STEPS,
        scale=CFG_SCALE,
        guards={
            name: Preset(
                method.guard, method.settings, method.description, "docs/evidence/demo-model.md"
            )
            for name, method in METHODS.items()
            if method.guard
        },
        sound=assets.clip_sound,
        false_positive_rate=None if quantile is None else round(1 - quantile, 6),
        adherence=assets.adherence,
    )


def guidance(
    name: str, index: VectorIndex, embedder: Embedder, scale: float = CFG_SCALE
) -> Guidance | None:
    """The guard with this name, or None for the plain pipeline."""
    chosen = METHODS[name]
    if not chosen.guard:
        return None
    given = {"index": index, "embedder": embedder, "scale": scale}
    return registry.build(chosen.guard, chosen.settings, given)
