"""Which pipelines can be guarded."""

from __future__ import annotations

import hashlib
import json
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from anechoic.diffusers.adapters import ADAPTERS
from anechoic.diffusers.connection import Connection
from anechoic.errors import BadSetting, UnsupportedPipeline

__all__ = [
    "ADAPTERS",
    "adapter_for",
    "call_arguments",
    "fingerprint",
    "sound_seconds",
    "waveforms",
    "weights_sha256",
]

REFUSED = {  # pipelines that one would expect here, and why they are not
    "MusicLDMPipeline": "it is deprecated in diffusers and cannot encode a prompt with "
    "transformers 5, with a guard or without; use AudioLDM2Pipeline, which has a music model "
    "('cvssp/audioldm2-music')",
}


def adapter_for(pipe: Any) -> Connection:
    """The pipeline and its row of the table: its network, its sample rate.

    Raises:
        UnsupportedPipeline: its class is not in the table.
    """
    for cls in type(pipe).__mro__:
        if cls.__name__ in ADAPTERS:
            return Connection(pipe, ADAPTERS[cls.__name__])
    raise UnsupportedPipeline(unsupported(type(pipe).__name__))


def call_arguments(
    pipe: Any, scale: float, steps: int | None = None, seconds: float | None = None
) -> dict[str, Any]:
    """What a pipeline of sound is called with besides its prompt, under its own names.

    Args:
        pipe: the pipeline.
        scale: of classifier-free guidance; a distilled model is called with none.
        steps: of its sampler; None: its own number.
        seconds: of sound; None: its own length, as `sound_seconds` has it.
    """
    adapter = adapter_for(pipe).adapter
    arguments: dict[str, Any] = {"output_type": "pt"}
    if not adapter.distilled(pipe):
        arguments["guidance_scale"] = scale
    if steps is not None:
        arguments["num_inference_steps"] = steps
    return arguments | length_argument(pipe, seconds)


def length_argument(pipe: Any, seconds: float | None = None) -> dict[str, float]:
    """The argument that has a pipeline make so many seconds of sound; none where it does so anyway.

    Args:
        pipe: the pipeline.
        seconds: None: its own length, as `sound_seconds` has it.
    """
    sound = adapter_for(pipe).adapter.sound
    if sound is None:
        return {}
    if seconds is None and not sound.named and _default(pipe, sound.seconds) is None:
        return {}
    return {sound.seconds: sound_seconds(pipe, seconds)}


def sound_seconds(pipe: Any, seconds: float | None = None) -> float:
    """The length of the sound that a pipeline makes when it is asked for so many seconds.

    Args:
        pipe: a pipeline of sound.
        seconds: None: what it makes when its caller names no length, or its longest if that is
            shorter, as it is for a small model of a class with a long default.

    Raises:
        UnsupportedPipeline: it makes images.
        BadSetting: longer sound than it makes, or none.
    """
    connection = adapter_for(pipe)
    if (sound := connection.adapter.sound) is None:
        raise UnsupportedPipeline(
            f"a model that makes sound was expected, and {type(pipe).__name__} makes images; guard "
            "it in Python: 'with guard(pipe, ...)'"
        )
    longest, own = sound.longest_s(pipe), _default(pipe, sound.seconds)
    if seconds is None and own is not None:
        return min(own, longest)
    return usable_seconds(seconds, longest, connection.sample_rate)


def usable_seconds(seconds: float | None, longest: float, sample_rate: int) -> float:
    """The length of a model's sound; None: its `longest`.

    Raises:
        BadSetting: longer sound than it makes, or less than a sample.
    """
    if seconds is not None and not 1 / sample_rate <= seconds <= longest:
        raise BadSetting(
            f"this model makes up to {longest:g} s of sound, and {seconds:g} were asked for; "
            "change '--seconds'"
        )
    return longest if seconds is None else seconds


def waveforms(made: Any) -> Tensor:
    """The sound [b, c, t] of a pipeline's output, or its images, called with output_type "pt"."""
    audios: Tensor = made.audios if hasattr(made, "audios") else made.images
    return audios[:, None] if audios.dim() == 2 else audios


def unsupported(name: str) -> str:
    """Why a class of pipelines cannot be guarded, in a sentence."""
    if name in REFUSED:
        return f"{name} cannot be guarded: {REFUSED[name]}"
    return (
        f"one of the pipelines {', '.join(ADAPTERS)} was expected, or for 'guard' a "
        f"ConditionedDiffusionModelWrapper of stable-audio-tools, got {name}"
    )


def fingerprint(pipe: Any) -> str:
    """A short name of the network's weights, the same in every number format.

    An index can carry the fingerprint of the model whose training set it is.
    """
    return adapter_for(pipe).fingerprint()


def weights_sha256(pipe: Any) -> str:
    """A hash of the weights of all parts, and of the tokenizer's words."""
    digest = hashlib.sha256()
    for name, part in sorted(pipe.components.items()):
        digest.update(f"{name} {type(part).__name__}".encode())
        if isinstance(part, nn.Module):
            for key, value in sorted(part.state_dict().items()):
                digest.update(f"{key} {value.dtype} {list(value.shape)}".encode())
                raw = value.detach().cpu().contiguous().flatten().view(torch.uint8)
                digest.update(raw.numpy().tobytes())
        elif hasattr(part, "get_vocab"):
            digest.update(json.dumps(part.get_vocab(), sort_keys=True).encode())
    return digest.hexdigest()


def default_scale(pipe: Any) -> float | None:
    """The guidance scale that a pipeline has when its caller names none; None: it is not guided."""
    scale = _default(pipe, "guidance_scale")
    return scale if scale is not None and scale > 1 else None


def default_steps(pipe: Any) -> int:
    """The number of sampler steps that a pipeline makes when its caller names none."""
    adapter = adapter_for(pipe).adapter
    named = _default(pipe, "num_inference_steps")
    return adapter.steps(pipe) if named is None else int(named)


def _default(pipe: Any, argument: str) -> float | None:
    """The number that an argument of a pipeline's call has by default; None: none."""
    default = signature(type(pipe).__call__).parameters[argument].default
    return float(default) if isinstance(default, int | float) else None
