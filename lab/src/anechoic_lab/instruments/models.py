"""The instruments as registered in `anechoic.models`: no guard is tuned for them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from anechoic.models import KnownModel
from anechoic_lab.demo import assets

SHIPPED = Path(__file__).parent / "data"
SCALE, STEPS = 2.0, 50


def folder(name: str) -> Path:
    """The shipped folder of an instrument, which has the files of the demo's."""
    return assets.require(SHIPPED / name)


def _known(name: str) -> KnownModel:
    made = folder(name)
    quantile = assets.calibration(made)["copy is the quantile of the nearest of all"]
    return KnownModel(
        name=name,
        pipeline=str(assets.model_folder(made)),
        index=str(assets.index_folder(made)),
        loras=assets.adapters(made),
        steps=STEPS,
        scale=SCALE,
        sound=partial(assets.clip_sound, folder=made),
        false_positive_rate=round(1 - quantile, 6),
    )


def drums() -> KnownModel:
    """Drum kits and sound effects."""
    return _known("drums")


def loops() -> KnownModel:
    """Longer sound."""
    return _known("loops")


def lora() -> KnownModel:
    """The demo's model, fine-tuned."""
    return _known("lora")


def flow() -> KnownModel:
    """The flow-matching model."""
    return _known("flow")
