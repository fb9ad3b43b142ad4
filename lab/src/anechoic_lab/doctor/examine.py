"""Examines whether a model would run: one question after the other, cheap ones first."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from anechoic.diffusers import lora
from anechoic.diffusers.loading import load_pipeline, usable_device, usable_dtype
from anechoic.diffusers.lora_files import AdapterFile
from anechoic.diffusers.pipelines import adapter_for, default_steps, sound_seconds
from anechoic.diffusers.schedules import check_scheduler
from anechoic.embedders import embedder as make_embedder
from anechoic.engine.model import SEPARATOR, require_own_index
from anechoic.errors import BadSetting, IndexMismatch, UnsupportedPipeline
from anechoic.guidance import ClassifierFree
from anechoic.guidance.base import Guidance
from anechoic.guidance.registry import settings_of
from anechoic.index import JoinedIndex, TrainingIndex
from anechoic.types import LONGER_WINDOW, Embedder, require_whole
from anechoic_lab.doctor.blueprint import (
    Blueprint,
    download_bytes,
    fingerprint_of_files,
    read_blueprint,
)
from anechoic_lab.doctor.latency import gates, measure_latency
from anechoic_lab.doctor.memory import binary, estimate, require_enough
from anechoic_lab.doctor.record import Examination, Wanted

PROMPT = "a solo violin"


def examine(wanted: Wanted, measure: bool = True) -> Examination:
    """Check whether a model can be guarded here, with which settings, and how long it takes.

    Args:
        wanted: what is to run.
        measure: load the model at the end and time it, if no problem was found.

    Raises:
        BadSetting: the device is not available, or the dtype is unknown.
    """
    usable_dtype(wanted.dtype)
    device = usable_device(wanted.device)
    found = Examination()
    blueprint = _model(found, wanted)
    store, embed = _training_set(found, wanted, blueprint)
    guidance = _guard(found, wanted, blueprint, store, embed)
    if blueprint is None:
        return found
    found.memory = memory = estimate(
        blueprint, wanted.dtype, device, wanted.seconds, guidance, store, embed
    )
    reach = guidance.gradient_reach() if guidance else "none"
    found.look("memory", lambda: require_enough(memory, wanted.dtype, device, reach))
    if guidance is not None:
        found.run = _settings(wanted, blueprint, device, guidance)
    if found.ready and measure and guidance is not None:
        prompt = store.captions[0] if store else PROMPT
        found.look("time", partial(_time, found, wanted, device, guidance, prompt))
    return found


# ---------------------------------------------------------------------------------- the model


def _model(found: Examination, wanted: Wanted) -> Blueprint | None:
    read: list[Blueprint] = []

    def model() -> str:
        read.append(read_blueprint(wanted.model))
        return f"{read[0].class_name}, {_count(read[0].parameters)} numbers in {read[0].folder}"

    if not found.look("model", model):
        return None
    found.look("weights", partial(_weights, read[0]))
    found.look("scheduler", partial(_scheduler, read[0]))
    found.look("makes", partial(_makes, read[0], wanted.seconds))
    return read[0]


def _weights(blueprint: Blueprint) -> str:
    if blueprint.missing:
        raise UnsupportedPipeline(_missing_weights(blueprint))
    files = [file for each in blueprint.weights.values() for file in each]
    return (
        f"{binary(sum(file.stat().st_size for file in files))} in {len(files)} files, all complete"
    )


def _missing_weights(blueprint: Blueprint) -> str:
    from huggingface_hub import constants

    problem = f"the weights of {', '.join(blueprint.missing)} are not in '{blueprint.folder}'"
    if Path(blueprint.name).is_dir():
        return f"{problem}; fetch or save the whole pipeline again, with its weights as safetensors"
    # a repository may also hold the same weights in other formats
    fetch = f"'hf download {blueprint.name} --include \"*/*.safetensors\"'"
    if constants.is_offline_mode():
        return f"{problem}, and HF_HUB_OFFLINE is set; unset it, and fetch them with {fetch}"
    size = download_bytes(blueprint.name)
    return f"{problem}; fetch them{'' if size is None else f' ({binary(size)})'} with {fetch}"


def _scheduler(blueprint: Blueprint) -> str:
    scheduler = blueprint.pipe.scheduler
    check_scheduler(scheduler)
    return f"{type(scheduler).__name__}, one that is guarded"


def _makes(blueprint: Blueprint, seconds: float | None) -> str:
    connection = adapter_for(blueprint.pipe)
    if (sound := connection.adapter.sound) is None:
        return "images"
    sound_seconds(blueprint.pipe, seconds)
    longest = sound.longest_s(blueprint.pipe)
    return f"sound at {connection.sample_rate} Hz, up to {longest:.4g} s"


def _made_s(blueprint: Blueprint, wanted: Wanted) -> float | None:
    """Seconds of sound that would be made; None: images."""
    if adapter_for(blueprint.pipe).adapter.sound is None:
        return None
    return wanted.seconds or sound_seconds(blueprint.pipe)


# ---------------------------------------------------------------------- the training set and guard


def _training_set(
    found: Examination, wanted: Wanted, blueprint: Blueprint | None
) -> tuple[TrainingIndex | JoinedIndex | None, Embedder | None]:
    opened: list[TrainingIndex] = []
    stores: list[TrainingIndex | JoinedIndex] = []
    made: list[Embedder] = []
    adapters: list[AdapterFile] = []

    def loras() -> str:
        read = lora.read_all(wanted.loras)
        adapters.extend(adapter for adapter, weight in read if weight)
        return ", ".join(
            f"{adapter.path} ({adapter.fingerprint}) of {adapter.written_by}, weight {weight:g}, "
            f"{len(adapter.parts)} matrices"
            for adapter, weight in read
        )

    def index() -> str:
        opened.extend(map(TrainingIndex.load, wanted.indexes))
        each = [_index(one, blueprint, adapters) for one in opened]
        if len(opened) > 1:
            each = [f"'{one.name}' {said}" for one, said in zip(opened, each, strict=True)]
        stores.append(JoinedIndex.of(opened))
        return "; ".join([*each, *lora.unknown_clips(adapters, opened)])

    def embedder() -> str:
        name = wanted.embedder or opened[0].embedder_name
        made.append(make_embedder(name, trusted=wanted.embedder is not None))
        for each in opened:
            each.check_embedder(made[0])
        return _embedder(made[0], blueprint, wanted)

    if wanted.loras:
        found.look("LoRA", loras)
    usable = bool(wanted.indexes) and found.look("index", index)
    embeds = (wanted.embedder or opened) and found.look("embedder", embedder)
    return (stores[0] if usable else None, made[0] if embeds else None)


def _index(
    index: TrainingIndex, blueprint: Blueprint | None, adapters: Sequence[AdapterFile]
) -> str:
    rows = f"{len(index)} rows by '{index.embedder_name}'"
    if len(index) == 0:
        raise IndexMismatch(f"index '{index.name}' is empty; build it with 'anechoic index build'")
    if index.model is None:
        return f"{rows}; it does not name its model, so it may belong to another one"
    own = None if blueprint is None else fingerprint_of_files(blueprint)
    if own is None:
        return f"{rows}, of model '{index.model}', which cannot be compared without the weights"
    whole = SEPARATOR.join((own, *(adapter.fingerprint for adapter in adapters)))
    require_own_index(index, lambda: whole)
    return f"{rows}, this model's own"


def _embedder(embed: Embedder, blueprint: Blueprint | None, wanted: Wanted) -> str:
    of_images = embed.sample_rate == 0
    kind = "images" if of_images else f"sound at {embed.sample_rate} Hz"
    if blueprint is not None:
        made = _made_s(blueprint, wanted)
        if of_images != (made is None):
            raise UnsupportedPipeline(
                f"embedder '{embed.name}' embeds {kind}, but {blueprint.class_name} makes "
                f"{'images' if made is None else 'sound'}; use an index of that"
            )
        if made is not None:
            require_whole(embed, made, "the generated sound", "protected", LONGER_WINDOW)
    return f"'{embed.name}', its weights are here: {kind} to {embed.dim} numbers"


def _guard(
    found: Examination,
    wanted: Wanted,
    blueprint: Blueprint | None,
    store: TrainingIndex | JoinedIndex | None,
    embed: Embedder | None,
) -> Guidance | None:
    made: list[Guidance] = []

    def guard() -> str:
        made.append(wanted.make(store, embed))
        kind = type(made[0]).__name__
        pipe = blueprint and blueprint.pipe
        distilled = pipe is not None and adapter_for(pipe).adapter.distilled(pipe)
        if distilled and made[0].requires_uncond():
            raise BadSetting(
                f"this model is distilled and has no unconditional prediction, which {kind} needs; "
                "give '--guard auto', which works without one"
            )
        return kind

    # a refused index or embedder has its own finding already
    broken = (bool(wanted.indexes) and store is None) or (store is not None and embed is None)
    if broken:
        return None
    return made[0] if found.look("guard", guard) else None


def _settings(
    wanted: Wanted, blueprint: Blueprint, device: torch.device, guidance: Guidance
) -> dict[str, Any]:
    """The settings that would run, by name."""
    made = _made_s(blueprint, wanted)
    return {
        "guard": type(guidance).__name__,
        **settings_of(guidance),
        "steps": wanted.steps or default_steps(blueprint.pipe),
        **({} if made is None else {"seconds": made}),
        "dtype": wanted.dtype,
        "device": str(device),
    }  # fmt: skip


def _time(
    found: Examination,
    wanted: Wanted,
    device: torch.device,
    guidance: Guidance,
    prompt: str,
) -> str:
    pipe = load_pipeline(wanted.model, str(device), wanted.dtype, loras=wanted.loras)
    pipe.set_progress_bar_config(disable=True)
    steps = found.run["steps"]
    states = {"without a guard": ClassifierFree(), **gates(guidance)}
    found.pace = {
        state: measure_latency(pipe, each, prompt, steps, wanted.seconds)
        for state, each in states.items()
    }
    times = [
        f"{state or 'guarded'}: {pace.sound_s:.3g} s ({pace.evaluation_s:.3g} s an evaluation)"
        for state, pace in found.pace.items()
    ]
    return f"of {steps} steps: {'; '.join(times)}"


def _count(number: int) -> str:
    """A count with a metric suffix.

    >>> _count(1_212_000_000), _count(3_158_000), _count(900)
    ('1.21 G', '3.16 M', '900')
    """
    for letter, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return str(number)
