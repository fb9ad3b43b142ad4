"""The table of pipelines: how each calls its network and encodes its prompts.

The order of the two halves, what stands in the unconditional one and how a caption is encoded
differ between pipelines, and a wrong guess runs without an error. So: an explicit table.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from anechoic.errors import GuardError, UnsupportedPipeline


class Adapter(Protocol):
    """What the guard needs to know of a pipeline."""

    network: nn.Module
    sample_rate: int

    def attach(self, begin: Callable[[], None]) -> None:
        """Listen to the pipeline; call `begin` when it starts a generation."""

    def detach(self) -> None:
        """Leave the pipeline as it was."""

    def condition(self, kwargs: Mapping[str, Any], half: str) -> dict[str, Any]:
        """The network's keyword arguments for one half, "cond" or "uncond"."""
        ...

    def captions(self, kwargs: Mapping[str, Any], captions: Sequence[str]) -> dict[str, Any]:
        """The keyword arguments of the conditional half, with other captions."""
        ...

    def decode(self, x0: Tensor) -> Tensor:
        """Latents to sound [b, c, t], cut to the requested seconds."""
        ...


class StableAudio:
    """`StableAudioPipeline`: [uncond, cond]; the unconditional half attends to zeros."""

    def __init__(self, pipe: Any):
        self.pipe = pipe
        self.network: nn.Module = pipe.transformer
        self.sample_rate: int = pipe.vae.config.sampling_rate
        self._seconds: tuple[float, float] | None = None
        self._cache: dict[str, Tensor] = {}

    def attach(self, begin: Callable[[], None]) -> None:
        pipe, encode_prompt, encode_duration = (
            self.pipe,
            self.pipe.encode_prompt,
            self.pipe.encode_duration,
        )

        def prompt(prompt, device, do_classifier_free_guidance, *args, **kwargs):
            if not do_classifier_free_guidance:
                raise GuardError(
                    "the pipeline was called with guidance_scale <= 1, so there is no "
                    "unconditional half to guide with; call it with guidance_scale=7.0 (any value "
                    "above 1: inside the guard the guidance owns the scale)"
                )
            begin()
            self._cache.clear()
            return encode_prompt(prompt, device, do_classifier_free_guidance, *args, **kwargs)

        def duration(start, end, *args, **kwargs):
            self._seconds = (float(start), float(end))
            return encode_duration(start, end, *args, **kwargs)

        self._encode_prompt = encode_prompt
        pipe.encode_prompt, pipe.encode_duration = prompt, duration

    def detach(self) -> None:
        del self.pipe.encode_prompt, self.pipe.encode_duration  # the class's own show again

    def condition(self, kwargs: Mapping[str, Any], half: str) -> dict[str, Any]:
        rows = len(kwargs["encoder_hidden_states"]) // 2
        which = slice(rows, None) if half == "cond" else slice(None, rows)
        return {
            **kwargs,
            "encoder_hidden_states": kwargs["encoder_hidden_states"][which],
            "global_hidden_states": kwargs["global_hidden_states"][which],
        }

    def captions(self, kwargs: Mapping[str, Any], captions: Sequence[str]) -> dict[str, Any]:
        own = self.condition(kwargs, "cond")
        states = own["encoder_hidden_states"]
        missing = [c for c in dict.fromkeys(captions) if c not in self._cache]
        if missing:
            with torch.no_grad():
                encoded = self._encode_prompt(missing, states.device, False)
            self._cache.update(zip(missing, encoded.to(states.dtype), strict=True))
        text = torch.stack([self._cache[c] for c in captions])
        # the last two tokens are the sample's own start and end in seconds
        return {**own, "encoder_hidden_states": torch.cat([text, states[:, -2:]], 1)}

    def decode(self, x0: Tensor) -> Tensor:
        if self._seconds is None:
            raise GuardError("a duration was expected before the first step, got none")
        start, end = (int(s * self.sample_rate) for s in self._seconds)
        return self.pipe.vae.decode(x0.to(self.pipe.vae.dtype)).sample[:, :, start:end].float()


ADAPTERS: dict[str, Callable[[Any], Adapter]] = {"StableAudioPipeline": StableAudio}


def adapter_for(pipe: Any) -> Adapter:
    """The adapter of this pipeline.

    Raises:
        UnsupportedPipeline: its class is not in the table.
    """
    for cls in type(pipe).__mro__:
        if cls.__name__ in ADAPTERS:
            return ADAPTERS[cls.__name__](pipe)
    raise UnsupportedPipeline(
        f"one of the pipelines {', '.join(ADAPTERS)} was expected, got {type(pipe).__name__}"
    )


def fingerprint(pipe: Any) -> str:
    """A short name of the network's weights, the same in every number format.

    It is made of the signs of the weights, which casting keeps.

    An index can carry the fingerprint of the model whose training set it is.
    """
    digest = hashlib.sha256()
    for name, value in sorted(adapter_for(pipe).network.state_dict().items()):
        signs = torch.signbit(value.flatten()[:1024]).cpu().numpy()
        digest.update(f"{name}{tuple(value.shape)}".encode() + signs.tobytes())
    return digest.hexdigest()[:16]
