"""Models by name, each with its index, its settings and the sound of its training clips.

A package registers a model through the entry point group "anechoic.models": a name, and a function
without arguments that returns a `KnownModel`. A name that no package registers is the folder or
the hub id of a pipeline, or the folder of an index.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING

from anechoic.errors import BadSetting, UnsupportedPipeline
from anechoic.lazy import uncollected
from anechoic.plugins import entry_points

if TYPE_CHECKING:
    from torch import Tensor

    from anechoic.guidance.presets import Preset
    from anechoic.index import Clip

GROUP = "anechoic.models"
CHECKPOINTS = (".ckpt", ".safetensors")  # files of stable-audio-tools
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
SCALE = 7.0  # scale of classifier-free guidance, for a model that names none
LABORATORY = ("demo", "drums", "flow", "loops", "lora")  # models that anechoic-lab registers


@dataclass(frozen=True)
class KnownModel:
    """A model and what comes with it.

    Args:
        name: the name that a user gives.
        pipeline: the folder or hub id of the diffusers pipeline.
        index: the folder of the index of its training set; of a fine-tuned model, of what it was
            fine-tuned on, beside which the index of its base is given, too.
        steps: sampler steps; None: the pipeline's own.
        scale: scale of classifier-free guidance; None: each guard's own.
        guards: guards with settings tuned for this model, by name.
        sound: reads a training clip of the index: sound [c, t] and its sample rate in Hz.
        false_positive_rate: the share of other real sound over the index's own copy threshold.
        loras: adapters that the pipeline has, FILE or FILE:WEIGHT.
        adherence: how well a sound [c, t], of a rate, fits its prompt; None: it cannot say.
    """

    name: str
    pipeline: str
    index: str | None = None
    steps: int | None = None
    scale: float | None = None
    guards: Mapping[str, Preset] = field(default_factory=dict)
    sound: Callable[[Clip], tuple[Tensor, int]] | None = None
    false_positive_rate: float | None = None
    adherence: Callable[[Tensor, int, str], float | None] | None = None
    loras: Sequence[str] = ()


def find(name: str) -> KnownModel:
    """The model that a package registers under a name; any other name is a folder or hub id.

    Raises:
        BadSetting: the package of the model is not installed, or does not load.
    """
    point = _points().get(name)
    if point is None:
        if name in LABORATORY and not Path(name).exists():
            raise BadSetting(
                f"model '{name}' is part of the laboratory, which is not installed; install it "
                "with pip install 'anechoic[lab]', or give a folder or a hub id"
            )
        return KnownModel(name, name)
    try:
        with uncollected():  # most of them import torch
            register = point.load()
    except (ImportError, AttributeError) as error:
        raise BadSetting(
            f"model '{name}' ({point.value}) cannot be loaded ({error}); fix or reinstall the "
            "package that registers it"
        ) from error
    found = register()
    if not isinstance(found, KnownModel):
        raise BadSetting(
            f"expected a KnownModel for model '{name}' ({point.value}), got a "
            f"{type(found).__name__}; fix the package that registers it"
        )
    return found


def model_place(name: str) -> Path | None:
    """The folder or checkpoint of a model on this machine; None where the name can be a hub id.

    Raises:
        UnsupportedPipeline: it is none of these.
    """
    place = Path(name)
    if place.is_dir() or (place.suffix in CHECKPOINTS and place.is_file()):
        return place
    if not place.exists() and HUB_ID.fullmatch(name) and place.suffix not in CHECKPOINTS:
        return None
    raise UnsupportedPipeline(
        f"'{name}' is not a folder; give the folder of a saved diffusers pipeline, a checkpoint of "
        "stable-audio-tools (.safetensors or .ckpt), or a hub id such as "
        "'stabilityai/stable-audio-open-1.0'"
    )


def index_folder(name: str) -> str:
    """The folder of the index that comes with a model; any other name is a folder already.

    Raises:
        BadSetting: as `find`; or the model has no index.
    """
    found = find(name)
    if found.index is None and found.pipeline != name:
        raise BadSetting(f"model '{name}' has no index; give the folder of one")
    return found.index or name


def packages() -> set[str]:
    """The packages that register models; they may define the classes of a pipeline's parts."""
    return {point.module.partition(".")[0] for point in _points().values()}


def _points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}
